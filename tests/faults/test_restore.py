"""An older database comes back while workers are alive: nothing is sent before everything was found again in Stripe."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import requests
import sqlalchemy as sa
from psycopg import sql

from billing import following, gateway, importing
from billing.models import Payment, SyncCursor
from billing.outages import approvals, forgotten, freezing, grants, planning, reconcile, recovery, restore, tasks
from billing.outages.findings import Frozen, Reconciliation
from billing.outages.models import Control, Grant, RunTotal, Step
from billing.outages.planning import Declaration
from sandbox import postgres
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Agency, AuditEntry, Member
from tests.databases import WARM
from tests.faults.between import Between, standing_between
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, Shop
from webhooks import inbox
from webhooks import tasks as webhook_tasks

GRANTS = 12
SEPTEMBER = datetime(2019, 9, 2, tzinfo=UTC)
"""Everybody's subscription has been renewed."""


@pytest.fixture
def shop() -> Iterator[Shop]:
    with shops.opened() as opened:
        yield opened


@pytest.fixture
def between(shop: Shop) -> Iterator[Between]:
    with standing_between(shop.url) as somebody:
        yield somebody


class Place:
    """The address of one database, where an older copy of it can be put back, as a backup is restored."""

    def __init__(self, server: postgres.Server, urls: postgres.Urls, anchors: Path, shop: Shop, stripe: str) -> None:
        self._server, self._anchors, self._shop, self._stripe = server, anchors, shop, stripe
        self.urls = urls
        self._name = urlsplit(urls.app).path[1:]

    @contextmanager
    def worker(self, anchors: Path | None = None, url: str | None = None) -> Iterator[House]:
        """A process that has just started, and reaches the database at `url`."""
        url = url or self.urls.app
        database = Database(url)
        house = self._shop.house(database, self._stripe)
        settings = replace(house.settings, database_url=url, anchors=anchors or self._anchors)
        try:
            yield House(settings, database, house.clock)
        finally:
            database.dispose()

    def another_address(self, link: Path) -> str:
        """The same server under another name, as a new host or port is one."""
        link.symlink_to(self._server.host)
        return self.urls.app.replace(quote(self._server.host, safe=""), quote(str(link), safe=""))

    def back_up(self) -> None:
        self._copy(self._name, f"{self._name}_backup")

    def put_back(self) -> None:
        self._copy(f"{self._name}_backup", self._name)

    def forget(self) -> None:
        with closing(psycopg.connect(self._server.admin_url, autocommit=True)) as admin:
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(f"{self._name}_backup"))
            )

    def _copy(self, here: str, there: str) -> None:
        WARM.close()  # a database that is in use is not copied
        with closing(psycopg.connect(self._server.admin_url, autocommit=True)) as admin:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(there)))
            admin.execute(
                sql.SQL("CREATE DATABASE {} OWNER outage_owner TEMPLATE {}").format(
                    sql.Identifier(there), sql.Identifier(here)
                )
            )


@pytest.fixture
def place(
    postgres_server: postgres.Server, clean_database: postgres.Urls, tmp_path: Path, shop: Shop, between: Between
) -> Iterator[Place]:
    place = Place(postgres_server, clean_database, tmp_path / "anchors", shop, between.url)
    yield place
    place.forget()


def approve(house: House, shop: Shop) -> list[str]:
    """Sold, imported, declared, and approved: 1.00, 1.01, … of each invoice go back."""
    invoices = shop.sell(GRANTS)
    shop.now(DECLARED)
    importing.import_account(house, "")
    with house.database.work(OPERATOR) as session:
        shops.declared(session)
        shops.approved_run(session)
        for i, invoice in enumerate(invoices):
            shops.grant(session, invoice, refund=100 + i)
    return invoices


def given(shop: Shop) -> list[tuple[int, int]]:
    """(refunds, cents) of each charge."""
    return sorted((len(charge["refunds"]), charge["refunded"]) for charge in shop.ledger()["charges"])


ONCE = [(1, 100 + i) for i in range(GRANTS)]


