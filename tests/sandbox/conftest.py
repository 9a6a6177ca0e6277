"""A sandbox of each test's own, in a thread of the test process."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import stripe

from sandbox.stripe.server import Handle, start_in_thread
from sandbox.stripe.wire import API_VERSION

NOON = 1_566_820_800
"""26 August 2019, 12:00 UTC."""


def client_of(url: str, session: requests.Session, key: str = "sk_test_sandbox") -> stripe.StripeClient:
    """Stripe's own client, pointed at a sandbox: no retries, no proxies."""
    session.trust_env = False
    return stripe.StripeClient(
        key, stripe_version=API_VERSION, max_network_retries=0, base_addresses={"api": url},
        http_client=stripe.RequestsClient(timeout=(5, 25), session=session),
    )  # fmt: skip


class Sandbox:
    """A running sandbox: Stripe's client, and its own controls."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.url = handle.url
        self._http = requests.Session()
        self.client = client_of(handle.url, self._http)

    def control(self, method: str, path: str, /, **document: Any) -> Any:
        """One of the sandbox's controls; refuses anything but 200."""
        answer = self._http.request(method, f"{self.url}/_sandbox/{path}", json=document or None, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def raw(self, method: str, path: str, data: Any = None, **headers: str) -> requests.Response:
        """A call by hand, for what Stripe's client would never send."""
        with_key = {"Authorization": "Bearer sk_test_sandbox", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return self._http.request(method, f"{self.url}{path}", data=data, headers=with_key, timeout=120)

    def client_for(self, key: str) -> stripe.StripeClient:
        """Somebody else's key: another account."""
        return client_of(self.url, self._http, key)

    def advance(self, seconds: int) -> int:
        now: int = self.control("POST", "clock", advance=seconds)["now"]
        return now

    def close(self) -> None:
        self.handle.stop()
        self._http.close()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Empty, its clock at `NOON`."""
    running = Sandbox(start_in_thread())
    running.control("POST", "clock", now=NOON)
    yield running
    running.close()


@pytest.fixture
def client(sandbox: Sandbox) -> stripe.StripeClient:
    return sandbox.client


@pytest.fixture
def customer(client: stripe.StripeClient) -> Callable[..., str]:
    """Make a customer whose default card is that of a template; returns its id."""

    def made(card: str | None = "pm_card_visa", **fields: Any) -> str:
        row = client.v1.customers.create({"name": "Elm Street Bakery", "email": "bakery@example.com", **fields})
        if card is not None:
            attached = client.v1.payment_methods.attach(card, {"customer": row.id})
            client.v1.customers.update(row.id, {"invoice_settings": {"default_payment_method": attached.id}})
        return row.id

    return made
