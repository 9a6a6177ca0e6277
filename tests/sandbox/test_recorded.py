"""What the sandbox answers is what was recorded of Stripe's test mode: one fact a row, each with its source.

The recordings are public and not kept here; a row says only what could be read off them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from sandbox.calls import flat
from sandbox.stripe.server import start_in_thread
from tests.sandbox.conftest import NOON, Sandbox

KILN: Final = "Kiln-AI/stripe_world tests/conformance/cassettes, API 2026-08-26.dahlia: "
REFUNDS, ERRORS, MONEY = KILN + "05_refunds_disputes", KILN + "09_error_envelope_400s", KILN + "04_money_path"
LISTS, LEDGER = KILN + "08_pagination_boundary_and_limit_clamps", KILN + "11_ledger_payouts"
SUBSCRIPTIONS, INVOICES = KILN + "12_subscriptions", KILN + "13_invoices"
PAY: Final = "pay-rails/pay test/vcr_cassettes, API 2025-10-29.clover: "
DISPUTED: Final = (
    "scheemunai/agent-artifacts tests/fixtures/stripe/test-refund-dispute-2026-09-06.json, 2026-08-26.dahlia"
)
DAY: Final = 24 * 3600
GONE: Final = object()
"""Instead of a value: the field is not there."""


class Scene:
    """One of everything that the rows speak of, by name."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.ids: dict[str, str] = {}
        self.objects: dict[str, Any] = {}
        customer = self.make("customer", "/v1/customers", email="elm@example.com")
        card = self.make("card", "/v1/payment_methods", type="card", card={"token": "tok_visa"})
        self.make("attached card", f"/v1/payment_methods/{card}/attach", customer=customer)
        self.call("POST", f"/v1/customers/{customer}", invoice_settings={"default_payment_method": card})
        self.make("poor", "/v1/customers")
        self._payments(customer, card)
        self._subscriptions(customer)
        self._invoices(customer)

    def call(self, method: str, path: str, /, **params: Any) -> Any:
        form = urlencode(list(flat(params)))
        if method == "POST":
            return self.sandbox.raw(method, path, form)
        return self.sandbox.raw(method, f"{path}?{form}" if form else path)

    def events(self) -> list[Any]:
        """All, in the order in which they were written."""
        found: list[Any] = []
        more = True
        while more:
            after = {"starting_after": found[-1]["id"]} if found else {}
            page = self.call("GET", "/v1/events", limit=100, **after).json()
            found += page["data"]
            more = page["has_more"]
        return found[::-1]

    def make(self, name: str, path: str, /, **params: Any) -> str:
        answer = self.call("POST", path, **params)
        assert answer.status_code == 200, answer.text
        self.objects[name] = answer.json()
        self.ids[name] = self.objects[name]["id"]
        return self.ids[name]

    def _paid(self, name: str, card: str, /, amount: int = 5_000, **more: Any) -> str:
        self.make(name, "/v1/payment_intents", amount=amount, currency="usd", payment_method=card, confirm=True, **more)
        self.ids[f"{name} charge"] = charge = self.objects[name]["latest_charge"]
        self.objects[f"{name} charge"] = self.call("GET", f"/v1/charges/{charge}").json()
        return charge

    def _payments(self, customer: str, card: str) -> None:
        charge = self._paid("part", card, customer=customer, description="pages")
        self.make("refund", "/v1/refunds", charge=charge, amount=1_500, reason="duplicate", metadata={"p": "1"})
        self.objects["refund entry"] = self._entry("refund")
        self.make("whole refund", "/v1/refunds", charge=self._paid("whole", card, customer=customer))
        self._paid("held", card, customer=customer, capture_method="manual")
        declined = self.call("POST", "/v1/payment_intents", amount=5_000, currency="usd", confirm=True,
                             payment_method="pm_card_chargeDeclined")  # fmt: skip
        self.objects["decline"] = declined.json()["error"]
        self.ids["failed"] = declined.json()["error"]["payment_intent"]["id"]
        for name, template in (("disputed", "createDispute"), ("missing goods", "createDisputeProductNotReceived"),
                               ("asked", "createDisputeInquiry"), ("closed", "createDispute")):  # fmt: skip
            charge = self._paid(name, f"pm_card_{template}", customer=customer)
            [dispute] = self.call("GET", "/v1/disputes", charge=charge).json()["data"]
            self.ids[f"{name} dispute"], self.objects[f"{name} dispute"] = dispute["id"], dispute
        self.call("POST", f"/v1/disputes/{self.ids['closed dispute']}/close")

    def _entry(self, name: str) -> Any:
        return self.call("GET", f"/v1/balance_transactions/{self.objects[name]['balance_transaction']}").json()

    def _subscriptions(self, customer: str) -> None:
        product = self.make("product", "/v1/products", name="Pages")
        price = self.make(
            "price", "/v1/prices", product=product, currency="usd", unit_amount=2_000, recurring={"interval": "month"}
        )
        self.make("subscription", "/v1/subscriptions", customer=customer, items=[{"price": price}])
        first = self.objects["subscription"]["latest_invoice"]
        self.ids["first invoice"], self.objects["first invoice"] = (
            first,
            self.call("GET", f"/v1/invoices/{first}").json(),
        )
        [payment] = self.call("GET", "/v1/invoice_payments", invoice=first).json()["data"]
        self.objects["invoice payment"] = payment
        gone = self.make("canceled", "/v1/subscriptions", customer=customer, items=[{"price": price}])
        self.call("DELETE", f"/v1/subscriptions/{gone}")
        line = {"type": "custom_line_item", "description": "Refund", "quantity": 1, "unit_amount": 500}
        self.make("note", "/v1/credit_notes", invoice=first, refund_amount=500, lines=[line])

    def _invoices(self, customer: str) -> None:
        self.make("waiting item", "/v1/invoiceitems", customer=customer, amount=2_000, currency="usd")
        self.make("empty draft", "/v1/invoices", customer=customer)
        self.make(
            "draft", "/v1/invoices", customer=customer, auto_advance=True, pending_invoice_items_behavior="include"
        )
        for name in ("lost", "drafted and paid"):
            self.make(f"{name} item", "/v1/invoiceitems", customer=customer, amount=2_000, currency="usd")
            self.make(name, "/v1/invoices", customer=customer, pending_invoice_items_behavior="include")
        self.make("finalized", f"/v1/invoices/{self.ids['lost']}/finalize")
        self.make("lost", f"/v1/invoices/{self.ids['lost']}/mark_uncollectible")
        self.make("drafted and paid", f"/v1/invoices/{self.ids['drafted and paid']}/pay")
        self.make("sent", "/v1/invoices", customer=customer, collection_method="send_invoice", days_until_due=3)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    sandbox = Sandbox(start_in_thread())
    sandbox.control("POST", "clock", now=NOON)
    yield Scene(sandbox)
    sandbox.close()


