"""Events that wait or failed are shown in the console and on the terminal, and tried again when a person says so."""

import pytest
import sqlalchemy as sa
from flask import Flask

from billing import portal
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Agency, AuditEntry, Member
from tests.factories import building
from tests.factories.webhooks import InboxEventFactory
from tests.terminal import FINANCE, Terminal
from tests.web import app_of, browser, house_of, link_for, send
from webhooks.events.console import blueprint
from webhooks.models import InboxEvent


@pytest.fixture
def house(db: Database) -> House:
    with building(db) as session:
        session.add_all(
            Member(email=f"{role}@operator.example", role=role) for role in ("finance", "approver", "auditor")
        )
        InboxEventFactory(event_id="evt_waits", reason="Stripe does not answer.", attempts=2)
        InboxEventFactory(event_id="evt_done", state="handled")
        InboxEventFactory(event_id="evt_failed", state="failed", reason="<b>Stripe</b> never answered.", attempts=9)
        InboxEventFactory(event_id="evt_orphan", state="orphan", reason="No agency has this Stripe account.",
                          stripe_account="acct_new")  # fmt: skip
    return house_of(db)


@pytest.fixture
def app(house: House) -> Flask:
    return app_of(house, portal.blueprint, blueprint)


def state_of(house: House, event: str) -> tuple[str, int]:
    with house.database.work(OPERATOR) as session:
        row = session.scalars(sa.select(InboxEvent).where(InboxEvent.event_id == event)).one()
        return row.state, row.attempts


def id_of(house: House, event: str) -> int:
    with house.database.work(OPERATOR) as session:
        return session.scalars(sa.select(InboxEvent.id).where(InboxEvent.event_id == event)).one()


def member(house: House, role: str) -> Member:
    with house.database.work(OPERATOR) as session:
        return session.scalars(sa.select(Member).where(Member.role == role)).one()


def test_the_console_shows_what_waits_and_what_failed_and_tries_it_again(app: Flask, house: House) -> None:
    client = browser(app, link_for(house, member(house, "finance")))
    page = client.get("/console/events").text
    assert [name for name in ("evt_waits", "evt_done", "evt_failed", "evt_orphan") if name in page] == [
        "evt_waits", "evt_failed", "evt_orphan",
    ]  # fmt: skip
    assert "&lt;b&gt;Stripe&lt;/b&gt; never answered." in page
    assert "evt_done" in client.get("/console/events?state=handled").text
    assert client.get("/console/events?state=broken").status_code == 400
    assert client.get("/console/events?before=x").status_code == 400
    done = send(client, "/console/events", f"/console/events/{id_of(house, 'evt_failed')}/again", {})
    assert done.status_code == 303
    assert state_of(house, "evt_failed") == ("received", 0)
    refused = send(client, "/console/events", f"/console/events/{id_of(house, 'evt_orphan')}/again", {})
    assert (refused.status_code, state_of(house, "evt_orphan")[0]) == (409, "orphan")
    assert "make one first" in refused.text


def test_an_auditor_looks_and_tries_nothing(app: Flask, house: House) -> None:
    client = browser(app, link_for(house, member(house, "auditor")))
    assert "evt_failed" in client.get("/console/events").text
    assert "Try again" not in client.get("/console/events").text
    again = send(client, "/console/events", f"/console/events/{id_of(house, 'evt_failed')}/again", {})
    assert (again.status_code, state_of(house, "evt_failed")[0]) == (403, "failed")


def test_the_terminal_lists_and_retries(house: House, clean_database: object) -> None:
    terminal = Terminal(house, clean_database)  # type: ignore[arg-type]
    listed = terminal.json("events", "list")
    assert [one["event"] for one in listed["events"]] == ["evt_orphan", "evt_failed", "evt_waits"]
    assert listed["counts"] == {"received": 1, "handled": 1, "ignored": 0, "failed": 1, "orphan": 1}
    assert [one["event"] for one in terminal.json("events", "list", "--state", "handled")["events"]] == ["evt_done"]
    terminal.refuses("is handled", "events", "retry", str(id_of(house, "evt_done")), *FINANCE, code="conflict")
    terminal.refuses("no agency has", "events", "retry", str(id_of(house, "evt_orphan")), *FINANCE, code="conflict")
    terminal.refuses("There is no event 999.", "events", "retry", "999", *FINANCE, code="not_found")
    terminal.refuses("Name one event, or say --all.", "events", "retry", *FINANCE, status=2)
    terminal.refuses("Name one event, or say --all.", "events", "retry", "1", "--all", *FINANCE, status=2)
    terminal.refuses("is auditor", "events", "retry", "--all", "--by", "auditor@operator.example", code="not_allowed")
    with house.database.work(OPERATOR) as session:
        session.add(Agency(slug="new", name="New", stripe_account="acct_new"))
    heard: list[str] = []
    house.database.ring = lambda task, subject: heard.append(task)
    assert terminal.json("events", "retry", "--all", *FINANCE) == {"again": 2}
    assert state_of(house, "evt_orphan")[0] == state_of(house, "evt_failed")[0] == "received"
    assert heard == ["webhooks.sweep"]
    with house.database.work(OPERATOR) as session:
        entries = session.execute(sa.select(AuditEntry.action, AuditEntry.subject).order_by(AuditEntry.seq)).all()
    assert [tuple(one) for one in entries if one.action == "event.again"] == [
        ("event.again", "evt_failed"), ("event.again", "evt_orphan"),
    ]  # fmt: skip
