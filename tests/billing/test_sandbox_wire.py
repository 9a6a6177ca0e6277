"""The gateway and the mirror against the sandbox, over HTTP, as against Stripe."""

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from stripe import WebhookSignature

from billing import following, importing
from billing.answers import Gone, LockedOut, ReadRefused
from billing.check import check
from billing.gateway import Gateway, Outcome, verify
from billing.models import Customer, Invoice, InvoiceLine, Plan, PlanWeight, Subscription
from billing.money import Money
from sandbox.calls import Api
from sandbox.story import AGENCIES, slug, tell
from sandbox.stripe.server import start_in_thread
from tenants.clock import SandboxClock
from tenants.db import OPERATOR, Database
from tenants.models import Agency
from tests.sandbox.billing_world import DAY, HOUR, Shop, at
from tests.sandbox.conftest import Sandbox

KEY = "sk_test_sandbox"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    running = Sandbox(start_in_thread())
    yield running
    running.close()


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return Shop(sandbox)


@pytest.fixture
def stripe_at(sandbox: Sandbox) -> Gateway:
    return Gateway(KEY, sandbox.url)


@pytest.fixture
def house(sandbox: Sandbox, db: Database) -> Any:
    settings = SimpleNamespace(
        stripe_secret_key=KEY, stripe_api_base=sandbox.url, installation="engine01", live=False, stripe_rate=None
    )
    return SimpleNamespace(settings=settings, database=db, clock=SandboxClock(sandbox.url))


@pytest.fixture
def paid(shop: Shop) -> str:
    """An invoice of 31.00 USD that a card has paid."""
    shop.subscribe(shop.customer(), shop.price(3_100))
    return str(shop.api.invoices.list({"limit": 1}).data[0].id)


def note(stripe_at: Gateway, invoice: str, amount: int, **money: Any) -> dict[str, Any]:
    line = stripe_at.invoice(invoice).lines[0].id
    lines = [{"type": "invoice_line_item", "invoice_line_item": line, "amount": amount}]
    return {"invoice": invoice, "lines": lines, "email_type": "none", "metadata": {"step": "7"}, **money}


# Money


def test_a_credit_note_refunds_once_however_often_its_key_is_sent(stripe_at: Gateway, paid: str) -> None:
    body = note(stripe_at, paid, 900, refund_amount=900)
    assert stripe_at.preview_credit_note(body).total == 900
    first = stripe_at.create_credit_note(body, "e1:a1:s7:n0", Money(900, "usd"))
    again = stripe_at.create_credit_note(body, "e1:a1:s7:n0", Money(900, "usd"))
    assert (first.outcome, first.replayed) == ("done", False)
    assert (again.outcome, again.replayed) == ("done", True)
    assert first.fact is not None
    assert again.fact == first.fact
    ((refund, amount),) = first.fact.refunds
    assert amount == 900
    payment = stripe_at.invoice(paid).payments[0]  # type: ignore[index]
    assert [one.id for one in stripe_at.refunds(payment_intent=payment.payment_intent)] == [refund]
    assert [one.id for one in stripe_at.credit_notes(invoice=paid)] == [first.fact.id]
    assert payment.captured == 3_100
    assert [one.invoice_id for one in stripe_at.invoices_paid_by(payment.payment_intent or "")] == [paid]


def test_the_same_key_for_something_else_is_misused(stripe_at: Gateway, paid: str) -> None:
    body = note(stripe_at, paid, 900, refund_amount=900)
    assert stripe_at.create_credit_note(body, "k", Money(900, "usd")).outcome is Outcome.DONE
    more = note(stripe_at, paid, 901, refund_amount=901)
    assert stripe_at.create_credit_note(more, "k", Money(901, "usd")).outcome is Outcome.KEY_MISUSED
    assert stripe_at.void_invoice(paid, "k").outcome is Outcome.KEY_MISUSED


def test_a_different_total_than_expected_is_never_done(stripe_at: Gateway, paid: str) -> None:
    body = note(stripe_at, paid, 900, refund_amount=900)
    assert stripe_at.create_credit_note(body, "k", Money(899, "usd")).outcome is Outcome.UNKNOWN