@pytest.fixture(autouse=True)
def _each_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a minute passed between any two."""
    monkeypatch.setattr(restore, "LOOK_EVERY", 0.0)


def may_send(house: House) -> bool | None:
    """None: nobody has ever stopped it."""
    with house.database.work(OPERATOR) as session:
        return session.scalar(sa.select(Control.sending).where(Control.scope == ""))


def posts(between: Between) -> int:
    return sum(method == "POST" for method, _ in between.passed)


def test_nothing_is_sent_from_an_older_copy_before_what_it_forgot_was_found(
    place: Place, shop: Shop, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.worker() as house:
        approve(house, shop)
        restore.look(house)
    place.back_up()
    with place.worker() as house:
        restore.look(house)
        assert grants.send_due(house, 7) == 7
        restore.look(house)
        assert may_send(house) is None
    assert len([once for once in given(shop) if once[0]]) == 7
    place.put_back()
    before = posts(between)
    find, seen = recovery._find_everything, []

    def watched(house: House) -> Any:
        assert may_send(house) is False
        found = find(house)
        seen.append(posts(between) - before)
        return found

    monkeypatch.setattr(recovery, "_find_everything", watched)
    with place.worker() as house:
        assert grants.send_due(house, 0) == 0
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert seen == [0]
        assert given(shop) == ONCE
        assert may_send(house) is True
        with house.database.work(OPERATOR) as session:
            assert Counter(session.scalars(sa.select(Step.state))) == {"succeeded": GRANTS}
            assert Counter(session.scalars(sa.select(Grant.state))) == {"succeeded": GRANTS}
            (found,) = session.scalars(sa.select(Reconciliation)).all()
            assert found.differences == []
            actions = sa.select(AuditEntry.action).where(AuditEntry.action.like("sending.%")).order_by(AuditEntry.seq)
            assert session.scalars(actions).all() == ["sending.stopped", "sending.continued"]
        assert reconcile.reconcile(house, "inc_1").differences == []


def test_an_older_copy_is_noticed_under_another_address_too(
    place: Place, shop: Shop, between: Between, tmp_path: Path
) -> None:
    with place.worker() as house:
        approve(house, shop)
        restore.look(house)
    place.back_up()
    with place.worker() as house:
        assert grants.send_due(house, 7) == 7
        restore.look(house)
    place.put_back()
    with place.worker(url=place.another_address(tmp_path / "standby")) as house:
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        with house.database.work(OPERATOR) as session:
            stopped = session.scalars(sa.select(AuditEntry.after).where(AuditEntry.action == "sending.stopped")).one()
        assert stopped is not None
        assert "It has 0 attempts, and had 7 before." in stopped["reason"]
    assert given(shop) == ONCE


def test_a_worker_that_was_alive_all_the_time_notices_by_its_new_connection(
    place: Place, shop: Shop, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "LOOK_EVERY", 3_600.0)
    with place.worker() as house:
        approve(house, shop)
        restore.look(house)
        house.database.dispose()
        place.back_up()
        restore.look(house)
        assert grants.send_due(house, 5) == 5
        house.database.dispose()
        place.put_back()
        tasks.sweep(house, time.monotonic() + 60)
        assert given(shop) == ONCE
        with house.database.work(OPERATOR) as session:
            assert session.scalars(sa.select(Reconciliation.objects)).one() >= 5


def given_since_the_copy(place: Place, shop: Shop) -> list[str]:
    """After all was given a copy from before the declaration comes back: nothing in it knows of these invoices."""
    with place.worker() as house:
        restore.look(house)
    place.back_up()
    with place.worker() as house:
        invoices = approve(house, shop)
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        restore.look(house)
    assert given(shop) == ONCE
    place.put_back()
    return invoices


@pytest.mark.breaks("I1 a step has one object")
def test_what_no_step_remembers_is_frozen_until_a_person_has_looked(place: Place, shop: Shop, between: Between) -> None:
    invoices = given_since_the_copy(place, shop)
    before = posts(between)
    with place.worker() as house:
        importing.import_account(house, "")
        tasks.sweep(house, time.monotonic() + 60)
        with house.database.work(OPERATOR) as session:
            assert set(session.scalars(sa.select(Frozen.invoice_id))) == set(invoices)
            shops.declared(session)
            shops.approved_run(session)
            declaration = Declaration("facebook", shops.STARTED)
            left_out = {
                one["reason"]: one["count"] for one in planning.preview(session, DECLARED, declaration).left_out
            }
            assert left_out == {"frozen": GRANTS}
            shops.grant(session, invoices[0], refund=100)
            assert session.scalars(sa.select(Step.id)).one() > GRANTS, "the number of a forgotten step"
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert shops.seen(house.database) == {"blocked": 1}
        assert (given(shop), posts(between)) == (ONCE, before)
        with house.database.work(OPERATOR) as session:
            finance = session.scalars(sa.select(Member).where(Member.role == "finance")).one()
            assert len(freezing.lift(session, invoices[0], finance, "It is another outage.", "cli")) >= 1
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert shops.seen(house.database) == {"succeeded": 1}
        # 1.00 before, and 1.00 because finance said so.
        assert Counter(given(shop)) == Counter(ONCE) - Counter([(1, 100)]) + Counter([(2, 200)])


def test_the_other_machines_go_on_when_one_has_found_everything(place: Place, shop: Shop, tmp_path: Path) -> None:
    with place.worker() as house:
        approve(house, shop)
    place.back_up()
    with place.worker() as house, place.worker(tmp_path / "another machine") as other:
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        restore.look(other)
        restore.look(house)
        restore.look(other)
    place.put_back()
    with place.worker() as house:
        tasks.work_until_quiet(house, "inc_1", timeout=120)
    with place.worker(tmp_path / "another machine") as other:
        restore.look(other)
        assert may_send(other) is True
        with other.database.work(OPERATOR) as session:
            assert session.scalar(sa.select(sa.func.count()).select_from(Reconciliation)) == 1
    assert given(shop) == ONCE


def test_a_copy_that_comes_back_while_everything_is_found_again_stays_stopped(
    place: Place, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found is written where it was begun, or nowhere."""
    with place.worker() as house:
        approve(house, shop)
        with house.database.work(OPERATOR) as session:
            restore.stop(session, "An older database came back.")
        find = recovery._find_everything

        def found(house: House) -> Any:
            with psycopg.connect(place.urls.owner.replace("outage_owner@", "postgres@")) as copy:
                copy.execute("DELETE FROM reconciliations WHERE scope = ''")
            return find(house)

        monkeypatch.setattr(recovery, "_find_everything", found)
        assert recovery.recover_due(house) == 0
        assert may_send(house) is False


