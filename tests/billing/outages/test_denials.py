"""Whoever is denied an act leaves one audit entry, and changes nothing else."""

from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tenants import audit
from tenants.clock import FixedClock
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Member
from tests.billing.outages.august import DECLARED, August
from tests.factories import MemberFactory, building
from tests.pages import BLUEPRINTS
from tests.web import app_of, browser, house_of, link_for, send

Entry = tuple[str, str, str, str, str]
STALE = "0" * 32


@pytest.fixture
def app(august: August) -> Flask:
    return app_of(house_of(august.db, clock=FixedClock(DECLARED)), *BLUEPRINTS)


@pytest.fixture
def enter(app: Flask) -> Callable[[Member], FlaskClient]:
    house: House = app.extensions["house"]
    return lambda member: browser(app, link_for(house, member))


def entries(august: August) -> list[Entry]:
    """Every denial: who, from where, what, of which incident, and why."""
    found = august.rows(
        "SELECT actor, origin, action, subject, after FROM audit_entries WHERE action LIKE '%\\_refused' ORDER BY at"
    )
    return [(one.actor, one.origin, one.action, one.subject, one.after["why"]) for one in found]


def state(august: August) -> list[object]:
    of_runs = august.rows("SELECT id, state, fingerprint, approved_by FROM runs ORDER BY id")
    return [*of_runs, *august.rows("SELECT id, state FROM grants"), *august.rows("SELECT id, state FROM incidents")]


def test_each_denied_approval_says_who_wanted_it_and_why_not(
    august: August, enter: Callable[[Member], FlaskClient]
) -> None:
    with building(august.db):
        auditor = MemberFactory(role="auditor", email="auditor@operator.example")
        other = MemberFactory(email="other@operator.example")
        theirs = MemberFactory(role="agency-finance", email="theirs@acme.example", agency_id=august.agency.id)
    incident = august.declare()
    fingerprint = august.shown(incident)["fingerprint"]
    before = state(august)
    expected: list[Entry] = []
    for member, said, status, why in (
        (august.finance, fingerprint, 403,
         "You declared this incident, so a second person has to approve its refunds."),
        (other, fingerprint, 403, "other@operator.example is finance: refunds are approved by an approver."),
        (auditor, fingerprint, 403, "Only finance or approver may do this."),
        (theirs, fingerprint, 403, "Only finance or approver may do this."),
        (august.approver, STALE, 409,
         f"The refunds changed since you looked. Review them again: they are {fingerprint} now."),
    ):  # fmt: skip
        answer = send(enter(member), "/console", f"/console/incidents/{incident}/approve", {"fingerprint": said})
        assert (answer.status_code, why in answer.text) == (status, True)
        expected.append((member.email, "console", "incident.approve_refused", incident, why))
        assert entries(august) == expected
        assert state(august) == before
    here = f"/console/incidents/{incident}/approve"
    assert send(enter(august.approver), "/console", here, {"fingerprint": fingerprint}).status_code == 303
    assert entries(august) == expected  # what is allowed has its own entry
    assert send(enter(august.approver), "/console", here, {"fingerprint": fingerprint}).status_code == 409
    assert entries(august)[-1][-1] == "Nothing of this incident waits for an approval."
    with august.db.work(OPERATOR) as session:
        assert audit.breaks(session) == {}


def test_a_declaration_and_a_no_by_whoever_may_not_are_noted_too(
    august: August, enter: Callable[[Member], FlaskClient]
) -> None:
    incident = august.declare()
    fields: dict[str, str | list[str]] = {"platform": "facebook", "reason": "No."}
    assert send(enter(august.approver), "/console", "/console/incidents", fields).status_code == 403
    assert send(enter(august.finance), "/console", f"/console/incidents/{incident}/decline", fields).status_code == 403
    assert entries(august) == [
        ("approver@operator.example", "console", "incident.declare_refused", "new", "Only finance may do this."),
        ("finance@operator.example", "console", "incident.decline_refused", incident, "Only approver may do this."),
    ]


def test_whoever_may_only_read_and_acts_is_noted(august: August, enter: Callable[[Member], FlaskClient]) -> None:
    with building(august.db):
        auditor = MemberFactory(role="auditor", email="auditor@operator.example")
    client, expected = enter(auditor), []
    either, finance = "Only finance or approver may do this.", "Only finance may do this."
    for address, fields, entry, why in (
        ("desk/grants/7/paid", {"note": "wire 1"}, ("grant.paid_refused", "7"), finance),
        ("desk/lift", {"invoice": "in_7", "why": "x"}, ("invoice.lift_refused", "in_7"), either),
        ("desk/continue", {}, ("sending.continue_refused", "everything"), either),
        ("suspected/inc_7/dismiss", {"reason": "x"}, ("incident.dismiss_refused", "inc_7"), finance),
        ("incidents/inc_7/replan", {}, ("incident.replan_refused", "inc_7"), either),
        ("incidents/inc_7/halt", {}, ("incident.halt_refused", "inc_7"), either),
        ("incidents/inc_7/continue", {}, ("incident.continue_refused", "inc_7"), either),
        ("incidents/inc_7/updates", {"body": "x"}, ("incident.update_refused", "inc_7"), either),
        ("incidents/inc_7/damages", {"amount": "1"}, ("damage.report_refused", "inc_7"), finance),
        ("messages/7/again", {}, ("message.retry_refused", "7"), either),
        ("messages/words", {"agency": "acme"}, ("message.template_refused", "acme"), finance),
        ("webhooks/7/again", {}, ("webhook.retry_refused", "7"), either),
        ("events/7/again", {}, ("event.retry_refused", "7"), either),
    ):
        said: dict[str, str | list[str]] = dict(fields)
        assert send(client, "/console", f"/console/{address}", said).status_code == 403
        expected.append((auditor.email, "console", *entry, why))
        assert entries(august) == expected


def test_every_act_is_noted_where_it_is_denied(app: Flask) -> None:
    allowed = {"messages.show_words"}  # shows words that a form has, and saves nothing
    acts = {
        rule.endpoint for rule in app.url_map.iter_rules()
        if rule.methods and "POST" in rule.methods and hasattr(app.view_functions[rule.endpoint], "guard")
    }  # fmt: skip
    assert {name for name in acts if not hasattr(app.view_functions[name], "noted")} == allowed
    assert len(acts) > 20


def test_what_is_not_there_or_nobody_asked_for_is_not_noted(
    august: August, app: Flask, enter: Callable[[Member], FlaskClient]
) -> None:
    fields: dict[str, str | list[str]] = {"fingerprint": STALE}
    assert send(enter(august.approver), "/console", "/console/incidents/inc_none/approve", fields).status_code == 404
    assert browser(app).post("/console/incidents/inc_none/approve", data=fields).status_code in (302, 303, 400, 401)
    assert entries(august) == []
    with building(august.db):
        auditor = MemberFactory(role="auditor", email="auditor@operator.example")
    odd = f"/console/incidents/{'x' * 200}%07%0a/approve"
    assert send(enter(auditor), "/console", odd, fields).status_code == 403
    assert [one[3] for one in entries(august)] == ["x" * 80]
