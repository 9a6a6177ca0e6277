"""Every planted drift is found in one cycle, nothing is said of what is in order, and only what differs is frozen."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa

from billing import following
from billing.outages import bookkeeping, grants, oversight, reconcile
from billing.outages.findings import Frozen, Reconciliation
from billing.outages.invariants import INVARIANTS
from billing.outages.models import Incident, Step
from sandbox import postgres
from tenants import audit
from tenants.db import OPERATOR, Database
from tenants.models import Agency
from tests.faults.drifts import DRIFTS, Books, settled
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, Shop
from tests.terminal import Terminal

CLEAN = 4
"""Customers whom nobody touches, the first ones. Notes and refunds claim to be of the very first one's step."""
NOT_OF_ONE_INVOICE = {"a step without its events", "a step with another event"}
"""These stop their incident."""
LATER = DECLARED + timedelta(hours=1)


@pytest.fixture
def shop() -> Iterator[Shop]:
    with shops.opened() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bookkeeping, "AGAIN_AFTER", 0.0)


@pytest.fixture
def few(shop: Shop, db: Database, clean_database: postgres.Urls) -> Iterator[Books]:
    with settled(shop, db, clean_database, 3) as books:
        yield books


@pytest.fixture
def many(shop: Shop, db: Database, clean_database: postgres.Urls) -> Iterator[Books]:
    with settled(shop, db, clean_database, CLEAN + len(DRIFTS)) as books:
        yield books


def frozen(books: Books) -> set[str]:
    with books.house.database.work(OPERATOR) as session:
        return set(session.scalars(sa.select(Frozen.invoice_id).where(Frozen.lifted_at.is_(None))))


@pytest.mark.breaks(*INVARIANTS)
def test_every_planted_drift_is_found_in_one_cycle(many: Books) -> None:
    assert len(DRIFTS) >= 50
    many.shop.now(LATER)
    before = bookkeeping.of_everything(many.house)
    assert before.differences == []
    # 4.00 of each, and all of it explained.
    whole = 400 * (CLEAN + len(DRIFTS))
    assert before.explained() == [{"currency": "usd", "amount": whole, "explained": whole}]
    planted = {name: plant(many, CLEAN + no) for no, (name, plant) in enumerate(DRIFTS.items())}
    many.shop.now(LATER + timedelta(hours=1))
    report = bookkeeping.of_everything(many.house)
    with many.house.database.work(OPERATOR) as session:
        broken = oversight.check(session)
        sentences = [one.sentence() for one in broken]
        sentences += [f"audit entry {seq} is broken" for seq in audit.breaks(session).values()]
    sentences += [f"{one.sentence()} {one.id}" for one in report.differences]
    lost = {name: found for name, found in planted.items() if not any(found in sentence for sentence in sentences)}
    assert lost == {}
    (share,) = report.explained()
    assert 0 < share["explained"] < share["amount"]
    for n in range(1, CLEAN):
        names = {many.invoices[n], many.shop.customers[n], many.shop.subscriptions[n], str(many.step(n)["note"])}
        assert not [sentence for sentence in sentences for one in names if one in sentence]
    assert frozen(many) & set(many.invoices[1:CLEAN]) == set()
    money = ("our refund", "our note", "a step ", "a note ", "a refund", "a payment ", "an invoice o", "a line ")
    of_money = {name: many.invoices[CLEAN + no] for no, name in enumerate(DRIFTS) if name.startswith(money)}
    assert {name for name, invoice in of_money.items() if invoice not in frozen(many)} == NOT_OF_ONE_INVOICE


@pytest.mark.breaks("I1 a step has one object")
def test_a_difference_freezes_its_own_invoice_and_everything_else_goes_on(few: Books) -> None:
    stray = few.refund(1, **few.ours(99_999))
    few.shop.now(LATER)
    report = bookkeeping.of_incident(few.house, "inc_1")
    assert [(one.id, one.invoices) for one in report.differences] == [(stray, {few.invoices[1]})]
    assert frozen(few) == {few.invoices[1]}
    with few.house.database.work(OPERATOR) as session:
        shops.approved_run(session, "run_2", "resolve")
        for invoice in few.invoices[:2]:
            shops.grant(session, invoice, "run_2", refund=100)
        session.execute(sa.text("UPDATE grants SET owed = '500/1', granted_before = 400 WHERE run_id = 'run_2'"))
    for _ in range(3):
        grants.send_due(few.house, 10)
    with few.house.database.work(OPERATOR) as session:
        states = sa.select(Step.state).where(Step.amount == 100).order_by(Step.id)
        assert session.scalars(states).all() == ["succeeded", "blocked"]