def test_more_than_was_paid_is_refused(stripe_at: Gateway, paid: str) -> None:
    intent = stripe_at.invoice(paid).payments[0].payment_intent  # type: ignore[index]
    answer = stripe_at.create_refund({"payment_intent": intent, "amount": 3_101}, "k", Money(3_101, "usd"))
    assert (answer.outcome, answer.http_status, answer.param) == ("refused", 400, "amount")
    with pytest.raises(ReadRefused):
        stripe_at.preview_credit_note(note(stripe_at, paid, 3_101, refund_amount=3_101))


def test_a_refund_and_its_charge(stripe_at: Gateway, paid: str) -> None:
    intent = stripe_at.invoice(paid).payments[0].payment_intent  # type: ignore[index]
    body = {"payment_intent": intent, "amount": 100, "metadata": {"step": "8"}}
    answer = stripe_at.create_refund(body, "k", Money(100, "usd"))
    assert answer.fact is not None
    assert (answer.outcome, answer.fact.status) == ("done", "succeeded")
    charge = stripe_at.charge(answer.fact.charge or "")
    assert (charge.captured, charge.refunded, charge.disputed) == (3_100, 100, False)


def test_credit_for_a_customer(shop: Shop, stripe_at: Gateway) -> None:
    customer = shop.customer()
    body = {"amount": -250, "currency": "usd", "metadata": {"step": "9"}}
    answer = stripe_at.create_balance_entry(customer, body, "k")
    assert answer.outcome is Outcome.DONE
    assert stripe_at.customer(customer).balance == -250
    assert [entry.metadata["step"] for entry in stripe_at.balance_entries(customer)] == ["9"]


# Pauses, drafts, open invoices


def test_a_pause_holds_renewals_as_drafts_until_they_are_let_go(shop: Shop, stripe_at: Gateway) -> None:
    subscription = shop.subscribe(shop.customer(), shop.price(3_100)).id
    assert stripe_at.pause(subscription, "keep_as_draft", "inc_1", "k1").outcome is Outcome.DONE
    assert stripe_at.subscription(subscription).pause_incident == "inc_1"
    shop.sandbox.advance(32 * DAY)
    (draft,) = stripe_at.drafts(subscription)
    assert (draft.status, draft.total, draft.auto_advance) == ("draft", 3_100, False)
    lifted = stripe_at.lift(subscription, "k2")
    assert lifted.fact is not None
    assert (lifted.fact.pause_behavior, lifted.fact.pause_incident) == (None, None)
    assert stripe_at.finalize(draft.id, "k3").fact.status == "open"  # type: ignore[union-attr]
    (opened,) = stripe_at.open_invoices(subscription)
    body = note(stripe_at, opened.id, 1_000)
    credited = stripe_at.create_credit_note(body, "k4", Money(1_000, "usd"))
    assert credited.fact is not None
    assert (credited.fact.pre_payment_amount, credited.fact.refunded) == (1_000, 0)
    assert stripe_at.collect(opened.id, "k5").outcome is Outcome.DONE
    shop.sandbox.advance(2 * HOUR)
    collected = stripe_at.invoice(opened.id)
    # 31.00 - 10.00 credited before it was paid
    assert (collected.status, collected.amount_paid) == ("paid", 2_100)


def test_an_open_invoice_is_stopped_and_voided(shop: Shop, stripe_at: Gateway) -> None:
    subscription = shop.subscribe(
        shop.customer(), shop.price(3_100), collection_method="send_invoice", days_until_due=30
    ).id
    shop.sandbox.advance(2 * HOUR)
    (opened,) = stripe_at.open_invoices(subscription)
    stopped = stripe_at.stop_collecting(opened.id, "k1")
    assert stopped.fact is not None
    assert not stopped.fact.auto_advance
    assert stripe_at.void_invoice(opened.id, "k2").outcome is Outcome.DONE
    assert stripe_at.void_invoice(opened.id, "k3").outcome is Outcome.REFUSED