def test_whoever_looks_while_everything_is_found_again_stops_it_no_second_time(
    place: Place, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends a stop waits for whoever is judging whether there is one, and is waited for."""
    with place.worker() as house:
        approve(house, shop)
        restore.look(house)
    place.back_up()
    with place.worker() as house:
        assert grants.send_due(house, 7) == 7
        restore.look(house)
    place.put_back()
    judge, held = restore._was_found_again, []

    def judged(*asked: Any) -> bool:
        found = judge(*asked)
        with psycopg.connect(place.urls.owner.replace("outage_owner@", "postgres@")) as other:
            try:
                other.execute("SELECT FROM control WHERE scope = '' FOR UPDATE NOWAIT")
                held.append(False)
            except psycopg.errors.LockNotAvailable:
                held.append(True)
        return found

    with place.worker() as house:
        restore.look(house)
        monkeypatch.setattr(restore, "_was_found_again", judged)
        restore.look(house)
    assert held == [True]


def fail(shop: Shop, invoice: str) -> None:
    """The bank returns the refund of this invoice's note."""
    (note,) = shop.get("/v1/credit_notes", invoice=invoice)["data"]
    answer = requests.post(f"{shop.url}/_sandbox/refunds/{note['refunds'][0]['refund']}/fail", json={}, timeout=120)
    assert answer.ok, answer.text


def settle(house: House) -> None:
    """Stripe's events come, and are handled."""
    following.follow(house, "", inbox.taking("", live=False))
    webhook_tasks.sweep(house, time.monotonic() + 60)


def balances(shop: Shop) -> list[int]:
    return [shop.get(f"/v1/customers/{customer}")["balance"] for customer in shop.customers]


def test_a_refund_that_failed_since_the_copy_falls_back(place: Place, shop: Shop) -> None:
    """1.00 came back from the bank after the copy was made: it goes to the customer's balance, once."""
    with place.worker() as house:
        invoices = approve(house, shop)
        restore.look(house)
        assert grants.send_due(house, 7) == 7
        restore.look(house)
    place.back_up()
    with place.worker() as house:
        assert grants.send_due(house, 5) == 5
        restore.look(house)
    fail(shop, invoices[0])
    place.put_back()
    with place.worker() as house:
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        with house.database.work(OPERATOR) as session:
            steps = session.execute(sa.select(Step.id, Step.kind, Step.state, Step.amount).order_by(Step.id)).all()
            assert steps[0] == (1, "credit_note", "failed", 100)
            assert steps[-1][1:] == ("balance", "succeeded", 100)
            # Of its payment nothing is taken any more; of the others 1.01, 1.02, … 1.11.
            taken = sa.select(Payment.refunded, Payment.reserved).order_by(Payment.refunded)
            assert session.execute(taken).all() == [(0, 0), *((100 + i, 0) for i in range(1, GRANTS))]
            assert session.scalars(sa.select(RunTotal.sent)).one() == sum(range(100, 100 + GRANTS))
        assert balances(shop) == [-100] + [0] * (GRANTS - 1)
        assert reconcile.reconcile(house, "inc_1").differences == []


@pytest.mark.breaks("I1 a step has one object")
def test_what_fell_back_after_the_copy_was_made_does_not_do_so_again(place: Place, shop: Shop) -> None:
    """Two refunds came back, the second first, so that each would take the other's number if it did so anew."""
    with place.worker() as house:
        invoices = approve(house, shop)
        restore.look(house)
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        restore.look(house)
    place.back_up()
    with place.worker() as house:
        restore.look(house)
        for invoice in (invoices[1], invoices[0]):
            fail(shop, invoice)
            settle(house)
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        with house.database.work(OPERATOR) as session:
            made = sa.select(Step.id, Step.amount).where(Step.kind == "balance").order_by(Step.id)
            assert session.execute(made).all() == [(GRANTS + 1, 101), (GRANTS + 2, 100)]
        restore.look(house)
    back = [-100, -101] + [0] * (GRANTS - 2)
    assert balances(shop) == back
    place.put_back()
    with place.worker() as house:
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert balances(shop) == back
        with house.database.work(OPERATOR) as session:
            assert set(session.scalars(sa.select(Frozen.invoice_id))) == {invoices[0], invoices[1]}
            made = sa.select(Step.id, Step.state).where(Step.kind == "balance").order_by(Step.id)
            assert session.execute(made).all() == [(GRANTS + 3, "blocked"), (GRANTS + 4, "blocked")]


@pytest.mark.breaks("I1 a step has one object")
def test_a_step_takes_nothing_that_is_for_another_invoice(place: Place, shop: Shop, between: Between) -> None:
    """Before the older copy was noticed somebody approved anew: a step has the number of a forgotten one."""
    invoices = given_since_the_copy(place, shop)
    before = posts(between)
    with place.worker() as house:
        importing.import_account(house, "")
        with house.database.work(OPERATOR) as session:
            shops.declared(session)
            shops.approved_run(session)
            shops.grant(session, invoices[1], refund=100)
            assert session.scalars(sa.select(Step.id)).one() == 1
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        with house.database.work(OPERATOR) as session:
            assert session.execute(sa.select(Step.state, Step.stripe_id)).one() == ("needs_person", None)
            assert set(session.scalars(sa.select(Frozen.invoice_id))) == set(invoices)
    assert (given(shop), posts(between)) == (ONCE, before)


@pytest.mark.breaks("I1 a step has one object")
@pytest.mark.parametrize("spent", [False, True])
@pytest.mark.parametrize("imported", [False, True])
def test_a_balance_entry_that_no_step_remembers_is_found(place: Place, shop: Shop, imported: bool, spent: bool) -> None:
    """Of the older copy nobody has anything at all from us but 1.00 on a balance, which a renewal may have spent."""
    invoices = shop.sell(3)
    shop.now(DECLARED)
    with place.worker() as house:
        if imported:
            importing.import_account(house, "")
        restore.look(house)
    place.back_up()
    with place.worker() as house:
        importing.import_account(house, "")
        with house.database.work(OPERATOR) as session:
            shops.declared(session)
            shops.approved_run(session)
            shops.grant(session, invoices[1], credit=100)
            session.execute(sa.update(Step).values(kind="balance"))
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert balances(shop) == [0, -100, 0]
        restore.look(house)
    place.put_back()
    if spent:
        shop.now(SEPTEMBER)
        assert balances(shop) == [0, 0, 0]
    with place.worker() as house:
        tasks.sweep(house, time.monotonic() + 60)
        assert may_send(house) is True
        with house.database.work(OPERATOR) as session:
            theirs = {one["id"] for one in shop.get("/v1/invoices", customer=shop.customers[1])["data"]}
            assert set(session.scalars(sa.select(Frozen.invoice_id))) == theirs >= {invoices[1]}


def test_balances_of_a_thousand_customers_are_searched_in_a_few_calls(
    place: Place, shop: Shop, between: Between
) -> None:
    """10 pages of customers, and the entries of the two whose balance the mirror cannot account for."""
    customers = [shop.post("/v1/customers", email="someone@example.com")["id"] for _ in range(1_000)]
    ours = {"engine": shop.house(Database(place.urls.app)).settings.installation, "step": "7"}

    def credit(customer: str, **metadata: str) -> None:
        form = {"amount": -100, "currency": "usd", "metadata": metadata or {"by": "somebody"}}
        shop.post(f"/v1/customers/{customer}/balance_transactions", **form)

    for customer in customers[:50]:
        credit(customer)
    with place.worker() as house:
        importing.import_account(house, "")
        for customer, metadata in ((customers[10], {}), (customers[700], ours)):
            credit(customer, **metadata)
        before = len(between.passed)
        connection = gateway.connect(house, "")
        found = list(forgotten.entries(house, connection, house.clock.now(), house.clock.now()))
        assert [(one.customer_id, one.amount) for one in found] == [(customers[700], -100)]
        of_two = [f"/v1/customers/{customers[one]}/balance_transactions" for one in (10, 700)]
        assert Counter(path for _, path in between.passed[before:]) == {"/v1/customers": 10} | dict.fromkeys(of_two, 1)


def test_a_customer_who_was_deleted_since_holds_nothing_up(place: Place, shop: Shop) -> None:
    """It has spent 1.00 of its balance on a renewal, so it may have had an entry of ours; nobody can see any more."""
    shop.sell(1)
    shop.now(DECLARED)
    with place.worker() as house:
        importing.import_account(house, "")
        shop.post(f"/v1/customers/{shop.customers[0]}/balance_transactions", amount=-100, currency="usd")
        shop.now(SEPTEMBER)
        shop.delete(f"/v1/subscriptions/{shop.subscriptions[0]}")
        shop.delete(f"/v1/customers/{shop.customers[0]}")
        connection, followed_to = gateway.connect(house, ""), following.look_ahead(house, "")
        assert list(forgotten.entries(house, connection, DECLARED, followed_to)) == []


def dispute(shop: Shop, path: str, **asked: Any) -> Any:
    answer = requests.post(f"{shop.url}/_sandbox/disputes{path}", json=asked, timeout=120)
    assert answer.ok, answer.text
    return answer.json()


@pytest.mark.parametrize("imported", [False, True])
def test_what_happened_after_the_copy_was_made_is_still_handled(place: Place, shop: Shop, imported: bool) -> None:
    """A refund waits for the end of a dispute, which came after the copy was made and was handled in the database that
    is lost. An import in between takes the event from nobody."""
    with place.worker() as house:
        invoices = approve(house, shop)
        (payment,) = shop.get("/v1/invoice_payments", invoice=invoices[0])["data"]
        disputed = dispute(shop, "", payment_intent=payment["payment"]["payment_intent"])["id"]
        settle(house)
        restore.look(house)
        assert grants.send_due(house, 5) == 5
        assert shops.seen(house.database) == {"blocked": 1, "succeeded": 4, "approved": 7}
        restore.look(house)
    place.back_up()
    with place.worker() as house:
        restore.look(house)
        assert grants.send_due(house, 2) == 2
        dispute(shop, f"/{disputed}/close", outcome="won")
        settle(house)
        restore.look(house)
    place.put_back()
    shop.now(DECLARED + timedelta(hours=1))
    with place.worker() as house:
        if imported:
            importing.import_account(house, "")
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert shops.seen(house.database) == {"blocked": 1, "succeeded": 11}
        settle(house)
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert given(shop) == ONCE


def test_nobody_passes_over_events_while_everything_is_found_again(place: Place, shop: Shop) -> None:
    """How far events were followed says since when the older copy has missed them."""

    def followed_to(house: House) -> datetime | None:
        with house.database.work(OPERATOR) as session:
            return session.scalar(sa.select(SyncCursor.fresh_at))

    def follow(house: House) -> None:
        with house.database.work(OPERATOR) as session:
            session.execute(sa.update(SyncCursor).values(looked_at=SyncCursor.looked_at - following.FOLLOW_EVERY))
        webhook_tasks.catch_up(house, time.monotonic() + 60)

    with place.worker() as house:
        approve(house, shop)
        shop.now(DECLARED + timedelta(hours=1))
        with house.database.work(OPERATOR) as session:
            restore.stop(session, "An older database came back.")
        follow(house)
        assert followed_to(house) == DECLARED
        assert recovery.recover_due(house) == 1
        assert followed_to(house) == DECLARED
        follow(house)
        assert followed_to(house) == DECLARED + timedelta(hours=1)


def test_an_account_that_lets_us_in_no_more_holds_up_itself_alone(place: Place, shop: Shop) -> None:
    """What is in it cannot be found: nothing is sent there before a person has looked, should it let us in again."""
    with place.worker() as house:
        approve(house, shop)
        with house.database.work(OPERATOR) as session:
            session.add(Agency(slug="gone", name="Gone", stripe_account="acct_gone"))
            restore.stop(session, "An older database came back.")
        assert recovery.recover_due(house) == 1
        with house.database.work(OPERATOR) as session:
            off = session.execute(sa.select(Control.scope, Control.by).where(~Control.sending)).all()
            assert off == [("account:acct_gone", "engine")]
            finance = session.scalars(sa.select(Member).where(Member.role == "finance")).one()
            approvals.resume_scope(session, "acct_gone", finance, "cli")


@pytest.fixture
def half_sent(place: Place, shop: Shop) -> Iterator[House]:
    """Three are sent, a copy is kept, four more are sent; by a worker that goes on living."""
    with place.worker() as house:
        approve(house, shop)
        restore.look(house)
        assert grants.send_due(house, 3) == 3
        restore.look(house)
        house.database.dispose()
        place.back_up()
        assert grants.send_due(house, 4) == 4
        restore.look(house)
        yield house


def test_a_machine_without_an_anchor_finds_everything_again_before_it_sends(
    half_sent: House, place: Place, shop: Shop, between: Between, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database comes back older, on new machines alone."""
    half_sent.database.dispose()
    place.put_back()
    before = posts(between)
    with place.worker(tmp_path / "new machine") as house:
        tasks.sweep(house, time.monotonic() + 5)
        assert (posts(between) - before, may_send(house)) == (0, None), "it waits for somebody who knows"
        monkeypatch.setattr(restore, "PATIENCE", timedelta(0))
        restore.look(house)
        assert may_send(house) is False
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert (given(shop), may_send(house)) == (ONCE, True)
        with house.database.work(OPERATOR) as session:
            actions = sa.select(AuditEntry.action).where(AuditEntry.action.like("sending.%")).order_by(AuditEntry.seq)
            assert session.scalars(actions).all() == ["sending.stopped", "sending.continued"]


def test_a_machine_that_joins_waits_for_one_that_has_an_anchor_and_stops_nobody(
    half_sent: House, place: Place, shop: Shop, tmp_path: Path
) -> None:
    with place.worker(tmp_path / "new machine") as house:
        tasks.sweep(house, time.monotonic() + 5)
        assert len([once for once in given(shop) if once[0]]) == 7
        restore.look(half_sent)
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert (given(shop), may_send(house)) == (ONCE, None)
    with place.worker(tmp_path / "new machine") as again:
        assert restore.look(again), "it has an anchor of its own"


def test_machines_without_anchors_do_not_vouch_for_each_other(half_sent: House, place: Place, tmp_path: Path) -> None:
    with place.worker(tmp_path / "one") as one, place.worker(tmp_path / "two") as two:
        assert [restore.look(house) for house in (one, two, one, two)] == [False] * 4


def test_what_was_vouched_for_before_the_copy_came_back_counts_for_nothing(
    half_sent: House, place: Place, tmp_path: Path
) -> None:
    with place.worker(tmp_path / "new machine") as house:
        assert not restore.look(house)
        restore.look(half_sent)
        for one in (house, half_sent):
            one.database.dispose()
        place.back_up()
        place.put_back()
        assert not restore.look(house)


def test_it_stays_stopped_while_stripe_does_not_answer(
    place: Place, shop: Shop, between: Between, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.worker() as house:
        approve(house, shop)
    place.back_up()
    with place.worker() as house:
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        restore.look(house)
    place.put_back()
    with place.worker() as house:
        with monkeypatch.context() as silent:
            silent.setattr("billing.gateway.READ_RETRIES", 0)
            silent.setattr(between, "lose", lambda method, path: path == "/v1/refunds")
            tasks.sweep(house, time.monotonic() + 20)
            assert may_send(house) is False
        tasks.work_until_quiet(house, "inc_1", timeout=120)
        assert may_send(house) is True
    assert given(shop) == ONCE
