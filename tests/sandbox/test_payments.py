"""Money moves as Stripe's documents and published recordings of its test mode say."""

from collections.abc import Callable
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from tests.sandbox.conftest import Sandbox
from tests.sandbox.payments import paid, plain

HOUR = 3600


def _refuses(call: Callable[[], Any]) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as refused:
        call()
    return refused.value


def balanced(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The ledger's sums, which must add up."""
    sums: list[dict[str, Any]] = sandbox.control("GET", "ledger")["sums"]
    assert [entry["difference"] for entry in sums] == [0] * len(sums)
    return sums


def test_a_payment_is_charged_and_booked(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_100)
    assert (intent.status, intent.amount_received) == ("succeeded", 3_100)
    charge = client.v1.charges.retrieve(str(intent.latest_charge))
    assert (charge.status, charge.captured, charge.amount_captured) == ("succeeded", True, 3_100)
    entry = client.v1.balance_transactions.retrieve(str(charge.balance_transaction))
    # 3,100 x 2.9 % = 89.9, half up 90, and 30: 120.
    assert (entry.amount, entry.fee, entry.net, entry.status) == (3_100, 120, 2_980, "pending")
    assert client.v1.balance.retrieve().pending[0].amount == 2_980
    sandbox.advance(2 * 24 * HOUR)
    assert client.v1.balance.retrieve().available[0].amount == 2_980
    balanced(sandbox)


@pytest.mark.parametrize(
    ("card", "code", "decline"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeCustomerFail", "card_declined", "generic_decline"),
    ],
)
def test_a_decline_leaves_its_intent_and_its_failed_charge(
    sandbox: Sandbox, client: StripeClient, card: str, code: str, decline: str
) -> None:
    error = _refuses(lambda: paid(client, 500, card))
    assert isinstance(error, stripe.CardError)
    assert (error.http_status, error.code, error.error.decline_code) == (402, code, decline)
    [intent] = client.v1.payment_intents.list().data
    assert (intent.status, intent.payment_method) == ("requires_payment_method", None)
    assert intent["last_payment_error"]["decline_code"] == decline
    [charge] = client.v1.charges.list().data
    assert (charge.status, charge.paid, charge.amount_captured) == ("failed", False, 0)
    assert client.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"}).status == "succeeded"
    balanced(sandbox)


def test_cards_that_cannot_be_attached_and_cards_that_can(client: StripeClient) -> None:
    customer = client.v1.customers.create({}).id
    error = _refuses(lambda: client.v1.payment_methods.attach("pm_card_chargeDeclined", {"customer": customer}))
    assert (error.http_status, error.code) == (402, "card_declined")
    one = client.v1.payment_methods.attach("pm_card_chargeCustomerFail", {"customer": customer})
    assert one.id != "pm_card_chargeCustomerFail"
    assert one.customer == customer
    assert [row.id for row in client.v1.payment_methods.list({"customer": customer}).data] == [one.id]
    other = client.v1.customers.create({}).id
    again = _refuses(lambda: client.v1.payment_methods.attach(one.id, {"customer": other}))
    assert again.code == "payment_method_unexpected_state"
    assert client.v1.payment_methods.detach(one.id).customer is None


def test_a_card_whose_bank_asks_for_its_holder_waits(client: StripeClient) -> None:
    intent = paid(client, 500, "pm_card_threeDSecure2Required")
    assert (intent.status, intent.latest_charge) == ("requires_action", None)
    absent = _refuses(lambda: paid(client, 500, "pm_card_threeDSecure2Required", off_session=True))
    assert absent.code == "authentication_required"
    assert client.v1.payment_intents.cancel(intent.id).status == "canceled"


def test_authorized_first_and_captured_in_part(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_000, capture_method="manual")
    assert (intent.status, intent.amount_capturable) == ("requires_capture", 3_000)
    assert client.v1.balance_transactions.list().data == []
    assert _refuses(lambda: client.v1.refunds.create({"payment_intent": intent.id})).http_status == 400
    captured = client.v1.payment_intents.capture(intent.id, {"amount_to_capture": 1_000})
    assert (captured.status, captured.amount_received) == ("succeeded", 1_000)
    error = _refuses(lambda: client.v1.refunds.create({"payment_intent": intent.id, "amount": 1_001}))
    assert str(error.user_message) == "Refund amount ($10.01) is greater than unrefunded amount on charge ($10.00)"
    balanced(sandbox)


def test_amounts_have_stripes_limits(client: StripeClient) -> None:
    create = client.v1.payment_intents.create
    assert _refuses(lambda: create({"amount": 49, "currency": "usd"})).code == "amount_too_small"
    assert _refuses(lambda: create({"amount": 100_000_000, "currency": "usd"})).code == "amount_too_large"
    assert _refuses(lambda: create({"amount": 0, "currency": "usd"})).code == "parameter_invalid_integer"


# --- refunds ----------------------------------------------------------------------------------------------------------


def test_refunds_never_pass_what_was_captured(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_000)
    first = client.v1.refunds.create({"payment_intent": intent.id, "amount": 500, "metadata": {"step": "7"}})
    assert (first.status, first.charge, first.currency) == ("succeeded", intent.latest_charge, "usd")
    error = _refuses(lambda: client.v1.refunds.create({"payment_intent": intent.id, "amount": 3_000}))
    # Published recording of test mode: no code, param amount, and both sums.
    assert (error.http_status, error.code, error.param) == (400, None, "amount")
    assert error.user_message == "Refund amount ($30.00) is greater than unrefunded amount on charge ($25.00)"
    rest = client.v1.refunds.create({"charge": str(intent.latest_charge)})
    assert rest.amount == 2_500
    assert client.v1.charges.retrieve(str(intent.latest_charge)).refunded is True
    again = _refuses(lambda: client.v1.refunds.create({"payment_intent": intent.id}))
    assert (again.http_status, again.code) == (400, "charge_already_refunded")
    assert [sums["refunded"] for sums in balanced(sandbox)] == [3_000]


def test_a_refund_needs_a_payment(client: StripeClient) -> None:
    assert _refuses(lambda: client.v1.refunds.create({"amount": 5})).http_status == 400
    unknown = _refuses(lambda: client.v1.refunds.create({"payment_intent": "pi_unknown"}))
    assert (unknown.http_status, unknown.code, unknown.param) == (400, "resource_missing", "payment_intent")
    gone = _refuses(lambda: client.v1.refunds.retrieve("re_unknown"))
    assert (gone.http_status, gone.code, gone.param) == (404, "resource_missing", "id")
    assert gone.user_message == "No such refund: 're_unknown'"


def test_a_cards_refund_cannot_be_canceled(client: StripeClient) -> None:
    refund = client.v1.refunds.create({"payment_intent": paid(client, 500).id})
    error = _refuses(lambda: client.v1.refunds.cancel(refund.id))
    assert (error.http_status, error.user_message) == (400, "Canceling this refund is unsupported.")


def test_a_refund_that_had_succeeded_fails_later(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 2_000, "pm_card_refundFail")
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    assert refund.status == "succeeded"
    sandbox.advance(HOUR)
    failed = client.v1.refunds.retrieve(refund.id)
    assert (failed.status, failed.failure_reason) == ("failed", "expired_or_canceled_card")
    back = client.v1.balance_transactions.retrieve(str(failed.failure_balance_transaction))
    assert (back.amount, back.type) == (2_000, "refund_failure")
    charge = client.v1.charges.retrieve(str(intent.latest_charge))
    assert (charge.amount_refunded, charge.refunded) == (0, False)
    assert "refund.failed" in [event.type for event in client.v1.events.list().data]
    balanced(sandbox)


def test_a_refund_that_waits_is_settled_by_the_clock(sandbox: Sandbox, client: StripeClient) -> None:
    refund = client.v1.refunds.create({"payment_intent": paid(client, 2_000, "pm_card_pendingRefund").id})
    assert (refund.status, refund.pending_reason) == ("pending", "processing")
    sandbox.advance(HOUR)
    assert client.v1.refunds.retrieve(refund.id).status == "succeeded"
    balanced(sandbox)


def test_a_card_that_refuses_refunds_moves_no_money(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 2_000, "pm_card_refundRefused")
    refund = client.v1.refunds.create({"payment_intent": intent.id})
    assert (refund.status, refund.failure_reason) == ("failed", "expired_or_canceled_card")
    assert client.v1.charges.retrieve(str(intent.latest_charge)).amount_refunded == 0
    assert [sums["refunded"] for sums in balanced(sandbox)] == [0]


def test_a_bank_sends_any_refund_back_on_command(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 2_000)
    refund = client.v1.refunds.create({"payment_intent": intent.id, "amount": 700})
    sandbox.control("POST", f"refunds/{refund.id}/fail", reason="lost_or_stolen_card")
    assert client.v1.refunds.retrieve(refund.id).failure_reason == "lost_or_stolen_card"
    assert client.v1.refunds.create({"payment_intent": intent.id, "amount": 2_000}).status == "succeeded"
    balanced(sandbox)


# --- disputes ---------------------------------------------------------------------------------------------------------


def test_an_open_dispute_refuses_refunds_and_moves_the_money(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_000)
    dispute = sandbox.control("POST", "disputes", payment_intent=intent.id)
    assert (dispute["status"], dispute["amount"]) == ("needs_response", 3_000)
    assert _refuses(lambda: client.v1.refunds.create({"payment_intent": intent.id})).code == "charge_disputed"
    assert [sums["disputed"] for sums in balanced(sandbox)] == [3_000]
    sandbox.control("POST", f"disputes/{dispute['id']}/close", outcome="won")
    assert [sums["disputed"] for sums in balanced(sandbox)] == [0]
    assert client.v1.refunds.create({"payment_intent": intent.id}).status == "succeeded"
    balanced(sandbox)


def test_a_lost_dispute_has_given_the_money_back(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_000)
    dispute = sandbox.control("POST", "disputes", payment_intent=intent.id, amount=1_000)
    client.v1.disputes.close(dispute["id"])
    assert client.v1.disputes.retrieve(dispute["id"]).status == "lost"
    error = _refuses(lambda: client.v1.refunds.create({"payment_intent": intent.id, "amount": 2_001}))
    assert error.param == "amount"
    assert client.v1.refunds.create({"payment_intent": intent.id}).amount == 2_000
    balanced(sandbox)


def test_evidence_decides_as_in_test_mode(client: StripeClient) -> None:
    paid(client, 3_000, "pm_card_createDispute")
    [dispute] = client.v1.disputes.list().data
    won = client.v1.disputes.update(dispute.id, {"evidence": {"uncategorized_text": "winning_evidence"}})
    assert (won.status, len(won.balance_transactions)) == ("won", 2)


# --- customers' balance -----------------------------------------------------------------------------------------------


def test_a_customers_balance_is_the_sum_of_its_entries(sandbox: Sandbox, client: StripeClient) -> None:
    customer = client.v1.customers.create({"name": "Elm"}).id
    entries = client.v1.customers.balance_transactions
    first = entries.create(
        customer, {"amount": -1_240, "currency": "usd", "metadata": {"step": "3"}}, {"idempotency_key": "b"}
    )
    second = entries.create(customer, {"amount": 240, "currency": "usd"})
    assert (first.ending_balance, second.ending_balance, first.type) == (-1_240, -1_000, "adjustment")
    shown = client.v1.customers.retrieve(customer, {"expand": ["invoice_credit_balance"]})
    assert (shown.balance, shown.currency) == (-1_000, "usd")
    assert plain(shown)["invoice_credit_balance"] == {"usd": 1_000}
    assert [entry.id for entry in entries.list(customer).data] == [second.id, first.id]
    [booked, _] = sandbox.control("GET", "ledger")["balance_transactions"]
    assert (booked["metadata"], booked["idempotency_key"]) == ({"step": "3"}, "b")
    error = _refuses(lambda: entries.create(customer, {"amount": -5, "currency": "eur"}))
    assert error.param == "currency"
    balanced(sandbox)


def test_metadata_merges(client: StripeClient) -> None:
    customer = client.v1.customers.create({"metadata": {"a": "1", "b": "2"}}).id
    update = client.v1.customers.update
    assert plain(update(customer, {"metadata": {"b": "", "c": "3"}}))["metadata"] == {"a": "1", "c": "3"}
    assert plain(update(customer, {"metadata": ""}))["metadata"] == {}


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_accounts_do_not_see_each_other(sandbox: Sandbox, client: StripeClient) -> None:
    connected = client.v1.accounts.create({"type": "standard"}).id
    own = client.v1.customers.create({"name": "own"}).id
    theirs = client.v1.customers.create({"name": "theirs"}, {"stripe_account": connected}).id
    assert [row.id for row in client.v1.customers.list().data] == [own]
    assert [row.id for row in client.v1.customers.list({}, {"stripe_account": connected}).data] == [theirs]
    assert _refuses(lambda: client.v1.customers.retrieve(theirs)).http_status == 404
    other = sandbox.client_for("sk_test_other")
    assert other.v1.customers.list().data == []
    stranger = _refuses(lambda: other.v1.customers.list({}, {"stripe_account": connected}))
    assert isinstance(stranger, stripe.PermissionError)
    assert stranger.error.code == "account_invalid"
    client.v1.accounts.delete(connected)
    gone = _refuses(lambda: client.v1.customers.list({}, {"stripe_account": connected}))
    assert isinstance(gone, stripe.PermissionError)


def test_the_ledger_knows_every_refund_and_its_key(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_000)
    refund = client.v1.refunds.create(
        {"payment_intent": intent.id, "amount": 375, "metadata": {"step": "9"}}, {"idempotency_key": "edev:a1:s9:n1"}
    )
    [charge] = sandbox.control("GET", "ledger")["charges"]
    assert (charge["captured"], charge["refunded"], charge["payment_intent"]) == (3_000, 375, intent.id)
    assert charge["refunds"] == [
        {"id": refund.id, "amount": 375, "status": "succeeded", "metadata": {"step": "9"},
         "idempotency_key": "edev:a1:s9:n1", "credit_note": None}
    ]  # fmt: skip