# The rest of the wire


def test_accounts_do_not_see_each_other(sandbox: Sandbox, paid: str) -> None:
    account = sandbox.client.v1.accounts.create({"type": "standard"}).id
    connected = Gateway(KEY, sandbox.url, account)
    assert connected.account_fact().id == account
    with pytest.raises(Gone):
        connected.invoice(paid)
    assert Gateway(KEY, sandbox.url).invoice(paid).id == paid


def test_a_key_that_is_none_is_locked_out(sandbox: Sandbox) -> None:
    with pytest.raises(LockedOut):
        Gateway("nonsense", sandbox.url).available_balance()


def test_events_are_listed_and_their_signature_is_checked(shop: Shop, stripe_at: Gateway, paid: str) -> None:
    types = [event.type for event in stripe_at.events()]
    assert types.index("invoice.paid") >= 0
    assert types.index("customer.created") > types.index("invoice.paid"), "newest first"
    raw = shop.sandbox.raw("GET", "/v1/events?limit=1").text
    event = raw[raw.index('{"id"', 1) : raw.rindex("]")] if '{"id"' in raw[1:] else raw
    header = WebhookSignature.generate_signature_header(event, "whsec_1", at(8, 1))
    assert verify(event.encode(), header, ["whsec_1"], at(8, 1)).id.startswith("evt_")


# The mirror


def busy(shop: Shop) -> None:
    """Customers with what makes invoices differ: several items, discount, tax, an upgrade, a card that declines."""
    vat = shop.api.tax_rates.create({"display_name": "VAT", "percentage": 19, "inclusive": True}).id
    sales = shop.api.tax_rates.create({"display_name": "Sales", "percentage": 8.25, "inclusive": False}).id
    coupon = shop.api.coupons.create({"percent_off": 25, "duration": "forever"}).id
    month, week, year = shop.price(3_100), shop.price(700, "week"), shop.price(30_000, "year")
    yen = shop.price(2_900, currency="jpy")
    shop.subscribe(shop.customer(), month, week, default_tax_rates=[vat])
    shop.subscribe(shop.customer(), year, default_tax_rates=[sales], discounts=[{"coupon": coupon}])
    shop.subscribe(shop.customer(), yen, trial_period_days=10)
    upgraded = shop.subscribe(shop.customer(), month)
    shop.sandbox.advance(12 * DAY)
    shop.api.subscriptions.update(upgraded.id, {"items": [{"id": upgraded["items"].data[0].id, "quantity": 3}]})
    declines = shop.customer()
    shop.subscribe(declines, month)
    shop.new_card(declines, "pm_card_chargeCustomerFail")
    shop.sandbox.advance(14 * DAY)


def test_a_busy_account_is_mirrored_to_the_last_column(shop: Shop, house: Any, stripe_at: Gateway) -> None:
    busy(shop)
    shop.sandbox.advance(20 * DAY)
    report = importing.import_account(house, "")
    assert report.warnings == []
    assert report.objects["customers"] == 5
    assert report.objects["invoices"] > 10
    assert check(house, "") == []
    busy(shop)
    assert check(house, "") != []
    assert following.follow(house, "") > 50
    assert check(house, "") == []


def test_the_story_is_adopted_with_its_agencies_and_weights(sandbox: Sandbox, house: Any, db: Database) -> None:
    with db.work(OPERATOR) as session:
        session.add_all(
            Agency(slug=slug(name), name=name, currency=cur, time_zone=zone) for name, cur, zone in AGENCIES
        )
    with closing(Api(sandbox.url, KEY)) as api:
        tell(api, 60)
    report = importing.import_account(house, "")
    assert report.warnings == []
    assert check(house, "") == []
    with db.work(OPERATOR) as session:
        homes = session.scalar(sa.select(sa.func.count(sa.distinct(Customer.agency_id))))
        counts = [
            session.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for table in (Plan, PlanWeight, Subscription, Invoice, InvoiceLine)
        ]
    assert homes == len(AGENCIES)
    assert min(counts) > 20
