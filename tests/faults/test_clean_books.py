"""Nothing is said of ten thousand objects that are in order, and one among them that is not is found."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from billing import following
from billing.outages import bookkeeping, oversight, reconcile
from billing.outages.findings import Frozen
from billing.outages.invariants import INVARIANTS
from billing.outages.models import Step
from sandbox import postgres
from sandbox.stripe.server import start_in_thread
from tenants.db import OPERATOR, Database
from tests.faults.copies import copied
from tests.faults.drifts import Books, settled
from tests.journeys import shop as shops
from tests.journeys.shop import AUGUST, DECLARED, Shop

NOTED, CREDITED = 3_200, 200
"""Customers with a note, its refund and a pause; and with a balance entry and a pause: 3 x 3,200 + 2 x 200 objects."""
LATER = DECLARED + timedelta(hours=1)


def a_note_and_an_entry(session: sa.orm.Session, invoices: Sequence[str]) -> None:
    """4.00 of one invoice with a note, 4.00 of another to the customer's balance, in one entry."""
    noted, entered = invoices
    shops.grant(session, noted, refund=400)
    made = shops.grant(session, entered, credit=400)
    session.execute(sa.update(Step).where(Step.grant_id == made.id).values(kind="balance"))


@pytest.fixture
def clean(db: Database, clean_database: postgres.Urls) -> Iterator[Books]:
    sandbox = start_in_thread()
    shop = Shop(sandbox.url).open(AUGUST)
    with settled(shop, db, clean_database, 2, a_note_and_an_entry) as books:
        shop.now(LATER)
        copied(books, sandbox.service, 0, NOTED - 1, 1_000)
        copied(books, sandbox.service, 1, CREDITED - 1, 10_000)
        whole = 400 * (NOTED + CREDITED)
        books.sql("UPDATE run_totals SET sent = %s", whole)
        yield books
    sandbox.stop()


@pytest.mark.breaks(*INVARIANTS)
def test_of_ten_thousand_clean_objects_nothing_is_said_and_one_that_is_not_is_found(clean: Books) -> None:
    report = bookkeeping.of_everything(clean.house)
    assert report.differences == []
    assert report.checked == {
        "credit_notes": NOTED, "refunds": NOTED, "balance_entries": CREDITED, "pauses": NOTED + CREDITED,
        "payments": NOTED + CREDITED,
    }  # fmt: skip
    assert sum(report.checked.values()) - report.checked["payments"] == 10_000
    # 4.00 of each of 3,400.
    assert report.explained() == [{"currency": "usd", "amount": 1_360_000, "explained": 1_360_000}]
    with clean.house.database.work(OPERATOR) as session:
        assert oversight.check(session) == []
        assert session.scalars(sa.select(Frozen.invoice_id)).all() == []
    clean.sql("UPDATE steps SET amount = amount + 1 WHERE id = 4000")
    (found,) = reconcile.reconcile(clean.house, "inc_1").differences
    assert found.sentence() == "Step 4000 (credit_note): we have 4.01 USD, Stripe has 4.00 USD."


@pytest.fixture
def old(db: Database, clean_database: postgres.Urls, monkeypatch: pytest.MonkeyPatch) -> Iterator[Books]:
    """Three customers whose notes were made at `DECLARED`."""
    monkeypatch.setattr(bookkeeping, "AGAIN_AFTER", 0.0)
    with shops.opened() as shop, settled(shop, db, clean_database, 3) as books:
        yield books


def differences(books: Books, at: datetime) -> list[str]:
    while (now := books.house.clock.now()) < at:  # Stripe keeps its events for 30 days
        books.shop.now(min(at, now + timedelta(days=25)))
        following.follow(books.house, "")
    return [one.id for one in bookkeeping.of_everything(books.house).differences]


@pytest.mark.breaks(*INVARIANTS)
def test_what_is_90_days_old_is_compared_and_what_is_a_second_older_is_not(old: Books) -> None:
    old.sql("UPDATE steps SET first_sent_at = %s", DECLARED)
    stray = old.refund(1, **old.ours(99_999))
    note = old.step(2)["note"]
    old.shop.now(DECLARED + timedelta(hours=1))
    following.follow(old.house, "")
    old.sql("UPDATE credit_notes SET total = 1 WHERE id = %s", note)
    edge = DECLARED + bookkeeping.LOOKED_BACK
    assert sorted(differences(old, edge)) == sorted([stray, note])
    assert differences(old, edge + timedelta(seconds=1)) == []


def test_a_step_whose_object_came_long_after_its_first_sending_is_no_stranger_at_the_edge(old: Books) -> None:
    """It was sent, nobody knew what became of it, and it was sent again: 20 hours lie between the two."""
    old.sql("UPDATE steps SET first_sent_at = %s", DECLARED - timedelta(hours=20))
    assert differences(old, DECLARED + bookkeeping.LOOKED_BACK - timedelta(hours=10)) == []


def test_an_object_that_is_older_than_its_step_by_stripes_clock_is_not_missed_at_the_edge(old: Books) -> None:
    old.sql("UPDATE steps SET first_sent_at = %s", DECLARED + timedelta(seconds=2))
    assert differences(old, DECLARED + bookkeeping.LOOKED_BACK + timedelta(seconds=1)) == []
