"""What a new sandbox may begin with: nothing, the world of the story, or an account of so many invoices."""

import contextlib
import http.client
import threading
from collections.abc import Callable
from typing import Final

from sandbox import story
from sandbox.calls import Api

KEY: Final = "sk_test_sandbox"
"""The key of the account that is sown."""
BUSINESSES: Final = 2_000
"""In the story."""
MOST: Final = 10_000_000
NEW_YEAR: Final = 1_546_300_800
"""1 January 2019, 00:00 UTC."""
DAY: Final = 86_400
WEEKS: Final = 20
"""For how many weeks each customer of a big account has been billed."""


def checked(seed: str) -> str:
    """The seed, if there is such a one. Raises `ValueError` with a sentence."""
    if seed in ("empty", "story") or (seed.isdecimal() and WEEKS <= int(seed) <= MOST):
        return seed
    raise ValueError(f"{seed!r} is no seed: say empty, story, or a number of invoices from {WEEKS} to {MOST:,}.")


def sow(url: str, seed: str, done: Callable[[], object]) -> None:
    """Fill the empty sandbox at `url` in the background, and call `done` (in that thread) once it is filled."""

    def work() -> None:
        api = Api(url, KEY)
        with contextlib.suppress(OSError, http.client.HTTPException):  # the sandbox was ended meanwhile
            if seed == "story":
                story.tell(api, BUSINESSES)
            elif seed != "empty":
                account_of(api, int(seed))
            done()
        api.close()

    threading.Thread(target=work, name="seed", daemon=True).start()


def account_of(api: Api, invoices: int) -> None:
    """Bill customers by the week, most of them for `WEEKS` weeks, until there are about so many invoices."""
    api.control("clock", {"now": NEW_YEAR})
    product = api.post("/v1/products", name="Pages", metadata={"platform_weights": "facebook=10000"})["id"]
    price = api.post("/v1/prices", product=product, currency="usd", unit_amount=700, recurring={"interval": "week"})
    customers = -(-invoices // WEEKS)
    for number in range(customers):
        if number % -(-customers // 7) == 0:
            api.control("clock", {"advance": DAY})
        customer = api.post("/v1/customers", name=f"Business {number + 1}")["id"]
        card = api.post("/v1/payment_methods/pm_card_visa/attach", customer=customer)["id"]
        api.post("/v1/subscriptions", customer=customer, items=[{"price": price["id"]}], default_payment_method=card)
    api.control("clock", {"advance": (WEEKS - 1) * 7 * DAY})