def test_what_stripe_has_just_changed_is_left_for_the_next_time(few: Books) -> None:
    few.shop.now(LATER)
    few.shop.post(f"/v1/customers/{few.shop.customers[0]}", name="Somebody else")
    assert bookkeeping.of_everything(few.house).differences == []
    few.shop.now(LATER + timedelta(minutes=11))
    assert [one.id for one in bookkeeping.of_everything(few.house).differences] == [few.shop.customers[0]]
    following.follow(few.house, "")
    assert bookkeeping.of_everything(few.house).differences == []


def test_what_differs_at_one_look_only_was_under_way(few: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the answer had been written down between the two looks."""
    before = few.step(0)
    few.sql("UPDATE steps SET state = 'pending' WHERE id = %s", before["id"])
    look, looks = reconcile.reconcile, []

    def looked(house: object, incident_id: str) -> reconcile.Report:
        looks.append(look(few.house, incident_id))
        few.sql("UPDATE steps SET state = 'succeeded' WHERE id = %s", before["id"])
        return looks[-1]

    monkeypatch.setattr(reconcile, "reconcile", looked)
    assert bookkeeping.of_incident(few.house, "inc_1").differences == []
    assert ([len(one.differences) for one in looks], frozen(few)) == ([1, 0], set())


def rounds(books: Books) -> dict[str, int]:
    with books.house.database.work(OPERATOR) as session:
        counted = sa.select(Reconciliation.scope, sa.func.count()).group_by(Reconciliation.scope)
        return {row[0]: row[1] for row in session.execute(counted)}


def test_the_books_are_compared_by_the_clock_by_one_worker_of_many(few: Books) -> None:
    few.sql("UPDATE agencies SET created_at = now()")  # the first agency is as old as the database that all tests copy
    assert bookkeeping.compare_due(few.house) == 0
    few.sql("UPDATE agencies SET created_at = now() - interval '61 minutes'")
    made: list[int] = []
    threads = [threading.Thread(target=lambda: made.append(bookkeeping.compare_due(few.house))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(made), rounds(few)) == (1, {"hourly": 1, "inc_1": 1})
    few.sql("UPDATE agencies SET created_at = now() - interval '25 hours'")
    assert bookkeeping.compare_due(few.house) == 1
    assert rounds(few) == {"hourly": 1, "inc_1": 1, "daily": 2}  # the round, and what it found
    assert bookkeeping.compare_due(few.house) == 0


def test_while_stripe_does_not_answer_the_books_are_compared_later(few: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    few.sql("UPDATE agencies SET created_at = now() - interval '61 minutes'")
    with monkeypatch.context() as silent:
        silent.setattr("billing.gateway.READ_RETRIES", 0)
        silent.setattr(few.house.settings.__class__, "stripe_api_base", "http://127.0.0.1:1")
        assert bookkeeping.compare_due(few.house) == 0
    assert bookkeeping.compare_due(few.house) == 0
    few.sql("UPDATE reconciliations SET begun_at = begun_at - interval '10 minutes'")
    assert bookkeeping.compare_due(few.house) == 1


def test_the_terminal_compares_one_incident_or_everything(few: Books, clean_database: postgres.Urls) -> None:
    few.shop.now(LATER)
    terminal = Terminal(few.house, clean_database)
    document = terminal.json("incidents", "reconcile")
    assert (document["differences"], document["checked"]["payments"]) == ([], 3)
    assert document["explained"] == [{"currency": "usd", "amount": 1_200, "explained": 1_200}]
    few.refund(0, **few.ours(99_999))
    few.shop.now(LATER + timedelta(hours=1))
    for words in (("incidents", "reconcile", "inc_1"), ("incidents", "reconcile")):
        done = terminal.run(*words)
        assert (done.exit_code, "no step 99999" in done.stderr) == (1, True), done.output
    with few.house.database.work(OPERATOR) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Incident)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(Agency)) == 1


@pytest.mark.breaks("I7 a run sent what its steps sent")
def test_the_terminal_says_what_must_always_hold_and_does_not(few: Books, clean_database: postgres.Urls) -> None:
    few.sql("UPDATE run_totals SET sent = 1")
    done = Terminal(few.house, clean_database).run("incidents", "reconcile")
    assert (done.exit_code, "run run_1 says that 1 usd were sent" in done.stderr) == (1, True)
