"""Refunds that the balance does not cover (docs.stripe.com/refunds; Stripe's help on pending refunds)."""

import json
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from tests.sandbox.conftest import Sandbox
from tests.sandbox.payments import paid, plain
from tests.sandbox.shapes import problems
from tests.sandbox.test_payments import balanced

DAY = 24 * 3600


def test_by_default_the_bank_covers_what_is_missing(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_000)
    # Nothing is available before two days have passed.
    assert client.v1.refunds.create({"payment_intent": intent.id}).status == "succeeded"
    assert sandbox.control("GET", "balance")["covers"] == "bank"
    balanced(sandbox)


def test_a_cards_refund_waits_for_money_and_a_top_up_sends_it(sandbox: Sandbox, client: StripeClient) -> None:
    sandbox.control("POST", "balance", covers="available")
    intent = paid(client, 3_000)
    first = client.v1.refunds.create({"payment_intent": intent.id, "amount": 700})
    second = client.v1.refunds.create({"payment_intent": intent.id, "amount": 500})
    for refund in (first, second):
        assert (refund.status, refund.pending_reason) == ("pending", "insufficient_funds")
        assert problems(plain(refund)) == []
    assert client.v1.charges.retrieve(str(intent.latest_charge)).amount_refunded == 1_200
    # 1,199 covers the first, not both; 0 + 1,199 - 1,200.
    said = sandbox.control("POST", "balance", top_up=1_199)
    assert (said["available"], said["waiting"]) == (-1, [second.id])
    assert client.v1.refunds.retrieve(first.id).status == "succeeded"
    said = sandbox.control("POST", "balance", top_up=1)
    assert (said["available"], said["waiting"]) == (0, [])
    shown = client.v1.refunds.retrieve(second.id)
    assert (shown.status, shown.pending_reason) == ("succeeded", None)
    told = [event.type for event in client.v1.events.list({"limit": 100}).data if event.type.startswith("refund")]
    assert told == ["refund.updated", "refund.updated", "refund.created", "refund.created"]
    [sums] = balanced(sandbox)
    assert (sums["topped_up"], sums["refunded"]) == (1_200, 1_200)


def test_money_that_arrives_sends_it_too(sandbox: Sandbox, client: StripeClient) -> None:
    before = paid(client, 1_000)
    sandbox.control("POST", "balance", covers="available")
    refund = client.v1.refunds.create({"payment_intent": paid(client, 3_000).id, "amount": 3_000})
    assert refund.status == "pending"
    # After two days 1,000 - 59 and 3,000 - 117 are there: 3,824.
    sandbox.advance(2 * DAY)
    assert client.v1.refunds.retrieve(refund.id).status == "succeeded"
    assert sandbox.control("GET", "balance")["available"] == 824
    assert client.v1.refunds.create({"payment_intent": before.id, "amount": 824}).status == "succeeded"
    sandbox.control("POST", "balance", top_up=100, pay_out=60)
    assert client.v1.refunds.create({"payment_intent": before.id, "amount": 41}).status == "pending"
    assert client.v1.balance.retrieve().available[0].amount == sandbox.control("GET", "balance")["available"] == -1
    [sums] = balanced(sandbox)
    assert sums["paid_out"] == 60


def test_a_smaller_refund_does_not_overtake_the_one_that_waits(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_000)
    sandbox.control("POST", "balance", covers="available", top_up=500)
    big = client.v1.refunds.create({"payment_intent": intent.id, "amount": 600})
    small = client.v1.refunds.create({"payment_intent": intent.id, "amount": 100})
    assert (big.status, small.status) == ("pending", "pending")
    assert sandbox.control("POST", "balance", top_up=100)["waiting"] == [small.id]


def test_without_the_guard_all_that_waits_goes(sandbox: Sandbox, client: StripeClient) -> None:
    sandbox.control("POST", "balance", covers="available")
    refund = client.v1.refunds.create({"payment_intent": paid(client, 3_000).id})
    assert sandbox.control("POST", "balance", covers="bank")["waiting"] == []
    assert client.v1.refunds.retrieve(refund.id).status == "succeeded"
    # What was on its way when the guard stood counts once when it stands again: 3,000 - 117 - 3,000.
    sandbox.control("POST", "balance", covers="available")
    sandbox.advance(2 * DAY)
    assert sandbox.control("GET", "balance")["available"] == -117
    assert client.v1.refunds.create({"payment_intent": paid(client, 500).id}).status == "pending"
    assert sandbox.control("POST", "balance", top_up=617)["waiting"] == []


