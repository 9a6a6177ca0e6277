"""CPU of this process per call to Stripe: through the gateway, through stripe-python alone, and as bare HTTP."""

import http.client
import json
import time
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import requests
import stripe

from bench._ground import KEY, house, sandbox
from billing import gateway
from sandbox.calls import Api

CALLS = 1_000
ROUNDS = 3


def main() -> None:
    with sandbox() as api, house(api) as product:
        customer = api.post("/v1/customers", name="A business")["id"]
        price = api.post(
            "/v1/prices", currency="usd", unit_amount=3_100, recurring={"interval": "month"},
            product=api.post("/v1/products", name="Pages")["id"],
        )["id"]  # fmt: skip
        card = api.post("/v1/payment_methods/pm_card_visa/attach", customer=customer)["id"]
        subscription = api.post(
            "/v1/subscriptions", customer=customer, items=[{"price": price}], default_payment_method=card
        )["id"]
        ours = gateway.connect(product, "")
        bare, client = Bare(api), client_of(api)
        report(
            "read a subscription",
            lambda number: bare.get(f"/v1/subscriptions/{subscription}"),
            lambda number: client.v1.subscriptions.retrieve(subscription),
            lambda number: ours.subscription(subscription),
        )
        balance = f"/v1/customers/{customer}/balance_transactions"
        report(
            "credit a customer's balance",
            lambda number: bare.post(balance, {"amount": -1, "currency": "usd"}, f"bare-{number}"),
            lambda number: client.v1.customers.balance_transactions.create(
                customer, {"amount": -1, "currency": "usd"}, {"idempotency_key": f"client-{number}"}
            ),
            lambda number: ours.create_balance_entry(customer, {"amount": -1, "currency": "usd"}, f"ours-{number}"),
        )


def report(what: str, bare: "Call", client: "Call", ours: "Call") -> None:
    """Each in turn, several times over; of each the best round counts."""
    best = [min(cpu(call, turn) for turn in range(ROUNDS)) for call in (bare, client, ours)]
    print(f"\n  {what:<34}{'CPU, ms':>9}{'ratio':>8}")
    for words, took in zip(("bare http.client and json", "stripe-python", "our gateway"), best, strict=True):
        print(f"  {words:<34}{took * 1000:>9.3f}{took / best[0]:>8.2f}")


def cpu(call: "Call", turn: int) -> float:
    """Seconds of this process's CPU for one call; the server is another process."""
    call(-turn - 1)
    began = time.process_time()
    for number in range(turn * CALLS, (turn + 1) * CALLS):
        call(number)
    return (time.process_time() - began) / CALLS


class Bare:
    """The least that a call costs: one connection, form encoding, JSON."""

    def __init__(self, api: Api) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(api.base).netloc)
        self._headers = {"Authorization": f"Bearer {KEY}"}

    def get(self, path: str) -> object:
        self._connection.request("GET", path, headers=self._headers)
        return json.loads(self._connection.getresponse().read())

    def post(self, path: str, body: dict[str, object], key: str) -> object:
        headers = {**self._headers, "Idempotency-Key": key, "Content-Type": "application/x-www-form-urlencoded"}
        self._connection.request("POST", path, urlencode(body), headers)
        return json.loads(self._connection.getresponse().read())


def client_of(api: Api) -> stripe.StripeClient:
    session = requests.Session()
    session.trust_env = False
    return stripe.StripeClient(
        KEY, base_addresses={"api": api.base}, max_network_retries=0, http_client=stripe.RequestsClient(session=session)
    )


Call = Callable[[int], object]

if __name__ == "__main__":
    main()