@dataclass(frozen=True)
class Refusal:
    """`{name}` in path, parameters and message is the id of that object of the scene."""

    source: str
    asked: str
    params: dict[str, Any]
    status: int
    code: str | None
    param: str | None
    says: str = ""
    """What its message begins with."""

    def __str__(self) -> str:
        return f"{self.asked} {self.params}"


REFUSALS: Final = [
    Refusal(ERRORS, "GET /v1/customers", {"limit": "abc"}, 400, "parameter_invalid_integer", "limit",
            "Invalid integer: abc"),
    Refusal(ERRORS, "GET /v1/customers", {"wat": "x"}, 400, "parameter_unknown", "wat",
            "Received unknown parameter: wat"),
    Refusal(ERRORS, "POST /v1/customers", {"invoice_settings": {"nope": "x"}}, 400, "parameter_unknown",
            "invoice_settings[nope]", "Received unknown parameter: invoice_settings[nope]"),
    Refusal(ERRORS, "GET /v1/customers", {"starting_after": "cus_aaa"}, 400, "resource_missing", "starting_after",
            "No such customer: 'cus_aaa'"),
    Refusal(ERRORS, "GET /v1/customers", {"starting_after": "{customer}", "ending_before": "{poor}"}, 400, None, None,
            "Received both starting_after and ending_before"),
    # --- refunds
    Refusal(REFUNDS, "POST /v1/refunds", {"amount": 100}, 400, None, None,
            "One of the following params should be provided for this request: payment_intent or charge."),
    Refusal(REFUNDS, "POST /v1/refunds", {"charge": "ch_unknown"}, 404, "resource_missing", "id",
            "No such charge: 'ch_unknown'"),
    Refusal(REFUNDS, "POST /v1/refunds", {"charge": "{part charge}", "amount": 4_000}, 400, None, "amount",
            "Refund amount ($40.00) is greater than unrefunded amount on charge ($35.00)"),
    Refusal(REFUNDS, "POST /v1/refunds", {"charge": "{whole charge}", "amount": 1}, 400, "charge_already_refunded",
            None, "Charge {whole charge} has already been refunded."),
    Refusal(REFUNDS, "POST /v1/refunds", {"charge": "{part charge}", "amount": 0}, 400, "parameter_invalid_integer",
            "amount", "This value must be greater than or equal to 1."),
    Refusal(REFUNDS, "POST /v1/refunds", {"charge": "{part charge}", "amount": -1}, 400, "parameter_invalid_integer",
            "amount", "This value must be greater than or equal to 1."),
    Refusal(REFUNDS, "POST /v1/refunds", {"charge": "{part charge}", "reason": "expired_uncaptured_charge"}, 400, None,
            "reason", "Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer"),
    Refusal(REFUNDS, "POST /v1/refunds", {"payment_intent": "{failed}"}, 400, None, None,
            "This PaymentIntent ({failed}) does not have a successful charge to refund."),
    Refusal(REFUNDS, "POST /v1/refunds", {"payment_intent": "{held}"}, 400, None, None,
            "This uncaptured Charge was created by a PaymentIntent ({held})"),
    Refusal(REFUNDS, "POST /v1/refunds", {"payment_intent": "{disputed}"}, 400, "charge_disputed", None,
            "Charge {disputed charge} has been charged back; cannot issue a refund."),
    Refusal(REFUNDS, "POST /v1/refunds/{refund}/cancel", {}, 400, None, None, "Canceling this refund is unsupported."),
    # --- disputes
    Refusal(REFUNDS, "POST /v1/disputes/{closed dispute}/close", {}, 400, None, None, "This dispute is already closed"),
    Refusal(REFUNDS, "POST /v1/disputes/{closed dispute}", {"evidence": {"uncategorized_text": "x"}}, 400, None, None,
            "This dispute is already closed"),
    Refusal(REFUNDS, "GET /v1/disputes/du_nope", {}, 404, "resource_missing", "dispute", "No such dispute: 'du_nope'"),
    # --- payments
    Refusal(MONEY, "GET /v1/payment_intents/pi_nope", {}, 404, "resource_missing", "intent",
            "No such payment_intent: 'pi_nope'"),
    Refusal(MONEY, "GET /v1/charges/ch_nope", {}, 404, "resource_missing", "id", "No such charge: 'ch_nope'"),
    Refusal(MONEY, "POST /v1/payment_intents", {"amount": 0, "currency": "usd"}, 400, "parameter_invalid_integer",
            "amount"),
    Refusal(LEDGER, "GET /v1/balance_transactions/txn_nope", {}, 404, "resource_missing", "id",
            "No such balance transaction: 'txn_nope'"),
    Refusal(PAY + "test_stripe_handles_exception_when_updating_a_card", "POST /v1/payment_methods/abcd/attach",
            {"customer": "{customer}"}, 404, "resource_missing", "payment_method", "No such PaymentMethod: 'abcd'"),
    Refusal(PAY + "test_stripe_handles_card_declined", "POST /v1/payment_methods/pm_card_chargeDeclined/attach",
            {"customer": "{customer}"}, 402, "card_declined", None, "Your card was declined."),
    # --- subscriptions
    Refusal(PAY + "test_stripe_fails_when_subscribing_with_no_payment_method", "POST /v1/subscriptions",
            {"customer": "{poor}", "items": [{"price": "{price}"}]}, 400, "resource_missing", None,
            "This customer has no attached payment source or default payment method."),
    Refusal(PAY + "test_stripe_handles_exception_when_creating_a_subscription", "POST /v1/subscriptions",
            {"customer": "{customer}", "items": [{"price": "invalid"}]}, 400, "resource_missing", "items[0][price]",
            "No such price: 'invalid'"),
    Refusal(SUBSCRIPTIONS, "POST /v1/subscriptions", {"customer": "{customer}"}, 400, "parameter_missing", "items"),
    Refusal(SUBSCRIPTIONS, "POST /v1/subscriptions",
            {"customer": "{customer}", "items": [{"price": "{price}"}, {"price": "{price}"}]}, 400, None, "plan",
            "Cannot create a Subscription with multiple Subscription Items with the same Price"),
    Refusal(SUBSCRIPTIONS, "POST /v1/subscriptions",
            {"customer": "{customer}", "items": [{"price": "{price}"}], "payment_behavior": "pending_if_incomplete"},
            400, None, "payment_behavior"),
    Refusal(SUBSCRIPTIONS, "DELETE /v1/subscriptions/{canceled}", {}, 404, "resource_missing", "id",
            "No such subscription: '{canceled}'"),
    Refusal(SUBSCRIPTIONS, "POST /v1/subscriptions/{canceled}", {"description": "x"}, 400,
            "invalid_canceled_subscription_fields", None,
            "A canceled subscription can only update its cancellation_details and metadata."),
    Refusal(SUBSCRIPTIONS, "GET /v1/subscription_items", {}, 400, "parameter_missing", "subscription",
            "Missing required param: subscription."),
    Refusal(SUBSCRIPTIONS, "GET /v1/subscription_items/si_nope", {}, 404, None, None,
            "Invalid subscription_item id: si_nope"),
    # --- invoices
    Refusal(INVOICES, "GET /v1/invoices/in_nope", {}, 404, "resource_missing", "invoice", "No such invoice: 'in_nope'"),
    Refusal(INVOICES, "DELETE /v1/invoices/in_nope", {}, 404, "resource_missing", "invoice"),
    Refusal(INVOICES, "POST /v1/invoices/in_nope/send", {}, 404, "resource_missing", "invoice"),
    Refusal(INVOICES, "POST /v1/invoices/in_nope", {"description": "x"}, 404, "resource_missing", "id"),
    Refusal(INVOICES, "POST /v1/invoices/in_nope/pay", {}, 404, "resource_missing", "id"),
    Refusal(INVOICES, "POST /v1/invoices/in_nope/finalize", {}, 404, "resource_missing", "id"),
    Refusal(INVOICES, "POST /v1/invoices/in_nope/void", {}, 404, "resource_missing", "id"),
    Refusal(INVOICES, "POST /v1/invoices/in_nope/mark_uncollectible", {}, 404, "resource_missing", "id"),
    Refusal(INVOICES, "GET /v1/invoiceitems/ii_nope", {}, 404, "resource_missing", "id",
            "No such Invoice Item: 'ii_nope'(livemode=false)"),
    Refusal(INVOICES, "POST /v1/invoices/{first invoice}/pay", {}, 400, None, None, "Invoice is already paid"),
    Refusal(INVOICES, "POST /v1/invoices/{first invoice}/finalize", {}, 400, None, None,
            "This invoice is already finalized"),
    Refusal(INVOICES, "POST /v1/invoices/{first invoice}/void", {}, 400, None, None, "Invoices with `paid` payments"),
    Refusal(INVOICES, "POST /v1/invoices/{draft}/void", {}, 400, None, None, "You can only pass in open invoices."),
    Refusal(INVOICES, "POST /v1/invoices/{first invoice}/mark_uncollectible", {}, 400, None, None,
            "You can only pass in open invoices."),
    Refusal(INVOICES, "POST /v1/invoices/{lost}/mark_uncollectible", {}, 400, None, None,
            "This invoice has already been marked uncollectible."),
    Refusal(INVOICES, "POST /v1/invoices/{first invoice}/send", {}, 400, None, None,
            "This invoice cannot be sent right now."),
    Refusal(INVOICES, "DELETE /v1/invoices/{first invoice}", {}, 400, None, None,
            "You can only delete draft invoices."),
    Refusal(INVOICES, "POST /v1/invoices/{first invoice}", {"description": "x"}, 400, None, "description",
            "Finalized invoices can't be updated in this way"),
    Refusal(INVOICES, "POST /v1/invoices", {"customer": "{customer}", "collection_method": "send_invoice"}, 400, None,
            None),
    Refusal(INVOICES, "POST /v1/invoices", {"customer": "{customer}", "days_until_due": 3}, 400, None, None),
]  # fmt: skip


