"""Every planted difference is found, and nothing is said of what agrees."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from billing import importing, mirror
from billing.check import Difference, check
from billing.models import (
    BalanceEntry,
    CreditNote,
    Customer,
    Dispute,
    Invoice,
    InvoiceLine,
    Payment,
    Plan,
    PlanWeight,
    Refund,
    Subscription,
    SubscriptionItem,
)
from tenants.db import OPERATOR, Base, Database
from tenants.models import Agency
from tests.billing import stripe_json as made
from tests.billing.books import Books, Clock, opened
from tests.billing.test_mirror import customer, dispute


@pytest.fixture
def books() -> Iterator[Books]:
    with opened() as made_up:
        made_up.add("prices", made.price(metadata={"platform_weights": "facebook=6000"}))
        made_up.add("customers", customer(balance=-900), customer("cus_2"))
        made_up.add("subscriptions", made.subscription())
        made_up.add("invoices", made.invoice(lines=made.listed(made.line(taxes=[made.tax(5, "exclusive")]))))
        made_up.add("invoice_payments", made.payment())
        made_up.add("refunds", made.refund(metadata={}))
        made_up.add("credit_notes", made.credit_note(metadata={}))
        made_up.add("disputes", dispute(status="lost"))
        made_up.add("balance_transactions", made.balance_entry(metadata={}))
        yield made_up


@pytest.fixture
def house(books: Books, db: Database) -> Any:
    settings = SimpleNamespace(
        stripe_secret_key="sk_test_1",
        stripe_api_base=books.wire.url,
        installation="engine01",
        live=False,
        stripe_rate=None,
    )
    house = SimpleNamespace(settings=settings, database=db, clock=Clock())
    with db.work(OPERATOR) as session:
        session.add(Agency(slug="acme", name="Acme"))
    importing.import_account(house, "")
    return house


def found(house: Any) -> list[tuple[str, str, str]]:
    return [(difference.kind, difference.id, difference.what) for difference in check(house, "")]


def test_a_mirror_that_was_just_made_agrees(house: Any) -> None:
    assert check(house, "") == []


IN_STRIPE: list[tuple[Callable[[Books], Any], list[tuple[str, str, str]]]] = [
    (lambda b: b.change("prices", "price_1", active=False), [("plan", "price_1", "active")]),
    (lambda b: b.change("prices", "price_1", metadata={}), [("plan", "price_1", "weights")]),
    (lambda b: b.change("prices", "price_1", metadata={"platform_weights": "x=1"}), [("plan", "price_1", "weights")]),
    (lambda b: b.add("prices", made.price(id="price_2")), [("plan", "price_2", "missing")]),
    (lambda b: b.remove("prices", "price_1"), [("plan", "price_1", "missing")]),
    (lambda b: b.add("customers", customer("cus_3")), [("customer", "cus_3", "missing")]),
    (lambda b: b.remove("customers", "cus_2"), [("customer", "cus_2", "missing")]),
    (lambda b: b.change("customers", "cus_2", email=None), [("customer", "cus_2", "email")]),
    (lambda b: b.change("customers", "cus_2", metadata={"agency": "acme"}), [("customer", "cus_2", "agency_id")]),
    (lambda b: b.change("subscriptions", "sub_1", status="unpaid"), [("subscription", "sub_1", "status")]),
    (
        lambda b: b.change("subscriptions", "sub_1", pause_collection={"behavior": "void", "resumes_at": None}),
        [("subscription", "sub_1", "pause_behavior")],
    ),
    (
        lambda b: b.change("subscriptions", "sub_1", metadata={"incident": "inc_1"}),
        [("subscription", "sub_1", "pause_incident")],
    ),
    (
        lambda b: b.change("subscriptions", "sub_1", items=made.listed()),
        [("subscription", "sub_1", "renews_at"), ("subscription item", "si_1", "missing")],
    ),
    (
        lambda b: b.add("subscriptions", made.subscription(id="sub_2", items=made.listed())),
        [("subscription", "sub_2", "missing")],
    ),
    (lambda b: b.change("invoices", "in_1", total=5801), [("invoice", "in_1", "total")]),
    (lambda b: b.change("invoices", "in_1", status="void"), [("invoice", "in_1", "status")]),
    (
        lambda b: b.change("invoices", "in_1", lines=made.listed(made.line())),
        [("invoice line", "il_1", "tax"), ("invoice line", "il_1", "taxes")],
    ),
    (
        lambda b: b.change("invoices", "in_1", lines=made.listed(made.line(id="il_2"))),
        [("invoice line", "il_1", "missing"), ("invoice line", "il_2", "missing")],
    ),
    (
        lambda b: b.change("invoices", "in_1", lines=made.listed(made.line(
            taxes=[made.tax(5, "exclusive")], period={"start": 1_565_000_001, "end": 1_567_000_000}))),
        [("invoice line", "il_1", "period_start")],
    ),
    (lambda b: b.add("invoices", made.invoice(id="in_2", lines=made.listed())), [("invoice", "in_2", "missing")]),
    (lambda b: b.change("invoice_payments", "inpay_1", amount_paid=1), [("payment", "inpay_1", "captured")]),
    (lambda b: b.remove("invoice_payments", "inpay_1"), [("payment", "inpay_1", "missing")]),
    (lambda b: b.add("refunds", made.refund(id="re_2", metadata={})), [("refund", "re_2", "missing")]),
    (lambda b: b.change("refunds", "re_1", status="failed"), [("refund", "re_1", "status")]),
    (lambda b: b.change("credit_notes", "cn_1", status="void"), [("credit note", "cn_1", "status")]),
    (lambda b: b.remove("credit_notes", "cn_1"), [("credit note", "cn_1", "missing")]),
    (lambda b: b.change("disputes", "du_1", status="won"), [("dispute", "du_1", "status")]),
    (
        lambda b: b.add("balance_transactions", made.balance_entry(id="cbtxn_2")),
        [("balance entry", "cbtxn_2", "missing")],
    ),
    (lambda b: b.change("balance_transactions", "cbtxn_1", amount=-1), [("balance entry", "cbtxn_1", "amount")]),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "differences"), IN_STRIPE)
def test_what_changed_in_stripe_is_found_and_repaired_by_an_import(
    house: Any, books: Books, plant: Callable[[Books], Any], differences: list[tuple[str, str, str]]
) -> None:
    plant(books)
    assert found(house) == differences
    importing.import_account(house, "")
    there = {id for objects in books.objects.values() for id in objects} | {"si_1", "il_1", "il_2"}
    assert found(house) == [one for one in differences if one[1] not in there], "only what Stripe lost stays different"


HERE: list[tuple[type[Base], dict[str, Any], list[tuple[str, str, str]]]] = [
    (Plan, {"unit_amount": 1}, [("plan", "price_1", "unit_amount")]),
    (PlanWeight, {"weight_bp": 1}, [("plan", "price_1", "weights")]),
    (Subscription, {"pause_behavior": "void"}, [("subscription", "sub_1", "pause_behavior")]),
    (SubscriptionItem, {"quantity": 9}, [("subscription item", "si_1", "quantity")]),
    (Invoice, {"amount_remaining": 1}, [("invoice", "in_1", "amount_remaining")]),
    (InvoiceLine, {"net": 1}, [("invoice line", "il_1", "net")]),
    (InvoiceLine, {"metered": True}, [("invoice line", "il_1", "metered")]),
    (Payment, {"captured": 5799}, [("payment", "inpay_1", "captured")]),
    (Payment, {"elsewhere": 0}, [("payment", "inpay_1", "elsewhere")]),
    (
        Payment,
        {"disputed": 0, "dispute_open": True},
        [("payment", "inpay_1", "dispute_open"), ("payment", "inpay_1", "disputed")],
    ),
    (Refund, {"amount": 1}, [("payment", "inpay_1", "elsewhere"), ("refund", "re_1", "amount")]),
    (CreditNote, {"refunded": 1}, [("credit note", "cn_1", "refunded")]),
    (CreditNote, {"refund_ids": []}, [("credit note", "cn_1", "refund_ids")]),
    (Dispute, {"status": "won"}, [("dispute", "du_1", "status"), ("payment", "inpay_1", "disputed")]),
    (BalanceEntry, {"type": "initial"}, [("balance entry", "cbtxn_1", "type")]),
]  # fmt: skip


@pytest.mark.parametrize(("model", "values", "differences"), HERE)
def test_what_was_changed_here_is_found_and_repaired(
    house: Any, model: type[Base], values: dict[str, Any], differences: list[tuple[str, str, str]]
) -> None:
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(model).values(**values))
    assert found(house) == sorted(differences)
    importing.import_account(house, "")
    assert check(house, "") == []


def test_rows_that_stripe_does_not_know_are_found(house: Any, books: Books) -> None:
    for kind in ("subscriptions", "invoices", "refunds", "disputes", "balance_transactions"):
        books.objects[kind] = {}
    assert {kind for kind, _, what in found(house) if what == "missing"} == {
        "subscription", "invoice", "refund", "dispute", "balance entry",
    }  # fmt: skip


def test_a_customer_deleted_on_both_sides_is_no_difference(house: Any, books: Books) -> None:
    books.objects["customers"]["cus_2"] = {"id": "cus_2", "object": "customer", "deleted": True}
    mirror.refresh(house, "", "customer", "cus_2")
    books.remove("customers", "cus_2")
    assert check(house, "") == []


def test_another_agencys_own_account_is_not_held_against_the_operators(house: Any, db: Database) -> None:
    with db.work(OPERATOR) as session:
        agency = Agency(slug="own", name="Own", stripe_account="acct_9")
        session.add(agency)
        session.flush()
        at = house.clock.now()
        session.add(Customer(agency_id=agency.id, id="cus_9", name="Nine", created_at=at))
    assert check(house, "") == []


def test_a_difference_reads_as_a_sentence() -> None:
    status = Difference("invoice", "in_1", "status", "open", "paid")
    assert str(status) == "invoice in_1: status is open here and paid in Stripe."
    assert str(Difference("refund", "re_1", "missing", "missing", "there")) == "refund re_1 is in Stripe and not here."
    gone = Difference("refund", "re_1", "missing", "there", "missing")
    assert str(gone) == "refund re_1 is in the mirror and not in Stripe."
    assert status.to_json() == {"kind": "invoice", "id": "in_1", "what": "status", "here": "open", "there": "paid"}


def test_invoices_that_the_import_left_out_are_left_out(house: Any, books: Books) -> None:
    books.add("invoices", made.invoice(id="in_old", created=1_400_000_000, lines=made.listed()))
    books.add("credit_notes", made.credit_note(id="cn_old", invoice="in_old", metadata={}))
    assert {id for _, id, _ in found(house)} == {"in_old", "cn_old"}
    importing.import_account(house, "", since=datetime.fromtimestamp(1_500_000_000, UTC))
    assert check(house, "") == []


def test_older_invoices_of_an_earlier_import_are_no_difference(house: Any, books: Books) -> None:
    importing.import_account(house, "", since=datetime.fromtimestamp(1_566_700_000, UTC))  # in_1 is older, cn_1 is not
    assert check(house, "") == []
