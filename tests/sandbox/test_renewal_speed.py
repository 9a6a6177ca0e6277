"""A whole clientele renews in a moment."""

import json
import time
from pathlib import Path
from urllib.parse import urlencode

from sandbox.stripe import resources
from sandbox.stripe.journal import Journal
from sandbox.stripe.service import Call, Service
from sandbox.stripe.universe import Universe
from tests.sandbox.billing_world import DAY, HOUR, at

SUBSCRIPTIONS = 2_000


def post(service: Service, path: str, **params: str) -> dict[str, object]:
    headers = {"authorization": "Bearer sk_test_sandbox"}
    answer = service.answer(Call("POST", path, "", headers, urlencode(params)))
    assert answer.status == 200, answer.body
    found: dict[str, object] = json.loads(answer.body)
    return found


def test_two_thousand_renewals_take_well_under_ten_seconds(tmp_path: Path) -> None:
    resources.load()
    universe = Universe(Journal(tmp_path / "state.jsonl"))
    service = Service(universe)
    universe.now = at(8, 1)
    product = str(post(service, "/v1/products", name="Pages")["id"])
    terms = {"product": product, "currency": "usd", "unit_amount": "3100", "recurring[interval]": "month"}
    price = str(post(service, "/v1/prices", **terms)["id"])
    customers = []
    for _ in range(20):
        customer = str(post(service, "/v1/customers", name="Elm Street Bakery")["id"])
        attached = str(post(service, "/v1/payment_methods/pm_card_visa/attach", customer=customer)["id"])
        post(service, f"/v1/customers/{customer}", **{"invoice_settings[default_payment_method]": attached})
        customers.append(customer)
    for number in range(SUBSCRIPTIONS):
        post(service, "/v1/subscriptions", **{"customer": customers[number % 20], "items[0][price]": price})
    began = time.perf_counter()
    while not universe.advance(at(8, 1) + 31 * DAY + 2 * HOUR):
        pass
    taken = time.perf_counter() - began
    [world] = universe.worlds.values()
    renewed = [row for row in world.each("invoice", status="paid") if row["billing_reason"] == "subscription_cycle"]
    assert len(renewed) == SUBSCRIPTIONS
    # A thousandth of a second or two each on a small machine; ten seconds is the promise.
    assert taken < 10