def test_no_other_method_waits(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_000, "pm_usBankAccount_success")
    charge = plain(client.v1.charges.retrieve(str(intent.latest_charge)))
    assert charge["payment_method_details"]["type"] == "us_bank_account"
    sandbox.control("POST", "balance", covers="available")
    failed = client.v1.refunds.create({"payment_intent": intent.id, "amount": 700})
    assert (failed.status, failed.failure_reason) == ("failed", "insufficient_funds")
    assert client.v1.charges.retrieve(str(intent.latest_charge)).amount_refunded == 0
    sandbox.control("POST", "balance", top_up=700)
    sent = client.v1.refunds.create({"payment_intent": intent.id, "amount": 700})
    assert (sent.status, plain(sent)["destination_details"]["type"]) == ("succeeded", "us_bank_transfer")
    method = plain(client.v1.payment_methods.retrieve(str(intent.payment_method)))
    assert [problems(one) for one in (plain(intent), charge, plain(failed), plain(sent), method)] == [[]] * 5
    assert [sums["refunded"] for sums in balanced(sandbox)] == [700]


def test_a_dispute_fails_the_refund_that_waits(sandbox: Sandbox, client: StripeClient) -> None:
    sandbox.control("POST", "balance", covers="available")
    intent = paid(client, 3_000)
    refund = client.v1.refunds.create({"payment_intent": intent.id, "amount": 700})
    dispute = sandbox.control("POST", "disputes", payment_intent=intent.id)
    failed = client.v1.refunds.retrieve(refund.id)
    assert (failed.status, failed.failure_reason) == ("failed", "charge_for_pending_refund_disputed")
    assert dispute["amount"] == 3_000
    sandbox.control("POST", f"disputes/{dispute['id']}/close", outcome="lost")
    sandbox.control("POST", "balance", top_up=100_000)
    assert client.v1.refunds.retrieve(refund.id).status == "failed"
    balanced(sandbox)


def test_a_note_whose_refund_waits(sandbox: Sandbox, client: StripeClient) -> None:
    customer = client.v1.customers.create({"invoice_settings": {}}).id
    card = client.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id
    client.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": card}})
    draft = client.v1.invoices.create({"customer": customer, "currency": "usd"}).id
    client.v1.invoice_items.create({"customer": customer, "invoice": draft, "amount": 3_100, "currency": "usd"})
    client.v1.invoices.finalize_invoice(draft)
    client.v1.invoices.pay(draft)
    sandbox.control("POST", "balance", covers="available")
    note = client.v1.credit_notes.create({"invoice": draft, "amount": 375, "refund_amount": 375})
    assert client.v1.refunds.retrieve(note.refunds[0].refund).pending_reason == "insufficient_funds"
    balanced(sandbox)


def test_transfers_have_the_shape_of_stripes(sandbox: Sandbox, client: StripeClient) -> None:
    sandbox.control("POST", "balance", top_up=500, pay_out=200)
    entries = client.v1.balance_transactions.list({"expand": ["data.source"]}).data
    assert [entry.type for entry in entries] == ["payout", "topup"]
    assert [problems(plain(entry.source)) for entry in entries] == [[], []]
    with pytest.raises(stripe.StripeError) as refused:
        client.v1.topups.list()
    assert refused.value.http_status == 501


@pytest.mark.parametrize(
    "document",
    [{"covers": "nobody"}, {"top_up": 0}, {"top_up": "5"}, {"pay_out": -1}, {"currency": 5}, {"amount": 5}],
)
def test_a_wrong_balance_is_refused_and_changes_nothing(sandbox: Sandbox, document: dict[str, Any]) -> None:
    answer = sandbox.raw("POST", "/_sandbox/balance", json.dumps(document))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert sandbox.control("GET", "balance")["available"] == 0
