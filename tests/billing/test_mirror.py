"""What is in Stripe is in the mirror, once, under the right agency, however often and in whatever order it is read."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from billing import check, following, importing, mirror, translate
from billing.answers import Gone, ReadRefused
from billing.catalog import weigh
from billing.errors import Conflict, NotFound
from billing.gateway import engine
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
    Platform,
    Refund,
    Subscription,
    SubscriptionItem,
    SyncCursor,
    SyncWindow,
)
from sandbox import postgres
from tenants.db import OPERATOR, Base, Database
from tenants.models import OPERATOR_AGENCY, Agency
from tests.billing import stripe_json as made
from tests.billing.books import Books, Clock, opened
from tests.billing.wire import Reply, Request, failure
from tests.terminal import Terminal
from tests.web import house_of

JULY = 1_562_000_000


@pytest.fixture
def books() -> Iterator[Books]:
    with opened() as made_up:
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
    return SimpleNamespace(settings=settings, database=db, clock=Clock())


@pytest.fixture
def acme(db: Database) -> int:
    with db.work(OPERATOR) as session:
        agency = Agency(slug="acme", name="Acme")
        session.add(agency)
        session.flush()
        return agency.id


def customer(id: str = "cus_1", **fields: Any) -> made.Json:
    return {
        "id": id, "object": "customer", "created": JULY, "balance": 0, "currency": "usd", "email": "a@example.com",
        "metadata": {}, "name": "Bakery",
    } | fields  # fmt: skip


def dispute(**fields: Any) -> made.Json:
    return {
        "id": "du_1", "object": "dispute", "amount": 5800, "charge": "ch_1", "created": JULY, "currency": "usd",
        "payment_intent": "pi_1", "status": "needs_response",
    } | fields  # fmt: skip


def stock(books: Books) -> None:
    """One customer with one subscription and one paid invoice."""
    books.add("prices", made.price())
    books.add("customers", customer())
    books.add("subscriptions", made.subscription())
    books.add("invoices", made.invoice())
    books.add("invoice_payments", made.payment())


def rows(house: Any, model: type[Base], *columns: str) -> list[Any]:
    with house.database.work(OPERATOR) as session:
        found = session.execute(sa.select(*[getattr(model, name) for name in columns]).order_by(*columns)).all()
    return [row[0] if len(columns) == 1 else tuple(row) for row in found]


TABLES = [
    Plan, PlanWeight, Platform, Customer, Subscription, SubscriptionItem, Invoice, InvoiceLine, Payment, Refund,
    CreditNote, Dispute, BalanceEntry,
]  # fmt: skip


def everything(house: Any) -> dict[str, list[Any]]:
    """Every row of the mirror with its place on the disk, which a change would move."""
    with house.database.work(OPERATOR) as session:
        return {
            model.__tablename__: sorted(
                str(tuple(row)) for row in session.execute(sa.select(sa.text("ctid"), model.__table__))
            )
            for model in TABLES
        }


# The first import


def test_an_account_is_imported_whole(house: Any, books: Books, acme: int) -> None:
    stock(books)
    books.add("customers", customer("cus_2", metadata={"agency": "acme"}, balance=-250))
    books.add("balance_transactions", made.balance_entry(customer="cus_2", amount=-250, metadata={}))
    books.add("refunds", made.refund(metadata={}))
    books.add("disputes", dispute())
    books.add("credit_notes", made.credit_note(refunds=[], post_payment_amount=0, pre_payment_amount=900, metadata={}))
    report = importing.import_account(house, "")
    assert report.objects == {
        "plans": 1, "customers": 2, "subscriptions": 1, "invoices": 1, "refunds": 1, "credit_notes": 1, "disputes": 1,
        "balance_entries": 1,
    }  # fmt: skip
    assert report.warnings == []
    assert rows(house, Customer, "id", "agency_id") == [("cus_1", OPERATOR_AGENCY), ("cus_2", acme)]
    assert rows(house, Invoice, "id", "total", "status") == [("in_1", 5800, "paid")]
    assert rows(house, InvoiceLine, "id", "plan_id", "net", "position") == [("il_1", "price_1", 5800, 0)]
    assert rows(house, SubscriptionItem, "id", "plan_id", "quantity") == [("si_1", "price_1", 2)]
    # captured 5,800; 900 of it refunded by somebody else; the whole disputed and open
    assert rows(house, Payment, "captured", "elsewhere", "disputed", "dispute_open") == [(5800, 900, 5800, True)]
    assert rows(house, BalanceEntry, "id", "agency_id", "amount") == [("cbtxn_1", acme, -250)]
    assert rows(house, CreditNote, "id", "pre_payment_amount", "credited") == [("cn_1", 900, 0)]
    assert rows(house, SyncCursor, "stripe_account", "fresh_at") == [("", house.clock.now())]
    assert rows(house, SyncWindow, "kind") == []


def test_importing_again_changes_nothing(house: Any, books: Books, acme: int) -> None:
    test_an_account_is_imported_whole(house, books, acme)
    before = everything(house)
    house.clock.at += timedelta(hours=1)
    importing.import_account(house, "")
    assert everything(house) == before


def test_a_change_in_stripe_comes_with_the_next_import(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")
    books.change("subscriptions", "sub_1", status="past_due", items=made.listed())
    books.change("invoices", "in_1", status="void", lines=made.listed(made.line(id="il_2", amount=1, taxes=None)))
    importing.import_account(house, "")
    assert rows(house, Subscription, "status", "renews_at") == [("past_due", None)]
    assert rows(house, SubscriptionItem, "id") == []
    assert rows(house, Invoice, "status") == ["void"]
    assert rows(house, InvoiceLine, "id", "amount") == [("il_2", 1)]


def many(books: Books, count: int, every: int) -> None:
    stock(books)
    for number in range(count):
        created = JULY + number * every
        books.add(
            "invoices",
            made.invoice(id=f"in_{number}", created=created, lines=made.listed(made.line(id=f"il_{number}"))),
        )


@pytest.mark.parametrize("every", [0, 1, 3_000])
def test_thousands_of_invoices_come_in_side_by_side_without_a_gap(house: Any, books: Books, every: int) -> None:
    many(books, 1_500, every)
    told: list[tuple[int, int]] = []
    report = importing.import_account(
        house, "", progress=lambda kind, *count: told.append(count) if kind == "invoices" else None
    )
    assert report.objects["invoices"] == 1_500
    assert len(rows(house, Invoice, "id")) == 1_500
    assert told[-1] == (1_500, 1_500)
    assert [read for read, _ in told] == sorted(read for read, _ in told)


def test_an_import_that_was_cut_off_goes_on_where_it_was(house: Any, books: Books) -> None:
    many(books, 1_500, 3_000)
    asked: list[str] = []

    def fails_at_last(request: Request) -> Reply | None:
        if request.path == "/v1/invoices":
            asked.append(dict(request.form)["created[lt]"])
            if len(asked) > 12:
                return failure(400)
        return None

    books.fail = fails_at_last
    with pytest.raises(ReadRefused):
        importing.import_account(house, "")
    assert rows(house, SyncCursor, "fresh_at") == [None]
    read_before = len(asked)
    begun = house.clock.now()
    books.fail = lambda request: asked.append("later") if request.path == "/v1/invoices" else None
    house.clock.at += timedelta(hours=1)
    asked.clear()
    assert importing.import_account(house, "").objects["invoices"] == 1_500
    assert len(rows(house, Invoice, "id")) == 1_500
    whole = read_before + len(asked)
    asked.clear()
    importing.import_account(house, "")
    assert len(asked) > 15
    assert whole - read_before < len(asked), "the second start read less than a whole import does"
    # Whoever takes events has seen none of those since: neither a second start nor another import passes them over.
    assert rows(house, SyncCursor, "fresh_at", "imported_at") == [(begun, house.clock.now())]
    assert begun < house.clock.now()


def test_what_changes_while_an_import_is_cut_off_is_caught_up(house: Any, books: Books) -> None:
    stock(books)
    books.fail = lambda request: failure(400) if request.path == "/v1/disputes" else None
    with pytest.raises(ReadRefused):
        importing.import_account(house, "")
    books.fail = None
    house.clock.at += timedelta(days=1)
    books.change("subscriptions", "sub_1", status="canceled")
    at = int(house.clock.now().timestamp()) - 3_600
    books.add("events", made.event(created=at))
    importing.import_account(house, "")
    assert rows(house, Subscription, "status") == ["canceled"]


def test_since_leaves_older_invoices_out(house: Any, books: Books) -> None:
    stock(books)
    books.add("invoices", made.invoice(id="in_new", created=JULY + 900_000_000 // 1_000 * 10))
    books.change("invoices", "in_1", created=JULY - 10)
    books.add("credit_notes", made.credit_note(invoice="in_1"))
    since = datetime.fromtimestamp(JULY, UTC)
    assert importing.import_account(house, "", since=since).objects["invoices"] == 0
    books.change("invoices", "in_new", created=JULY, lines=made.listed())
    importing.import_account(house, "", since=since)
    assert rows(house, Invoice, "id") == ["in_new"]
    assert rows(house, CreditNote, "id") == []
    assert rows(house, SyncCursor, "invoices_since") == [since]


def test_payments_come_even_where_stripe_does_not_expand_them(house: Any, books: Books) -> None:
    stock(books)
    refuses = failure(400, "parameter_unknown")
    refuses.body["error"]["param"] = "expand[0]"

    def without(request: Request) -> Reply | None:
        form = dict(request.form)
        if request.path != "/v1/invoices":
            return None
        if "expand[0]" in form:
            return refuses
        entries = [obj for obj in books.objects["invoices"].values() if int(form["created[gte]"]) <= obj["created"]]
        return Reply(200, made.listed(*entries))

    books.fail = without
    importing.import_account(house, "")
    assert rows(house, Payment, "id", "captured") == [("inpay_1", 5800)]


def test_a_connected_account_is_its_agencys_whatever_the_metadata_says(house: Any, books: Books, acme: int) -> None:
    with pytest.raises(NotFound, match="acct_9"):
        importing.import_account(house, "acct_9")
    with house.database.work(OPERATOR) as session:
        session.get_one(Agency, acme).stripe_account = "acct_9"
        session.add(Agency(slug="other", name="Other"))
    stock(books)
    books.add("customers", customer(metadata={"agency": "other"}))
    importing.import_account(house, "acct_9")
    assert rows(house, Customer, "agency_id") == [acme]
    assert rows(house, Plan, "agency_id") == [acme]
    assert {request.headers.get("Stripe-Account") for request in books.wire.requests} == {"acct_9"}


def test_a_price_of_the_name_of_another_accounts_is_left_out_and_told_of(house: Any, books: Books, acme: int) -> None:
    """Plans of before prices have ids that merchants chose: `gold` in two accounts is two plans."""
    stock(books)
    books.change("prices", "price_1", metadata={"platform_weights": "facebook=6000"})
    importing.import_account(house, "")
    with house.database.work(OPERATOR) as session:
        session.get_one(Agency, acme).stripe_account = "acct_9"
    books.objects.clear()
    stock(books)
    books.change("prices", "price_1", metadata={"platform_weights": "instagram=10000"}, nickname="Ours")
    item = {**made.subscription()["items"]["data"][0], "id": "si_9"}
    books.objects["subscriptions"] = {"sub_9": made.subscription(id="sub_9", items=made.listed(item))}
    line = made.line(id="il_9")
    books.objects["invoices"] = {"in_9": made.invoice(id="in_9", lines=made.listed(line))}
    books.objects["invoice_payments"] = {"inpay_9": made.payment(id="inpay_9", invoice="in_9")}
    report = importing.import_account(house, "acct_9")
    (warning,) = report.warnings
    assert warning.startswith("The price price_1 of acct_9 is left out, with what was billed for it: another Stripe")
    assert rows(house, Plan, "id", "agency_id") == [("price_1", None)]
    facebook, *_ = (id for id, slug in rows(house, Platform, "id", "slug") if slug == "facebook")
    assert rows(house, PlanWeight, "platform_id", "weight_bp") == [(facebook, 6000)]
    assert rows(house, InvoiceLine, "id", "plan_id") == [("il_1", "price_1"), ("il_9", None)]
    assert rows(house, SubscriptionItem, "id") == ["si_1"]
    assert [str(one) for one in check.check(house, "acct_9") if one.kind == "plan"] == [
        "plan price_1 is in Stripe and not here."
    ]


def test_a_customer_that_was_deleted_and_a_price_that_is_not_listed_are_fetched(house: Any, books: Books) -> None:
    stock(books)
    hidden = books.remove("prices", "price_1")
    books.objects["customers"]["cus_1"] = {"id": "cus_1", "object": "customer", "deleted": True, "created": JULY}

    def one_by_one(request: Request) -> Reply | None:
        if request.path == "/v1/prices/price_1":
            return Reply(200, hidden)
        return Reply(200, made.listed()) if request.path == "/v1/customers" else None

    books.fail = one_by_one
    importing.import_account(house, "")
    assert rows(house, Customer, "id", "deleted") == [("cus_1", True)]
    assert rows(house, InvoiceLine, "plan_id") == ["price_1"]


# Weights and agencies


def weights(house: Any) -> dict[str, dict[str, int]]:
    with house.database.work(OPERATOR) as session:
        found = session.execute(
            sa.select(PlanWeight.plan_id, Platform.slug, PlanWeight.weight_bp).join(Platform).order_by(Platform.slug)
        )
        by_plan: dict[str, dict[str, int]] = {}
        for plan, slug, weight in found:
            by_plan.setdefault(plan, {})[slug] = weight
        return by_plan


def weighed(text: str) -> made.Json:
    return made.price(metadata={"platform_weights": text})


def test_weights_come_from_metadata_and_a_new_platform_gets_its_row(house: Any, books: Books) -> None:
    books.add("prices", weighed("facebook=6000, threads-x=4000"))
    (sentence,) = importing.import_account(house, "").warnings
    assert sentence.startswith("threads-x is a new platform, which Social Pro (price_1) brought.")
    assert importing.import_account(house, "").warnings == []
    assert weights(house) == {"price_1": {"facebook": 6000, "threads-x": 4000}}
    assert "Threads X" in rows(house, Platform, "name")
    books.add("prices", weighed("instagram=1"))
    importing.import_account(house, "")
    assert weights(house) == {"price_1": {"instagram": 1}}
    books.add("prices", made.price())
    importing.import_account(house, "")
    assert weights(house) == {}


@pytest.mark.parametrize(
    "text",
    ["facebook", "facebook=", "facebook=0", "facebook=10001", "facebook=6000,x=4001", "x=1,x=1", "face book=1", "=1"],
)
def test_weights_that_cannot_be_used_are_one_sentence_and_change_nothing(house: Any, books: Books, text: str) -> None:
    books.add("prices", weighed("facebook=6000"))
    importing.import_account(house, "")
    books.add("prices", weighed(text), made.price(id="price_2", metadata={"platform_weights": "x=10000"}))
    (sentence,) = importing.import_account(house, "").warnings
    assert "Social Pro (price_1)" in sentence
    assert weights(house) == {"price_1": {"facebook": 6000}, "price_2": {"x": 10000}}


MISTYPED = (
    "The weights of Social Pro (price_1) are left as they were ({kept}): No platform is called facebok, did you mean"
    " facebook? Correct platform_weights in Stripe, or add it with `flask plans weigh price_1 … --new-platform`."
)


@pytest.mark.parametrize(
    ("before", "kept"), [("", "none, so that no outage counts for it"), ("facebook=6000", "facebook=6000")]
)
def test_a_mistyped_platform_is_no_new_one(house: Any, books: Books, before: str, kept: str) -> None:
    books.add("prices", weighed(before))
    importing.import_account(house, "")
    platforms, were = rows(house, Platform, "slug"), weights(house)
    books.add("prices", weighed("instagram=4000,facebok=6000"))
    assert importing.import_account(house, "").warnings == [MISTYPED.format(kept=kept)]
    assert importing.import_account(house, "").warnings == [MISTYPED.format(kept=kept)]
    assert (rows(house, Platform, "slug"), weights(house)) == (platforms, were)
    books.add("prices", weighed("instagram=4000,facebook=6000"))
    assert importing.import_account(house, "").warnings == []
    assert weights(house) == {"price_1": {"facebook": 6000, "instagram": 4000}}


def test_a_mistyped_platform_of_an_event_is_shown_until_it_is_corrected(
    house: Any, books: Books, database_urls: postgres.Urls
) -> None:
    whole = house_of(house.database, clock=house.clock)
    at_books = replace(whole.settings, stripe_secret_key="sk_test_1", stripe_api_base=books.wire.url)
    terminal = Terminal(replace(whole, settings=at_books), database_urls)
    books.add("prices", weighed("facebook=6000"))
    importing.import_account(house, "")
    product = {"id": "prod_1", "object": "product", "name": "Social Pro", "metadata": {"platform_weights": "facebok=9"}}
    books.change("prices", "price_1", metadata={}, product=product)
    mirror.refresh(house, "", "product", "prod_1")
    assert weights(house) == {"price_1": {"facebook": 6000}}
    said = MISTYPED.format(kept="facebook=6000")
    assert terminal.json("stripe", "check") == {"differences": [], "warnings": [said]}
    for words in (["stripe", "check"], ["plans", "list"]):
        assert terminal.run(*words).stdout.splitlines()[-1] == said
    terminal.json("plans", "weigh", "price_1", "facebok=9", "--new-platform")
    assert terminal.json("stripe", "check") == {"differences": [], "warnings": []}
    assert terminal.json("plans", "list")["plans"][0]["weights"] == {"facebok": 9}


def test_weights_that_were_set_here_stay(house: Any, books: Books) -> None:
    books.add("prices", weighed("facebook=6000"))
    importing.import_account(house, "")
    with house.database.work(OPERATOR) as session:
        weigh(session, "price_1", {"linkedin": 500}, by="ann@example.com", origin="cli")
    importing.import_account(house, "")
    assert weights(house) == {"price_1": {"linkedin": 500}}


def test_an_unknown_agency_is_warned_of_and_its_customers_move_once_it_is_there(house: Any, books: Books) -> None:
    stock(books)
    books.change("customers", "cus_1", metadata={"agency": "acme"})
    books.add("customers", customer("cus_2", metadata={"agency": "acme"}))
    books.add("refunds", made.refund(metadata={}))
    books.add("credit_notes", made.credit_note(metadata={}))
    books.add("disputes", dispute())
    books.add("balance_transactions", made.balance_entry(metadata={}))
    books.change("customers", "cus_1", balance=-900)
    (sentence,) = importing.import_account(house, "").warnings
    assert sentence.startswith("2 customers name the agency 'acme', which is not here")
    assert set(rows(house, Customer, "agency_id")) == {OPERATOR_AGENCY}
    with house.database.work(OPERATOR) as session:
        agency = Agency(slug="acme", name="Acme")
        session.add(agency)
        session.flush()
        acme = agency.id
    assert importing.import_account(house, "").warnings == []
    for model in set(TABLES) - {Plan, PlanWeight, Platform}:
        assert set(rows(house, model, "agency_id")) == {acme}, model


# One object as it is now


def refund_of_a_note(books: Books, house: Any) -> None:
    ours = {"step": "7", "engine": engine(house), "incident": "inc_1"}
    books.add("refunds", made.refund(metadata={}, created=JULY + 9))
    books.add("credit_notes", made.credit_note(metadata=ours, created=JULY + 9))


def test_our_own_refund_is_not_taken_for_anybody_elses(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")
    refund_of_a_note(books, house)
    mirror.refresh(house, "", "refund", "re_1")  # its metadata says nothing: the credit note that made it does
    assert rows(house, Refund, "step_id", "credit_note_id") == [(7, "cn_1")]
    assert rows(house, CreditNote, "step_id", "refunded") == [(7, 900)]
    assert rows(house, Payment, "elsewhere") == [0]


def test_the_same_in_an_import(house: Any, books: Books) -> None:
    stock(books)
    refund_of_a_note(books, house)
    importing.import_account(house, "")
    assert rows(house, Refund, "step_id", "credit_note_id") == [(7, "cn_1")]
    assert rows(house, Payment, "elsewhere") == [0]


def test_another_installations_step_is_not_ours(house: Any, books: Books) -> None:
    stock(books)
    for stranger in ({"step": "7"}, {"step": "7", "engine": "00000000"}, {"step": "x", "engine": engine(house)}):
        books.add("refunds", made.refund(metadata=stranger))
        importing.import_account(house, "")
        assert rows(house, Refund, "step_id") == [None]
        assert rows(house, Payment, "elsewhere") == [900]


def test_a_refund_by_hand_shrinks_what_is_left_until_it_fails(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")
    books.add("refunds", made.refund(metadata={}))
    mirror.refresh(house, "", "refund", "re_1")
    assert rows(house, Payment, "elsewhere") == [900]
    books.change("refunds", "re_1", status="failed", failure_reason="unknown")
    mirror.refresh(house, "", "refund", "re_1")
    assert rows(house, Payment, "elsewhere") == [0]


@pytest.mark.parametrize(
    ("status", "disputed", "still_open"),
    [
        ("needs_response", 5800, True), ("warning_needs_response", 5800, True), ("under_review", 5800, True),
        ("won", 0, False), ("warning_closed", 0, False), ("lost", 5800, False),
    ],
)  # fmt: skip
def test_a_dispute_counts_until_it_is_won(
    house: Any, books: Books, status: str, disputed: int, still_open: bool
) -> None:
    stock(books)
    importing.import_account(house, "")
    books.add("disputes", dispute(status=status))
    mirror.refresh(house, "", "dispute", "du_1")
    assert rows(house, Payment, "disputed", "dispute_open") == [(disputed, still_open)]


def test_a_payment_by_charge_alone_is_counted_too(house: Any, books: Books) -> None:
    stock(books)
    books.add("invoice_payments", made.payment(payment={"type": "charge", "charge": "ch_1"}))
    books.add("refunds", made.refund(payment_intent=None, metadata={}))
    books.add("disputes", dispute(payment_intent=None))
    importing.import_account(house, "")
    assert rows(house, Payment, "charge", "elsewhere", "dispute_open") == [("ch_1", 900, True)]


def test_refreshing_brings_what_an_object_hangs_on(house: Any, books: Books) -> None:
    stock(books)
    refund_of_a_note(books, house)
    assert mirror.refresh(house, "", "credit_note", "cn_1").id == "cn_1"
    for model in (Customer, Plan, Invoice, InvoiceLine, Payment, Refund, CreditNote):
        assert len(rows(house, model, "id")) == 1, model
    mirror.refresh(house, "", "subscription", "sub_1")
    assert rows(house, SubscriptionItem, "id") == ["si_1"]


def test_a_new_weight_on_a_product_reaches_all_its_prices(house: Any, books: Books) -> None:
    books.add("prices", made.price(), made.price(id="price_2"))
    importing.import_account(house, "")
    product = {"id": "prod_1", "object": "product", "name": "Pro", "metadata": {"platform_weights": "x=5"}}
    for id in ("price_1", "price_2"):
        books.change("prices", id, product=product)
    mirror.refresh(house, "", "product", "prod_1")
    assert weights(house) == {"price_1": {"x": 5}, "price_2": {"x": 5}}


def test_a_changed_balance_brings_its_entries(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")
    books.change("customers", "cus_1", balance=-900)
    books.add("balance_transactions", made.balance_entry(metadata={"step": "7", "engine": engine(house)}))
    mirror.refresh(house, "", "customer", "cus_1")
    assert rows(house, BalanceEntry, "id", "step_id") == [("cbtxn_1", 7)]


def test_a_deleted_customer_keeps_its_name(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")
    books.objects["customers"]["cus_1"] = {"id": "cus_1", "object": "customer", "deleted": True}
    mirror.refresh(house, "", "customer", "cus_1")
    assert rows(house, Customer, "id", "name", "deleted") == [("cus_1", "Bakery", True)]


def test_a_draft_that_was_deleted_says_so(house: Any, books: Books) -> None:
    stock(books)
    books.change("invoices", "in_1", status="draft")
    importing.import_account(house, "")
    books.remove("invoices", "in_1")
    with pytest.raises(Gone):
        mirror.refresh(house, "", "invoice", "in_1")
    assert rows(house, Invoice, "status") == ["deleted"]


def test_an_older_reading_never_overwrites_a_newer_one(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")

    def overtaken(request: Request) -> Reply | None:
        """While this answer is on its way, somebody else reads the newer state and records it."""
        books.fail = None
        stale = Reply(200, dict(books.objects["subscriptions"]["sub_1"]))
        books.change("subscriptions", "sub_1", status="canceled", items=made.listed())
        mirror.refresh(house, "", "subscription", "sub_1")
        return stale

    books.fail = overtaken
    assert mirror.refresh(house, "", "subscription", "sub_1").status == "active"
    assert rows(house, Subscription, "status") == ["canceled"]
    assert rows(house, SubscriptionItem, "id") == []


# Following events


def test_events_bring_the_objects_that_they_name_as_they_are_now(house: Any, books: Books) -> None:
    stock(books)
    assert following.follow(house, "") == 0  # never imported: nothing to follow
    importing.import_account(house, "")
    house.clock.at += timedelta(hours=1)
    at = int(house.clock.now().timestamp()) - 60
    books.add("events", *[made.event(id=f"evt_{number}", created=at + number) for number in range(3)])
    books.add("events", made.event(id="evt_x", created=at, type="x", data={"object": {"id": "x_1", "object": "x"}}))
    gone = {"object": {"id": "in_9", "object": "invoice"}}
    books.add("events", made.event(id="evt_y", created=at, type="invoice.deleted", data=gone))
    books.change("subscriptions", "sub_1", status="unpaid")
    books.wire.requests.clear()
    assert following.follow(house, "") == 5
    assert [request.path for request in books.wire.requests].count("/v1/subscriptions/sub_1") == 1
    assert rows(house, Subscription, "status") == ["unpaid"]
    assert rows(house, SyncCursor, "fresh_at", "last_event") == [(house.clock.now(), "evt_2")]


def test_a_machine_whose_clock_is_fast_passes_over_nothing_that_is_still_to_happen(house: Any, books: Books) -> None:
    """No later look asks again for what lies before the cursor, whichever machine moved it there."""
    stock(books)
    house.clock.at = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=10)
    importing.import_account(house, "")
    following.follow(house, "")
    books.add("events", made.event(created=int(datetime.now(UTC).timestamp())))
    house.clock.at = datetime.now(UTC).replace(microsecond=0)
    assert following.follow(house, "") == 1


def test_events_can_be_handed_to_an_inbox_in_their_order(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")
    at = int(house.clock.now().timestamp())
    books.add("events", *[made.event(id=f"evt_{number}", created=at + number) for number in range(3)])
    house.clock.at += timedelta(hours=1)
    taken: list[str] = []
    following.follow(house, "", take=lambda session, event: taken.append(event.id))
    assert taken == ["evt_0", "evt_1", "evt_2"]


def test_events_older_than_stripe_keeps_them_need_an_import(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")
    house.clock.at += timedelta(days=30)
    with pytest.raises(Conflict, match="flask stripe import"):
        following.follow(house, "")


# Inside another's transaction


def test_an_answer_of_stripes_is_recorded_in_the_callers_transaction(house: Any, books: Books) -> None:
    stock(books)
    importing.import_account(house, "")
    ours = {"step": "7", "engine": engine(house)}
    with house.database.work(OPERATOR) as session:
        mirror.record_subscription(session, 1, translate.subscription(made.subscription(status="paused")))
        mirror.record_invoice(
            session, 1, translate.invoice(made.invoice(status="void", lines=made.listed(made.line())))
        )
        mirror.record_credit_note(session, 1, translate.credit_note(made.credit_note(metadata=ours)))
        mirror.record_refund(session, 1, translate.refund(made.refund(metadata={})))
        mirror.record_balance_entry(session, 1, translate.balance_entry(made.balance_entry(metadata=ours)))
    assert rows(house, Subscription, "status") == ["paused"]
    assert rows(house, Invoice, "status") == ["void"]
    assert rows(house, Payment, "id", "elsewhere") == [("inpay_1", 0)]  # not listed in that answer: kept
    assert rows(house, Refund, "step_id", "credit_note_id") == [(7, "cn_1")]
    assert rows(house, BalanceEntry, "step_id") == [7]


def test_what_refers_to_a_row_does_not_wait_for_its_news(house: Any, books: Books) -> None:
    """A worker that has what these wait for, and notes something about the same rows, would end as a deadlock."""
    stock(books)
    books.add("refunds", made.refund())
    importing.import_account(house, "")

    def refer(model: Any) -> int:
        key = sa.select(model.id).with_for_update(read=True, key_share=True, nowait=True)
        with house.database.work(OPERATOR) as session:
            return len(session.scalars(key).all())

    with ThreadPoolExecutor(1) as pool, house.database.work(OPERATOR) as session:
        mirror.record_invoice(session, 1, translate.invoice(made.invoice()))
        mirror.record_refund(session, 1, translate.refund(made.refund()))
        assert list(pool.map(refer, [Invoice, Payment, Refund])) == [1, 1, 1]