def _filled(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, ids) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, ids) for inner in value]
    return value.format_map(ids) if isinstance(value, str) else value


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_refusal_is_as_it_was_recorded(scene: Scene, refusal: Refusal) -> None:
    method, path = refusal.asked.split(" ", 1)
    answer = scene.call(method, path.format_map(scene.ids), **_filled(refusal.params, scene.ids))
    error = answer.json()["error"]
    found = (answer.status_code, error.get("code"), error.get("param"))
    assert found == (refusal.status, refusal.code, refusal.param), refusal.source
    assert error["message"].startswith(refusal.says.format_map(scene.ids)), refusal.source
    assert error["type"] == ("card_error" if refusal.status == 402 else "invalid_request_error")


def like(pattern: str) -> Callable[[Any, Scene], bool]:
    return lambda value, scene: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def same(name: str, field: str) -> Callable[[Any, Scene], bool]:
    """The value of that field of another object."""
    return lambda value, scene: value == scene.objects[name][field]


PENDING: Final = {"reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund"}
FACTS: Final[list[tuple[str, str, str, Any]]] = [
    # source, object, field, what stands there
    (REFUNDS, "refund", "status", "succeeded"),
    (REFUNDS, "refund", "reason", "duplicate"),
    (REFUNDS, "refund", "destination_details", {"card": PENDING, "type": "card"}),
    (REFUNDS, "refund", "payment_intent", same("part", "id")),
    (REFUNDS, "refund", "payment_method", same("part", "payment_method")),
    (REFUNDS, "refund", "customer", same("part", "customer")),
    (REFUNDS, "refund", "receipt_number", None),
    (REFUNDS, "refund", "balance_transaction", like("txn_.+")),
    *[(REFUNDS, "refund", name, GONE) for name in ("description", "failure_reason", "next_action", "pending_reason",
                                                   "failure_balance_transaction", "livemode")],
    (REFUNDS, "whole refund", "amount", 5_000),
    (LEDGER, "refund entry", "description", "REFUND FOR CHARGE (pages)"),
    (LEDGER, "refund entry", "fee_details", []),
    (LEDGER, "refund entry", "type", "refund"),
    (LEDGER, "refund entry", "livemode", GONE),
    (MONEY, "part", "capture_method", "automatic_async"),
    (MONEY, "part", "amount_details", {"tip": {}}),
    (MONEY, "part", "client_secret", like(r"pi_\w+_secret_\w+")),
    (MONEY, "held", "status", "requires_capture"),
    (MONEY, "held charge", "captured", False),
    (MONEY, "held charge", "amount_captured", 0),
    (MONEY, "part charge", "refunds", GONE),
    (MONEY, "part charge", "fraud_details", {}),
    (MONEY, "part charge", "payment_method_details.card.checks.cvc_check", "pass"),
    (MONEY, "part charge", "outcome.network_status", "approved_by_network"),
    (PAY + "test_stripe_handles_card_declined", "decline", "advice_code", "try_again_later"),
    (PAY + "test_stripe_handles_card_declined", "decline", "network_decline_code", "01"),
    (MONEY, "decline", "payment_intent.status", "requires_payment_method"),
    (REFUNDS, "card", "card.checks.cvc_check", "unchecked"),
    (REFUNDS, "attached card", "card.checks.cvc_check", "pass"),
    # --- disputes
    (DISPUTED, "disputed dispute", "id", like("du_.+")),
    (DISPUTED, "disputed dispute", "customer", GONE),
    (DISPUTED, "disputed dispute", "status", "needs_response"),
    (DISPUTED, "disputed dispute", "is_charge_refundable", False),
    (DISPUTED, "disputed dispute", "payment_method_details.card",
     {"brand": "visa", "case_type": "chargeback", "network": "visa", "network_reason_code": "10.4"}),
    # Made on the 6th, due at the end of the 14th; NOON is on 26 August 2019.
    (DISPUTED, "disputed dispute", "evidence_details.due_by", NOON + DAY // 2 + 8 * DAY - 1),
    (DISPUTED, "disputed dispute", "balance_transactions.0.description",
     lambda value, scene: value == f"Chargeback withdrawal for {scene.ids['disputed charge']}"),
    (DISPUTED, "disputed dispute", "balance_transactions.0.fee_details.0.description", "Dispute fee"),
    (DISPUTED, "disputed dispute", "balance_transactions.0.status", "available"),
    (LEDGER, "disputed dispute", "balance_transactions.0.fee", 1_500),
    (LEDGER, "asked dispute", "balance_transactions", []),
    (REFUNDS, "asked dispute", "status", "warning_needs_response"),
    (REFUNDS, "asked dispute", "is_charge_refundable", True),
    (REFUNDS, "asked dispute", "payment_method_details.card.case_type", "inquiry"),
    (REFUNDS, "asked dispute", "payment_method_details.card.network_reason_code", "10"),
    (REFUNDS, "missing goods dispute", "payment_method_details.card.network_reason_code", "13.1"),
    (REFUNDS, "missing goods dispute", "reason", "product_not_received"),
    # --- subscriptions and their invoices
    (SUBSCRIPTIONS, "subscription", "status", "active"),
    (SUBSCRIPTIONS, "subscription", "current_period_end", GONE),
    (SUBSCRIPTIONS, "subscription", "items.url", like(r"/v1/subscription_items\?subscription=sub_\w+")),
    (SUBSCRIPTIONS, "first invoice", "billing_reason", "subscription_create"),
    (SUBSCRIPTIONS, "first invoice", "attempt_count", 1),
    (SUBSCRIPTIONS, "first invoice", "auto_advance", False),
    (SUBSCRIPTIONS, "first invoice", "number", like(r"\w+-0001")),
    (SUBSCRIPTIONS, "first invoice", "period_end", same("first invoice", "period_start")),
    (SUBSCRIPTIONS, "first invoice", "lines.data.0.description", "1 × Pages (at $20.00 / month)"),
    (SUBSCRIPTIONS, "first invoice", "lines.data.0.parent.type", "subscription_item_details"),
    (SUBSCRIPTIONS, "first invoice", "lines.data.0.pricing.type", "price_details"),
    (SUBSCRIPTIONS, "first invoice", "lines.data.0.taxes", []),
    (PAY + "test_connect_direct_subscription", "invoice payment", "id", like("inpay_.+")),
    (PAY + "test_connect_direct_subscription", "invoice payment", "is_default", True),
    (PAY + "test_connect_direct_subscription", "invoice payment", "amount_requested", 2_000),
    (PAY + "test_connect_direct_subscription", "invoice payment", "payment.type", "payment_intent"),
    (PAY + "test_connect_direct_subscription", "invoice payment", "status_transitions.canceled_at", None),
    # --- invoices by hand
    (INVOICES, "empty draft", "auto_advance", False),
    (INVOICES, "empty draft", "lines.data", []),
    (INVOICES, "empty draft", "billing_reason", "manual"),
    *[(INVOICES, "empty draft", name, None) for name in ("number", "effective_at", "ending_balance",
                                                         "automatically_finalizes_at", "next_payment_attempt")],
    (INVOICES, "draft", "automatically_finalizes_at", NOON + 3_601),
    (INVOICES, "draft", "next_payment_attempt", NOON + 3_600),
    (INVOICES, "draft", "total", 2_000),
    (INVOICES, "sent", "due_date", NOON + 3 * DAY),
    (INVOICES, "finalized", "status", "open"),
    (INVOICES, "finalized", "attempted", False),
    (INVOICES, "finalized", "number", like(r"\w+-\d{4}")),
    (INVOICES, "drafted and paid", "status", "paid"),
    (INVOICES, "drafted and paid", "attempt_count", 1),
    (INVOICES, "drafted and paid", "effective_at", NOON),
    (INVOICES, "waiting item", "invoice", None),
    (INVOICES, "waiting item", "frozen_fields", []),
    (INVOICES, "waiting item", "period", {"end": NOON, "start": NOON}),
    (INVOICES, "waiting item", "quantity_decimal", "1"),
    # --- credit notes
    *[(PAY + "test_stripe_can_issue_credit_note_for_a_refund_for_Stripe_tax", "note", name, value) for name, value in {
        "number": like(r"\w+-0001-CN-01"), "type": "post_payment", "post_payment_amount": 500, "pre_payment_amount": 0,
        "out_of_band_amount": None, "customer_balance_transaction": None, "status": "issued", "reason": None,
        "shipping_cost": None, "voided_at": None, "total_taxes": [], "pretax_credit_amounts": [],
        "refunds.0.type": "refund", "refunds.0.amount_refunded": 500, "refunds.0.payment_record_refund": None,
        "lines.data.0.type": "custom_line_item", "lines.data.0.unit_amount_decimal": "500",
        "lines.data.0.invoice_line_item": GONE, "lines.data.0.tax_rates": [], "effective_at": NOON,
    }.items()],
]  # fmt: skip


@pytest.mark.parametrize(("source", "name", "field", "expected"), FACTS, ids=[f"{row[1]} {row[2]}" for row in FACTS])
def test_a_field_is_as_it_was_recorded(scene: Scene, source: str, name: str, field: str, expected: Any) -> None:
    found: Any = scene.objects[name]
    for part in field.split("."):
        found = found[int(part)] if isinstance(found, list) else found.get(part, GONE)
    assert expected(found, scene) if callable(expected) else found == expected, f"{found} {source}"


def test_a_limit_out_of_range_is_the_nearest_one_in_it(scene: Scene) -> None:
    """LISTS: 0 answers one, 101 answers a hundred."""
    for number in range(101):
        scene.make(f"many {number}", "/v1/customers", email="many@example.com")
    found = [scene.call("GET", "/v1/customers", email="many@example.com", limit=limit).json() for limit in (0, 101)]
    assert [(len(page["data"]), page["has_more"]) for page in found] == [(1, True), (100, True)]


def test_a_dispute_is_told_of_before_its_payment(scene: Scene) -> None:
    """REFUNDS: the order in which a payment with a dispute card tells of itself."""
    about = [event["type"] for event in scene.events() if scene.ids["disputed charge"] in str(event["data"]["object"])]
    assert about == [
        "charge.succeeded", "charge.dispute.created", "charge.dispute.funds_withdrawn", "payment_intent.succeeded",
    ]  # fmt: skip


def test_a_refund_is_told_of_before_its_charge(scene: Scene) -> None:
    """REFUNDS; DISPUTED: what `charge.refunded` says stood there before."""
    refund, charge = scene.ids["whole refund"], scene.ids["whole charge"]
    wanted = (("refund.created", refund), ("charge.refunded", charge))
    about = [event for event in scene.events() if (event["type"], event["data"]["object"]["id"]) in wanted]
    assert [event["type"] for event in about] == ["refund.created", "charge.refunded"]
    assert about[1]["data"]["previous_attributes"] == {"amount_refunded": 0, "refunded": False}


def test_a_list_by_dispute_finds_nothing(scene: Scene) -> None:
    """LEDGER: although the entries name the dispute as their source."""
    found = {
        name: len(scene.call("GET", "/v1/balance_transactions", source=scene.ids[name]).json()["data"])
        for name in ("refund", "disputed charge", "disputed dispute")
    }
    assert found == {"refund": 1, "disputed charge": 1, "disputed dispute": 0}


def test_the_first_answer_under_a_key_names_itself_as_the_original(scene: Scene) -> None:
    """PAY, any POST: `Idempotency-Key` and `Original-Request` on the first answer already, a refusal's too."""
    for form, status in (({"name": "Elm"}, 200), ({"email": "x", "payment_method": "pm_nope"}, 400)):
        answer = scene.sandbox.raw("POST", "/v1/customers", form, Idempotency_Key=f"first {status}")
        assert (answer.status_code, answer.headers["Idempotency-Key"]) == (status, f"first {status}")
        assert answer.headers["Original-Request"] == answer.headers["Request-Id"]
        assert "Idempotent-Replayed" not in answer.headers
