"""Every minute the invariants are looked at; a new breach stops what it concerns, and nothing else."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import Session

from billing import portal
from billing.outages import approvals, console, desk, freezing, grants, oversight
from billing.outages.findings import Frozen, Reconciliation
from billing.outages.models import Control, Step
from sandbox.postgres import Urls
from tenants import audit
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tests.billing.outages.rows import Approved
from tests.terminal import Terminal
from tests.web import app_of, browser, house_of, link_for, send

ONE, TOOK, SENT, CHAIN = (
    "I1 a step has one object",
    "payments count what steps took",
    "I7 a run sent what its steps sent",
    "I8 audit entries follow each other",
)
TAKEN_TWICE = "UPDATE payments SET reserved = 1 WHERE refunded = 1200"


@pytest.fixture
def sent(world: Approved, house: House) -> Approved:
    """One refund of 12.00 that succeeded; two that wait, of two invoices."""
    world.refund_of(1_200)
    grants.send_due(house, 5)
    world.refund_of(800)
    return world


@pytest.fixture
def superuser(database_urls: Urls) -> Iterator[Database]:
    database = Database(database_urls.owner.replace("outage_owner@", "postgres@"), pool_size=1)
    yield database
    database.dispose()


def plant(superuser: Database, statement: str) -> None:
    with superuser.work(OPERATOR) as session:
        session.execute(sa.text("SET LOCAL session_replication_role = replica"))
        session.execute(sa.text(statement))


def a_minute_later(house: House) -> int:
    with house.database.work(OPERATOR) as session:
        past = Reconciliation.ended_at - timedelta(minutes=1)
        session.execute(sa.update(Reconciliation).values(ended_at=past))
    return oversight.check_due(house)


def kept(house: House) -> list[int]:
    """How many breaches each look found that differed from the one before it."""
    with house.database.work(OPERATOR) as session:
        found = session.scalars(sa.select(Reconciliation.differences).order_by(Reconciliation.id))
        return [len(one) for one in found]


def stops(house: House) -> list[tuple[str, str]]:
    with house.database.work(OPERATOR) as session:
        rows = session.execute(sa.select(Control.scope, Control.by).where(~Control.sending).order_by(Control.scope))
        return [tuple(row) for row in rows]


def frozen(house: House) -> list[str]:
    with house.database.work(OPERATOR) as session:
        return list(session.scalars(sa.select(Frozen.invoice_id).where(Frozen.lifted_at.is_(None))))


def member_of(session: Session, role: str) -> Member:
    return session.scalars(sa.select(Member).where(Member.role == role)).one()


def member(house: House, role: str) -> Member:
    with house.database.work(OPERATOR) as session:
        return member_of(session, role)


def test_it_is_looked_at_once_a_minute_however_many_workers_there_are(sent: Approved, house: House) -> None:
    looks: list[int] = []
    threads = [threading.Thread(target=lambda: looks.append(oversight.check_due(house))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(looks) == 1
    assert oversight.check_due(house) == 0
    assert a_minute_later(house) == 1
    assert kept(house) == [0]  # the same answer is not written down again
    assert (stops(house), frozen(house)) == ([], [])


@pytest.mark.breaks(TOOK)
def test_a_payment_that_counts_wrong_freezes_its_invoice_and_nothing_else(
    sent: Approved, house: House, superuser: Database
) -> None:
    plant(superuser, TAKEN_TWICE)
    assert oversight.check_due(house) == 1
    assert (kept(house), frozen(house), stops(house)) == ([1], ["in_2"], [])
    grants.send_due(house, 5)
    assert sent.seen(Step, 2).state == "succeeded"
    a_minute_later(house)
    assert frozen(house) == ["in_2"]


@pytest.mark.breaks(ONE)
def test_an_object_that_no_step_asked_for_freezes_its_invoice_and_what_touches_none_stops_nothing(
    sent: Approved, house: House, superuser: Database
) -> None:
    plant(superuser, "UPDATE credit_notes SET step_id = 2 WHERE step_id = 1")
    plant(
        superuser,
        "INSERT INTO refunds (agency_id, id, currency, amount, status, step_id, created_at)"
        " VALUES (1, 're_x', 'usd', 1, 'succeeded', 99, now())",
    )
    oversight.check_due(house)
    # The note of step 1 says that it is of step 2, whose invoice it is not; nobody knows what the refund is of.
    assert (kept(house), frozen(house), stops(house)) == ([2], ["in_3"], [])


@pytest.mark.breaks(SENT)
def test_a_run_that_counts_wrong_stops_its_incident_until_a_person_continues_it(
    sent: Approved, house: House, superuser: Database
) -> None:
    plant(superuser, "UPDATE run_totals SET sent = 1")
    oversight.check_due(house)
    assert stops(house) == [("incident:inc_1", "invariants")]
    grants.send_due(house, 5)
    assert sent.seen(Step, 2).state == "approved"
    with house.database.work(OPERATOR) as session:
        approvals.resume(session, "inc_1", None, "cli")
    a_minute_later(house)
    assert stops(house) == []  # it is known: whoever continued it has seen it
    grants.send_due(house, 5)
    assert sent.seen(Step, 2).state == "succeeded"


@pytest.mark.breaks(CHAIN)
def test_a_broken_audit_chain_stops_everything_until_a_person_has_looked(
    sent: Approved, house: House, superuser: Database
) -> None:
    with house.database.work(OPERATOR) as session:
        for number in range(3):
            audit.record(session, "ada@example.com", "cli", "plan.weighed", f"price_{number}")
    plant(superuser, "DELETE FROM audit_entries WHERE agency_id = 1 AND seq = 2")
    oversight.check_due(house)
    assert stops(house) == [("everything", "invariants")]
    grants.send_due(house, 5)
    assert sent.seen(Step, 2).state == "approved"
    with house.database.work(OPERATOR) as session:
        approvals.resume_scope(session, None, member_of(session, "finance"), "cli")
    a_minute_later(house)
    assert stops(house) == []
    grants.send_due(house, 5)
    assert sent.seen(Step, 2).state == "succeeded"


@pytest.mark.breaks(SENT)
def test_what_comes_back_after_it_was_gone_stops_again(sent: Approved, house: House, superuser: Database) -> None:
    for found in (1, 1200, 2):
        plant(superuser, f"UPDATE run_totals SET sent = {found}")
        a_minute_later(house) or oversight.check_due(house)
    assert kept(house) == [1, 0, 1]


@pytest.fixture
def shown(sent: Approved, db: Database) -> Flask:
    return app_of(house_of(db), portal.blueprint, console.blueprint, desk.blueprint)


@pytest.mark.breaks(TOOK, CHAIN)
def test_the_console_shows_what_stands_still_and_lets_finance_lift_it(
    sent: Approved, house: House, superuser: Database, shown: Flask
) -> None:
    plant(superuser, TAKEN_TWICE)
    plant(superuser, "UPDATE audit_entries SET previous_hash = 'x' WHERE seq = 1")
    oversight.check_due(house)
    client = browser(shown, link_for(house_of(house.database), member(house, "finance")))
    page = client.get("/console/desk").text
    for words in ("Stopped", "Everything", "does not follow the one before it", "Frozen invoices", "in_2", "The books",
                  "counts 1 reserved and 1200 refunded of 5800"):  # fmt: skip
        assert words in page
    no_reason = send(client, "/console/desk", "/console/desk/lift", {"invoice": "in_2", "why": " "})
    assert (no_reason.status_code, frozen(house)) == (400, ["in_2"])
    assert send(client, "/console/desk", "/console/desk/lift", {"invoice": "in_2", "why": "Seen."}).status_code == 303
    assert send(client, "/console/desk", "/console/desk/continue", {}).status_code == 303
    assert (frozen(house), stops(house)) == ([], [])
    assert send(client, "/console/desk", "/console/desk/lift", {"invoice": "in_9", "why": "x"}).status_code == 404


def test_the_terminal_lifts_with_a_reason(sent: Approved, house: House, clean_database: Urls) -> None:
    with house.database.work(OPERATOR) as session:
        freezing.freeze(session, [(sent.agency_id, "in_2", "They differ.")])
    terminal = Terminal(house_of(house.database), clean_database)
    by = ("--by", "finance@example.com", "--reason", "Seen.")
    terminal.refuses("is not frozen", "incidents", "lift", "in_77", *by, code="not_found")
    assert terminal.json("incidents", "lift", "in_2", *by) == {"lifted": "in_2", "reasons": ["They differ."]}
    assert frozen(house) == []
