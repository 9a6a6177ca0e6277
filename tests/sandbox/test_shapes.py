"""What the sandbox sends is what stripe-python's classes say, and the checker would notice if it were not."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from sandbox.stripe.wire import API_VERSION
from tests.sandbox.conftest import Sandbox
from tests.sandbox.payments import paid, plain
from tests.sandbox.shapes import problems

FIXTURES = Path(__file__).parents[2].parent / "shared" / "data" / "stripe-fixtures.json"


def everything(sandbox: Sandbox, customer: Callable[..., str]) -> dict[str, Any]:
    """One of each object and state that payments know, by name."""
    v1 = sandbox.client.v1
    elm = customer(
        metadata={"agency": "a"}, address={"city": "Elm"}, shipping={"name": "Elm", "address": {"line1": "1"}}
    )
    intent = paid(sandbox.client, 3_100, customer=elm, shipping={"name": "Elm", "address": {"line1": "1"}})
    with pytest.raises(stripe.CardError):
        paid(sandbox.client, 3_100, "pm_card_chargeDeclined")
    declined = v1.payment_intents.list({"limit": 1}).data[0]
    disputed = paid(sandbox.client, 900, "pm_card_createDispute")
    late = v1.refunds.create({"payment_intent": paid(sandbox.client, 800, "pm_card_refundFail").id})
    waiting = v1.refunds.create({"payment_intent": paid(sandbox.client, 800, "pm_card_pendingRefund").id})
    refused = v1.refunds.create({"payment_intent": paid(sandbox.client, 800, "pm_card_refundRefused").id})
    refund = v1.refunds.create(
        {"payment_intent": intent.id, "amount": 100, "reason": "duplicate", "metadata": {"step": "1"}}
    )
    product = v1.products.create(
        {
            "name": "Pages",
            "default_price_data": {"currency": "usd", "unit_amount": 3_100, "recurring": {"interval": "month"}},
        }
    )
    gone = v1.customers.create({}).id
    found: dict[str, Any] = {
        "customer": v1.customers.retrieve(elm, {"expand": ["invoice_credit_balance"]}),
        "deleted customer": v1.customers.delete(gone),
        "payment method": v1.customers.payment_methods.list(elm).data[0],
        "intent": intent,
        "declined intent": declined,
        "intent that asks": paid(sandbox.client, 500, "pm_card_threeDSecure2Required"),
        "manual intent": paid(sandbox.client, 500, capture_method="manual"),
        "charge": v1.charges.retrieve(str(intent.latest_charge), {"expand": ["refunds", "payment_intent", "customer"]}),
        "failed charge": v1.charges.retrieve(str(declined.latest_charge)),
        "disputed charge": v1.charges.retrieve(str(disputed.latest_charge)),
        "refund": refund,
        "waiting refund": waiting,
        "refused refund": refused,
        "dispute": v1.disputes.list().data[0],
        "product": product,
        "price": v1.prices.create(
            {"product": product.id, "currency": "jpy", "unit_amount_decimal": stripe_decimal("12.5")}
        ),
        "balance": v1.balance.retrieve(),
        "balance entry": v1.customers.balance_transactions.create(elm, {"amount": -5, "currency": "usd"}),
        "endpoint": v1.webhook_endpoints.create({"url": "http://127.0.0.1:1/x", "enabled_events": ["account.updated"]}),
        "account": v1.accounts.retrieve_current(),
        "connected account": v1.accounts.create({"type": "standard"}),
        "setup intent": v1.setup_intents.create({"payment_method": "pm_card_visa", "confirm": True}),
    }
    sandbox.advance(3600)
    found["failed refund"] = v1.refunds.retrieve(late.id)
    found |= {f"movement {row.type} {row.id}": row for row in v1.balance_transactions.list({"limit": 100}).data}
    found |= {f"event {row.type} {row.id}": row for row in v1.events.list({"limit": 100}).data}
    return found


def stripe_decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


def test_every_object_and_event_has_stripes_shape(sandbox: Sandbox, customer: Callable[..., str]) -> None:
    wrong = {}
    for name, obj in everything(sandbox, customer).items():
        document = plain(obj)
        found = problems(document)
        if document.get("object") == "event":
            found += problems(document["data"]["object"], path=f"{name}: data")
        if found:
            wrong[name] = found
    assert wrong == {}


def test_every_type_of_event_is_one_of_stripes(sandbox: Sandbox, customer: Callable[..., str]) -> None:
    types = {obj.type for name, obj in everything(sandbox, customer).items() if name.startswith("event ")}
    assert len(types) > 15
    assert [kind for kind in types if problems({**EVENT, "type": kind})] == []


EVENT: dict[str, Any] = {
    "id": "evt_1", "object": "event", "api_version": API_VERSION, "created": 1, "data": {"object": {}},
    "livemode": False,
    "pending_webhooks": 0, "request": {"id": None, "idempotency_key": None}, "type": "refund.created",
}  # fmt: skip


@pytest.fixture
def refund(sandbox: Sandbox, client: StripeClient) -> dict[str, Any]:
    return plain(client.v1.refunds.create({"payment_intent": paid(client, 800).id}))


def _plant(document: dict[str, Any], *path: str, value: Any) -> dict[str, Any]:
    planted = copy.deepcopy(document)
    inner = planted
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return planted


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("order",), None, "refund.order: unknown"),
        (("amount",), "800", "refund.amount: '800' is no int"),
        (("amount",), None, "refund.amount"),
        (("amount",), True, "refund.amount: True is no int"),
        (("pending_reason",), 5, "refund.pending_reason"),
        (("metadata",), {"a": 1}, "refund.metadata.a"),
        (("metadata",), [], "refund.metadata"),
        (("charge",), {"object": "refund"}, "refund.charge"),
        (("destination_details", "card", "type"), 1, "refund.destination_details.card.type"),
        (("destination_details", "nonsense"), {}, "refund.destination_details.nonsense: unknown"),
    ],
)
def test_the_checker_finds_what_is_planted(
    refund: dict[str, Any], path: tuple[str, ...], value: Any, says: str
) -> None:
    assert problems(refund) == []
    [found] = problems(_plant(refund, *path, value=value))
    assert found.startswith(says)


def test_the_checker_misses_what_is_missing(refund: dict[str, Any]) -> None:
    del refund["amount"]
    del refund["reason"]
    assert problems(refund) == ["refund.amount: missing"]


@pytest.mark.skipif(not FIXTURES.exists(), reason="Stripe's sample objects are not on this machine")
def test_the_checker_reads_stripes_own_samples() -> None:
    """Samples of an API three months older: what they lack is newer, and one old field is left over."""
    samples = json.loads(FIXTURES.read_text())["resources"]
    names = ("customer", "price", "product", "refund", "customer_balance_transaction", "payment_method", "balance")
    found = {name: problems(samples[name]) for name in names}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
    assert "invoice.subscription: unknown to Invoice" in problems(samples["invoice"])
