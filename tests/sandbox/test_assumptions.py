"""Each open question about Stripe is a switch: what it does by default, and what it does the other way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stripe

from sandbox.stripe.server import start_in_thread
from tests.sandbox.billing_world import DAY, HOUR, Shop, at
from tests.sandbox.conftest import NOON, Sandbox
from tests.sandbox.faulty import Refunding
from tests.sandbox.payments import plain
from tests.sandbox.test_credit_notes import intent_of, note, of_line, paid, refused
from tests.sandbox.test_invoices import by_hand, paid_by


@pytest.fixture
def shop_that(sandbox: Sandbox) -> Callable[..., Shop]:
    """A shop in a sandbox that assumes what is given."""

    def made(**assume: Any) -> Shop:
        sandbox.control("POST", "reset", now=at(7, 1), assume=assume)
        return Shop(sandbox)

    return made


@pytest.mark.parametrize("counts", [False, True])
def test_a_linked_refund_counts_against_what_may_be_credited(shop_that: Callable[..., Shop], counts: bool) -> None:
    shop = shop_that(linked_refund_counts=counts)
    invoice = paid(shop)
    refund = shop.api.refunds.create({"payment_intent": intent_of(shop, invoice), "amount": 2000}).id
    links = [{"refund": refund, "amount_refunded": 2000}]
    # 31.00, of which 20.00 went back: 11.00 is left, and 20.00 more only if the refund does not count.
    if counts:
        assert "more than can still be credited" in str(refused(shop, invoice, of_line(invoice, 2000), refunds=links))
    else:
        assert note(shop, invoice, of_line(invoice, 2000), refunds=links).total == 2000


@pytest.mark.parametrize("says_so", [True, False])
def test_a_replayed_500_says_that_it_is_one(sandbox: Sandbox, says_so: bool) -> None:
    sandbox.control("POST", "reset", now=NOON, assume={"replayed_500_says_so": says_so})
    refunding = Refunding(sandbox)
    refunding.rule("500_before", count=1)
    assert [refunding.send("k").status_code for _ in range(2)] == [500, 500]
    assert ("Idempotent-Replayed" in refunding.send("k").headers) is says_so
    assert [call["replayed"] for call in sandbox.control("GET", "requests")["requests"][-3:]] == [False, True, True]
    refunding.send("other")
    assert refunding.send("other").headers["Idempotent-Replayed"] == "true"
    refunding.close()


@pytest.mark.parametrize(("hours", "refunds"), [(24, 2), (48, 1)])
def test_a_key_is_new_again_after_its_hours(sandbox: Sandbox, hours: int, refunds: int) -> None:
    sandbox.control("POST", "reset", now=NOON, assume={"keys_live_hours": hours})
    refunding = Refunding(sandbox)
    refunding.send("k")
    sandbox.advance(24 * HOUR)
    refunding.send("k")
    assert refunding.refunds() == [100] * refunds
    refunding.close()


def test_which_payment_a_refund_amount_takes(shop_that: Callable[..., Shop]) -> None:
    def taken(which: str) -> list[int]:
        """What went back of the older payment of 88.00 and of the newer one of 5.00."""
        shop = shop_that(refund_amount_takes=which)
        customer = shop.customer()
        invoice = shop.api.invoices.finalize_invoice(by_hand(shop, customer, 9300).id)
        intents = [paid_by(shop, customer, amount) for amount in (8800, 500)]
        for intent in intents:
            shop.api.invoices.attach_payment(invoice.id, {"payment_intent": intent})
        if which == "refused":
            refused(shop, invoice, of_line(invoice, 600), refund_amount=600)
            return [0, 0]
        note(shop, invoice, of_line(invoice, 600), refund_amount=600)
        return [sum(refund.amount for refund in shop.api.refunds.list({"payment_intent": one}).data) for one in intents]

    assert taken("newest") == [100, 500]
    assert taken("oldest") == [600, 0]
    assert taken("refused") == [0, 0]


@pytest.mark.parametrize(
    ("obeys", "behavior", "status", "paid_then"),
    [
        (False, "keep_as_draft", "paid", 3100),
        (False, "void", "paid", 3100),
        (True, "keep_as_draft", "draft", 0),
        (True, "void", "void", 0),
        (True, "mark_uncollectible", "uncollectible", 0),
    ],
)
def test_a_draft_from_before_the_pause(
    shop_that: Callable[..., Shop], obeys: bool, behavior: Any, status: str, paid_then: int
) -> None:
    shop = shop_that(older_drafts_obey_pause=obeys)
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.clock(at(9, 1, 0, 30))
    assert shop.newest(customer).status == "draft"
    shop.api.subscriptions.update(made.id, {"pause_collection": {"behavior": behavior}})
    shop.clock(at(9, 3))
    invoice = shop.newest(customer)
    assert (invoice.status, invoice.amount_paid) == (status, paid_then)


@pytest.mark.parametrize(("releases", "told"), [(False, True), (True, True), (False, False), (True, False)])
def test_what_happens_when_a_pause_ends_by_itself(shop_that: Callable[..., Shop], releases: bool, told: bool) -> None:
    shop = shop_that(resuming_releases_drafts=releases, resuming_is_told=told)
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    pause: Any = {"behavior": "keep_as_draft", "resumes_at": at(9, 10)}
    shop.api.subscriptions.update(made.id, {"pause_collection": pause})
    shop.clock(at(9, 9))
    before = shop.events("customer.subscription.updated")
    assert shop.newest(customer).status == "draft"
    shop.clock(at(9, 12))
    assert shop.subscription(made.id).pause_collection is None
    assert shop.newest(customer).status == ("paid" if releases else "draft")
    assert len(shop.events("customer.subscription.updated")) == len(before) + told


@pytest.mark.parametrize("carries", [False, True])
def test_the_refund_of_a_note_carries_its_metadata(shop_that: Callable[..., Shop], carries: bool) -> None:
    shop = shop_that(note_refund_has_metadata=carries)
    invoice = paid(shop)
    made = note(shop, invoice, of_line(invoice, 375), refund_amount=375, metadata={"step": "7"})
    refund = plain(shop.api.refunds.retrieve(str(made.refunds[0].refund)))
    assert refund["metadata"] == ({"step": "7"} if carries else {})


def test_payments_in_lists_of_invoices(shop_that: Callable[..., Shop]) -> None:
    def asked(how: str) -> Any:
        shop = shop_that(payments_in_lists=how)
        invoice = paid_without_list(shop)
        assert len(shop.api.invoices.retrieve(invoice, {"expand": ["payments"]}).payments.data) == 1
        return plain(shop.api.invoices.list({"expand": ["data.payments"]}).data[0]).get("payments")

    assert len(asked("shown")["data"]) == 1
    assert asked("absent") is None
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        asked("refused")
    assert refusal.value.param == "expand"


def paid_without_list(shop: Shop) -> str:
    return str(shop.subscribe(shop.customer(), shop.price(3100)).latest_invoice)


@pytest.mark.parametrize("can", [True, False])
def test_a_subscription_that_is_past_due_can_be_paused(shop_that: Callable[..., Shop], can: bool) -> None:
    shop = shop_that(past_due_can_be_paused=can)
    customer = shop.customer()
    made = shop.subscribe(customer, shop.price(3100))
    shop.new_card(customer, "pm_card_chargeCustomerFail")
    shop.clock(at(9, 1, 2))
    assert shop.subscription(made.id).status == "past_due"
    if can:
        shop.api.subscriptions.update(made.id, {"pause_collection": {"behavior": "void"}})
    else:
        with pytest.raises(stripe.InvalidRequestError):
            shop.api.subscriptions.update(made.id, {"pause_collection": {"behavior": "void"}})
    assert (shop.subscription(made.id).pause_collection is not None) is can


@pytest.mark.parametrize("creditable", [True, False])
def test_a_note_over_what_the_balance_paid(shop_that: Callable[..., Shop], creditable: bool) -> None:
    shop = shop_that(balance_part_is_creditable=creditable)
    customer = shop.customer()
    shop.api.customers.balance_transactions.create(customer, {"amount": -1240, "currency": "usd"})
    shop.subscribe(customer, shop.price(3100))
    invoice = shop.newest(customer)
    # The card paid 31.00 - 12.40 = 18.60.
    if creditable:
        note(shop, invoice, of_line(invoice, 1861), refund_amount=1860, credit_amount=1)
    else:
        refused(shop, invoice, of_line(invoice, 1861), refund_amount=1860, credit_amount=1)
        note(shop, invoice, of_line(invoice, 1860), refund_amount=1860)


@pytest.mark.parametrize(("counts", "status"), [(False, 200), (True, 429)])
def test_a_note_counts_as_a_refund_for_the_limiter(shop_that: Callable[..., Shop], counts: bool, status: int) -> None:
    shop = shop_that(note_counts_as_refund=counts)
    invoice = paid(shop)
    shop.sandbox.control("POST", "limits", endpoints={"POST /v1/refunds": 0.001})
    form = {"invoice": invoice.id, "amount": 100, "refund_amount": 100}
    assert shop.sandbox.raw("POST", "/v1/credit_notes", form).status_code == 200
    form = {"payment_intent": intent_of(shop, invoice), "amount": 100}
    assert shop.sandbox.raw("POST", "/v1/refunds", form).status_code == status


@pytest.mark.parametrize("days", [None, 3])
def test_how_long_a_refund_waits_for_money(sandbox: Sandbox, days: int | None) -> None:
    sandbox.control("POST", "reset", now=NOON, assume={"refunds_wait_days": days})
    refunding = Refunding(sandbox)
    sandbox.control("POST", "balance", covers="available", pay_out=50_000)
    id = refunding.send().json()["id"]
    sandbox.advance(3 * DAY)
    refund = sandbox.client.v1.refunds.retrieve(id)
    expected = ("pending", None) if days is None else ("failed", "insufficient_funds")
    assert (refund.status, getattr(refund, "failure_reason", None)) == expected
    refunding.close()


@pytest.mark.parametrize("code", ["charge_disputed", "refund_disputed_payment", None])
def test_the_code_of_a_disputed_payment(sandbox: Sandbox, code: str | None) -> None:
    sandbox.control("POST", "reset", now=NOON, assume={"disputed_code": code})
    refunding = Refunding(sandbox)
    sandbox.control("POST", "disputes", payment_intent=refunding.intent)
    error = refunding.send().json()["error"]
    assert error.get("code") == code
    assert "charged back" in error["message"]
    refunding.close()


@pytest.mark.parametrize(
    "document",
    [
        {"assume": {"moon": True}},
        {"assume": []},
        {"assume": {"linked_refund_counts": "yes"}},
        {"assume": {"keys_live_hours": 0}},
        {"assume": {"keys_live_hours": True}},
        {"assume": {"refund_amount_takes": "both"}},
        {"assume": {"refunds_wait_days": "3"}},
        {"assume": {"disputed_code": 5}},
        {"now": "noon"},
        {"then": 5},
    ],
)
def test_a_wrong_reset_is_refused_and_resets_nothing(sandbox: Sandbox, document: dict[str, Any]) -> None:
    customer = sandbox.client.v1.customers.create({}).id
    answer = sandbox.raw("POST", "/_sandbox/reset", json.dumps(document))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert sandbox.client.v1.customers.retrieve(customer).id == customer


def test_assumptions_outlive_a_restart_and_end_with_a_reset(tmp_path: Path) -> None:
    before = Sandbox(start_in_thread(state_file=tmp_path / "state"))
    before.control("POST", "reset", now=NOON, assume={"disputed_code": None, "keys_live_hours": 30})
    before.close()
    after = Sandbox(start_in_thread(state_file=tmp_path / "state"))
    refunding = Refunding(after)
    after.control("POST", "disputes", payment_intent=refunding.intent)
    assert "code" not in refunding.send().json()["error"]
    assert after.control("POST", "reset")["assume"]["keys_live_hours"] == 24
    refunding.close()
    after.close()
