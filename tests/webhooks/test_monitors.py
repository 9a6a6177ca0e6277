"""Monitors open and close suspected incidents, prove who they are, and never move money."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from billing.errors import BadRequest, Conflict, NotAllowed
from billing.outages import incidents, schemas, suspicions
from billing.outages.alarms import Suspicion
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tenants.models import AuditEntry
from tests.billing.outages.august import DECLARED, August, at
from tests.factories import AgencyFactory, MemberFactory, building
from tests.web import app_of, house_of
from webhooks import monitors
from webhooks.views import blueprint

PAGERDUTY_SECRET = "PD-secret-of-the-subscription"


@dataclass
class Watching:
    """A monitor of Facebook of one kind, and what it sends."""

    august: August
    client: FlaskClient
    kind: str
    path: str
    secret: str

    def send(self, document: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        answer = self.client.post(self.path, data=raw, headers=self.proof(raw) if headers is None else headers)
        assert answer.status_code == status, answer.text

    def proof(self, raw: bytes) -> dict[str, str]:
        if self.kind == "alertmanager":
            return {"Authorization": f"Bearer {self.secret}"}
        if self.kind == "pagerduty":
            return {"X-PagerDuty-Signature": signed(raw, self.secret)}
        return {}

    def suspected(self) -> list[tuple[datetime, datetime | None, str]]:
        """(began, ended, title) of each, the earliest first."""
        with self.august.db.work(OPERATOR) as session:
            found = session.execute(
                sa.select(Suspicion.started_at, Suspicion.ended_at, Suspicion.title)
                .where(Suspicion.state == "suspected")
                .order_by(Suspicion.started_at)
            )
            return [tuple(row) for row in found]  # type: ignore[misc]

    def only(self) -> str:
        with self.august.db.work(OPERATOR) as session:
            return session.scalars(sa.select(Suspicion.id)).one()


def signed(raw: bytes, secret: str) -> str:
    return f"v1={hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()}"


def watching(august: August, kind: str, **of_monitor: Any) -> Watching:
    with august.db.work(OPERATOR) as session:
        given = PAGERDUTY_SECRET if kind == "pagerduty" else ""
        _monitor, token, secret = monitors.add(
            session, kind, of_monitor.get("platform", "facebook"), of_monitor.get("agency"), given, august.finance,
            "test",
        )  # fmt: skip
    house = house_of(august.db, clock=FixedClock(DECLARED))
    client = app_of(house, blueprint).test_client()
    return Watching(august, client, kind, f"/webhooks/monitors/{token}", secret or given)


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


@pytest.fixture
def alertmanager(august: August) -> Watching:
    return watching(august, "alertmanager")


@pytest.fixture
def pagerduty(august: August) -> Watching:
    return watching(august, "pagerduty")


@pytest.fixture
def statuspage(august: August) -> Watching:
    return watching(august, "statuspage")


@pytest.fixture(autouse=True)
def _nothing_is_paid_or_paused(august: August) -> Iterator[None]:
    """Whatever monitors send: no run, no grant, no pause, no message."""
    yield
    with august.db.work(OPERATOR) as session:
        if session.scalar(sa.text("SELECT count(*) FROM incidents")) == 0:
            for table in ("runs", "grants", "steps", "pauses", "updates", "messages"):
                assert session.scalar(sa.text(f"SELECT count(*) FROM {table}")) == 0


def firing(start: str = "2019-08-22T20:00:00.123456789Z", *, fingerprint: str = "1a30ba71cca2921f") -> dict[str, Any]:
    """One alert as Alertmanager sends it, in nanoseconds of Go."""
    return {
        "status": "firing",
        "labels": {"alertname": "FacebookTokensRevoked", "instance": "graph.facebook.com", "severity": "critical"},
        "annotations": {"summary": "Graph API answers 190 to every call", "description": "…"},
        "startsAt": start,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example.org:9090/graph?g0.expr=up",
        "fingerprint": fingerprint,
    }


def resolved(end: str, **of_firing: Any) -> dict[str, Any]:
    return firing(**of_firing) | {"status": "resolved", "endsAt": end}


def group(*alerts: dict[str, Any]) -> dict[str, Any]:
    return {
        "receiver": "billing",
        "status": "firing" if any(one["status"] == "firing" for one in alerts) else "resolved",
        "alerts": list(alerts),
        "groupLabels": {"alertname": "FacebookTokensRevoked"},
        "commonLabels": {"alertname": "FacebookTokensRevoked"},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example.org:9093",
        "version": "4",
        "groupKey": '{}:{alertname="FacebookTokensRevoked"}',
        "truncatedAlerts": 0,
    }


def paged(event_type: str, occurred_at: str, **of_incident: Any) -> dict[str, Any]:
    """As in PagerDuty's own example of a v3 webhook."""
    return {
        "event": {
            "id": "5ac64822-4adc-4fda-ade0-410becf0de4f",
            "event_type": event_type,
            "resource_type": "incident",
            "occurred_at": occurred_at,
            "agent": {"id": "PLH1HKV", "type": "user_reference", "summary": "Tenex Engineer"},
            "client": {"name": "PagerDuty"},
            "data": {
                "id": "PGR0VU2",
                "type": "incident",
                "number": 2,
                "status": "triggered",
                "incident_key": "d3640fbd41094207a1c11e58e46b1662",
                "created_at": "2019-08-22T20:00:00Z",
                "title": "Facebook answers nobody",
                "service": {"id": "PF9KMXH", "type": "service_reference", "summary": "API Service"},
                "assignees": [],
                "urgency": "high",
                "resolve_reason": None,
            }
            | of_incident,
        }
    }


def page_incident(status: str, updated_at: str, **of_incident: Any) -> dict[str, Any]:
    """An incident update as Statuspage sends it to its webhook subscribers."""
    return {
        "meta": {
            "unsubscribe": "http://statustest.flyingkleinbrothers.com/?unsubscribe=j0vqr9kl3513",
            "documentation": "",
        },
        "page": {"id": "j2mfxwj97wnj", "status_indicator": "major", "status_description": "Partial System Outage"},
        "incident": {
            "backfilled": False,
            "created_at": "2019-08-22T13:00:00-07:00",
            "impact": "critical",
            "impact_override": None,
            "monitoring_at": None,
            "postmortem_body": None,
            "resolved_at": None,
            "scheduled_for": None,
            "shortlink": "http://j.mp/18zyDQx",
            "status": status,
            "updated_at": updated_at,
            "id": "lbkhbwn21v5q",
            "name": "Elevated API errors",
            "incident_updates": [],
        }
        | of_incident,
    }


def component(new_status: str, created_at: str) -> dict[str, Any]:
    return {
        "meta": {}, "page": {"id": "j2mfxwj97wnj", "status_indicator": "major"},
        "component_update": {
            "created_at": created_at, "new_status": new_status, "old_status": "operational", "id": "k7730b5v92bv",
            "component_id": "rb5wq1dczvbm",
        },
        "component": {
            "created_at": "2013-05-29T21:32:28Z", "id": "rb5wq1dczvbm", "name": "Graph API", "status": new_status,
        },
    }  # fmt: skip


def test_alertmanager_opens_one_with_the_start_that_it_reports_and_closes_it(alertmanager: Watching) -> None:
    alertmanager.send(group(firing()))
    began = at(22, 20).replace(microsecond=123_456)
    assert alertmanager.suspected() == [(began, None, "Graph API answers 190 to every call")]
    alertmanager.send(group(firing()))  # repeat_interval
    alertmanager.send(group(resolved("2019-08-23T02:30:00Z")))
    assert alertmanager.suspected() == [(began, at(23, 2, 30), "Graph API answers 190 to every call")]
    with alertmanager.august.db.work(OPERATOR) as session:
        entries = session.scalars(sa.select(AuditEntry.action).where(AuditEntry.action.like("incident.%"))).all()
    assert entries == ["incident.suspected"]


def test_alerts_that_come_late_or_twice_make_one(alertmanager: Watching) -> None:
    alertmanager.send(group(resolved("2019-08-23T02:30:00Z")))
    alertmanager.send(group(firing()))  # sent before, came after
    alertmanager.send(group(resolved("2019-08-23T02:30:00Z")))
    ((_began, ended, _title),) = alertmanager.suspected()
    assert ended == at(23, 2, 30)


def test_several_alerts_of_one_outage_are_one_until_the_last_ends(alertmanager: Watching) -> None:
    other = {"start": "2019-08-22T21:00:00Z", "fingerprint": "bc97ff14869b13e3"}
    alertmanager.send(group(firing("2019-08-22T20:00:00Z"), firing(**other)))
    alertmanager.send(group(resolved("2019-08-22T23:00:00Z", start="2019-08-22T20:00:00Z"), firing(**other)))
    assert [(began, ended) for began, ended, _ in alertmanager.suspected()] == [(at(22, 20), None)]
    alertmanager.send(group(resolved("2019-08-23T01:00:00Z", **other)))
    assert [(began, ended) for began, ended, _ in alertmanager.suspected()] == [(at(22, 20), at(23, 1))]


def test_the_same_alert_another_day_is_another_one(alertmanager: Watching) -> None:
    alertmanager.send(group(resolved("2019-08-22T21:00:00Z", start="2019-08-22T20:00:00Z")))
    alertmanager.send(group(firing("2019-08-24T08:00:00Z")))
    assert [(began, ended) for began, ended, _ in alertmanager.suspected()] == [
        (at(22, 20), at(22, 21)), (at(24, 8), None),
    ]  # fmt: skip


def test_a_late_copy_of_an_older_alert_leaves_the_newer_outage_as_it_is(alertmanager: Watching) -> None:
    older = {"start": "2019-08-22T20:00:00Z"}
    alertmanager.send(group(firing(**older)))
    alertmanager.send(group(resolved("2019-08-22T21:00:00Z", **older)))
    alertmanager.send(group(firing("2019-08-24T08:00:00Z")))
    both = [(at(22, 20), at(22, 21)), (at(24, 8), None)]
    for copy in (firing(**older), resolved("2019-08-22T21:00:00Z", **older)):
        alertmanager.send(group(copy))
        assert [(began, ended) for began, ended, _ in alertmanager.suspected()] == both
    alertmanager.send(group(resolved("2019-08-24T09:00:00Z", start="2019-08-24T08:00:00Z")))
    assert [(began, ended) for began, ended, _ in alertmanager.suspected()] == [both[0], (at(24, 8), at(24, 9))]


def test_an_older_alert_that_is_heard_of_after_a_newer_one_is_one_of_its_own(alertmanager: Watching) -> None:
    alertmanager.send(group(firing("2019-08-24T08:00:00Z")))
    alertmanager.send(group(resolved("2019-08-22T21:00:00Z", start="2019-08-22T20:00:00Z")))
    alertmanager.send(group(resolved("2019-08-24T09:00:00Z", start="2019-08-24T08:00:00Z")))
    assert [(began, ended) for began, ended, _ in alertmanager.suspected()] == [
        (at(22, 20), at(22, 21)), (at(24, 8), at(24, 9)),
    ]  # fmt: skip


def test_pagerduty_opens_closes_and_opens_again(pagerduty: Watching) -> None:
    pagerduty.send(paged("incident.triggered", "2019-08-22T20:00:01.169Z"))
    pagerduty.send(paged("incident.acknowledged", "2019-08-22T20:05:00Z"))
    assert pagerduty.suspected() == [(at(22, 20), None, "Facebook answers nobody")]
    pagerduty.send(paged("incident.resolved", "2019-08-23T02:30:00Z", status="resolved"))
    assert pagerduty.suspected() == [(at(22, 20), at(23, 2, 30), "Facebook answers nobody")]
    pagerduty.send(paged("incident.acknowledged", "2019-08-22T20:05:00Z"))  # late: it was resolved after that
    assert pagerduty.suspected() == [(at(22, 20), at(23, 2, 30), "Facebook answers nobody")]
    pagerduty.send(paged("incident.reopened", "2019-08-23T03:00:00Z"))
    assert pagerduty.suspected() == [(at(22, 20), None, "Facebook answers nobody")]


def test_pagerduty_that_says_first_that_it_is_over_makes_one_that_is(pagerduty: Watching) -> None:
    pagerduty.send(paged("incident.resolved", "2019-08-23T02:30:00Z"))
    pagerduty.send(paged("incident.triggered", "2019-08-22T20:00:01Z"))
    assert pagerduty.suspected() == [(at(22, 20), at(23, 2, 30), "Facebook answers nobody")]


@pytest.mark.parametrize("event_type", ["pagey.ping", "service.updated", "incident.annotated", "incident.unheard_of"])
def test_what_pagerduty_says_about_other_things_is_taken_and_changes_nothing(
    pagerduty: Watching, event_type: str
) -> None:
    pagerduty.send(paged(event_type, "2019-08-22T20:00:00Z"))
    assert pagerduty.suspected() == []


def test_statuspage_incidents_open_and_close_and_maintenance_does_not(statuspage: Watching) -> None:
    statuspage.send(page_incident("scheduled", "2019-08-20T00:00:00Z", id="maintenance1"))
    statuspage.send(page_incident("investigating", "2019-08-22T13:10:00-07:00"))
    statuspage.send(page_incident("monitoring", "2019-08-22T18:00:00-07:00"))
    assert statuspage.suspected() == [(at(22, 20), None, "Elevated API errors")]
    over = {"resolved_at": "2019-08-22T19:30:00-07:00"}
    statuspage.send(page_incident("resolved", "2019-08-22T19:31:00-07:00", **over))
    statuspage.send(page_incident("postmortem", "2019-08-24T00:00:00Z", **over))
    statuspage.send(page_incident("identified", "2019-08-22T14:00:00-07:00"))  # late
    assert statuspage.suspected() == [(at(22, 20), at(23, 2, 30), "Elevated API errors")]


def test_statuspage_components_in_any_order_and_again_another_day(statuspage: Watching) -> None:
    statuspage.send(component("operational", "2019-08-23T02:30:00Z"))
    assert statuspage.suspected() == [], "when it began is not known yet"
    statuspage.send(component("major_outage", "2019-08-22T20:00:00Z"))
    assert statuspage.suspected() == [(at(22, 20), at(23, 2, 30), "Graph API")]
    statuspage.send(component("under_maintenance", "2019-08-24T00:00:00Z"))
    statuspage.send(component("degraded_performance", "2019-08-25T06:00:00Z"))
    assert [(began, ended) for began, ended, _ in statuspage.suspected()] == [
        (at(22, 20), at(23, 2, 30)), (at(25, 6), None),
    ]  # fmt: skip


def test_what_a_component_was_before_comes_late_and_leaves_the_newer_outage_as_it_is(statuspage: Watching) -> None:
    statuspage.send(component("operational", "2019-08-22T21:00:00Z"))
    statuspage.send(component("major_outage", "2019-08-24T08:00:00Z"))
    for _ in range(2):
        statuspage.send(component("major_outage", "2019-08-22T20:00:00Z"))
        statuspage.send(component("operational", "2019-08-22T21:00:00Z"))
        assert [(began, ended) for began, ended, _ in statuspage.suspected()] == [
            (at(22, 20), at(22, 21)), (at(24, 8), None),
        ]  # fmt: skip


def test_a_component_that_comes_back_from_maintenance_had_been_over_before(statuspage: Watching) -> None:
    statuspage.send(component("major_outage", "2019-08-22T20:00:00Z"))
    statuspage.send(component("operational", "2019-08-23T02:30:00Z"))
    once = [(at(22, 20), at(23, 2, 30), "Graph API")]
    for _ in range(2):
        statuspage.send(component("under_maintenance", "2019-08-24T00:00:00Z"))
        statuspage.send(component("operational", "2019-08-24T04:00:00Z"))
        statuspage.send(component("major_outage", "2019-08-22T20:00:00Z"))  # late
        assert statuspage.suspected() == once
    statuspage.send(component("partial_outage", "2019-08-25T06:00:00Z"))
    statuspage.send(component("under_maintenance", "2019-08-25T07:00:00Z"))
    statuspage.send(component("operational", "2019-08-25T08:00:00Z"))
    assert statuspage.suspected() == [*once, (at(25, 6), at(25, 8), "Graph API")]


def test_ends_of_a_component_that_come_before_their_starts_each_find_their_own(statuspage: Watching) -> None:
    for status, moment in (
        ("operational", "2019-08-22T21:00:00Z"),
        ("operational", "2019-08-24T09:00:00Z"),
        ("major_outage", "2019-08-22T20:00:00Z"),
        ("major_outage", "2019-08-24T08:00:00Z"),
        ("major_outage", "2019-08-25T10:00:00Z"),
        ("operational", "2019-08-23T11:00:00Z"),
        ("major_outage", "2019-08-23T10:00:00Z"),
    ):
        statuspage.send(component(status, moment))
    assert [(began, ended) for began, ended, _ in statuspage.suspected()] == [
        (at(22, 20), at(22, 21)), (at(23, 10), at(23, 11)), (at(24, 8), at(24, 9)), (at(25, 10), None),
    ]  # fmt: skip


def test_two_monitors_of_one_platform_see_one_outage_and_of_two_platforms_two(august: August) -> None:
    alertmanager, statuspage = watching(august, "alertmanager"), watching(august, "statuspage")
    alertmanager.send(group(firing("2019-08-22T20:00:00Z")))
    statuspage.send(page_incident("investigating", "2019-08-22T22:00:00Z", created_at="2019-08-22T19:50:00Z"))
    assert [(began, ended) for began, ended, _ in alertmanager.suspected()] == [(at(22, 19, 50), None)]
    instagram = watching(august, "alertmanager", platform="instagram")
    instagram.send(group(firing("2019-08-22T20:00:00Z")))
    assert len(alertmanager.suspected()) == 2


def test_many_that_come_at_once_make_one(alertmanager: Watching) -> None:
    def one(number: int) -> None:
        start = f"2019-08-22T20:{number:02d}:00Z"
        alertmanager.send(group(firing(start, fingerprint=f"{number % 5:x}")))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(one, number) for number in range(24)]:
            done.result()
    assert len(alertmanager.suspected()) == 1


def test_only_the_monitor_itself_is_believed(alertmanager: Watching, pagerduty: Watching) -> None:
    raw = json.dumps(paged("incident.triggered", "2019-08-22T20:00:00Z")).encode()
    right = signed(raw, PAGERDUTY_SECRET)
    for header in (
        "", "v1=", "v1", right.removeprefix("v1="), "v0=" + right[3:], signed(raw, "another secret"),
        signed(raw + b" ", PAGERDUTY_SECRET), right[:-1], right + "0", "v1=é" + right[4:], ",".join([right] * 10_000),
    ):  # fmt: skip
        pagerduty.send(raw, status=401, headers={"X-PagerDuty-Signature": header})
    pagerduty.send(raw + b"\n", status=401, headers={"X-PagerDuty-Signature": right})
    for header in ("", "Bearer", "Bearer ", "Bearer nonsense", f"Basic {alertmanager.secret}", alertmanager.secret):
        alertmanager.send(group(firing()), status=401, headers={"Authorization": header})
    alertmanager.send(group(firing()), status=401, headers={})
    other = watching(alertmanager.august, "alertmanager")
    alertmanager.send(group(firing()), status=401, headers={"Authorization": f"Bearer {other.secret}"})
    assert alertmanager.suspected() == []
    pagerduty.send(raw, headers={"X-PagerDuty-Signature": f"{signed(raw, 'old one')},{right}"})
    assert len(alertmanager.suspected()) == 1


def test_an_address_that_is_unknown_or_was_disabled_is_not_there(alertmanager: Watching) -> None:
    august = alertmanager.august
    assert alertmanager.client.post("/webhooks/monitors/nonsense", data=b"{}").status_code == 404
    with august.db.work(OPERATOR) as session:
        (monitor,) = monitors.listed(session)
        monitors.disable(session, monitor["id"], august.finance, "test")
    alertmanager.send(group(firing()), status=404)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"nonsense", b"[]", b"null", b"\xff\xfe", b'{"version": "4", "version": "4"}', b'{"version": NaN}',
        b'{"version": "3", "alerts": []}', b'{"version": 4, "alerts": []}', b'{"version": "4"}',
        b'{"version": "4", "alerts": {}}', b'{"version": "4", "alerts": [1]}', b'{"version": "4", "alerts": [{}]}',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_payload_is_refused_in_a_sentence(alertmanager: Watching, raw: bytes) -> None:
    alertmanager.send(raw, status=400)
    assert alertmanager.suspected() == []


@pytest.mark.parametrize(
    "change",
    [
        {"startsAt": None}, {"startsAt": "yesterday"}, {"startsAt": "2019-08-22T20:00:00"}, {"startsAt": "2019-08-22"},
        {"startsAt": "2019-08-26T14:06:00Z"}, {"startsAt": "0001-01-01T00:00:00Z"}, {"startsAt": 1_566_504_000},
        {"status": "pending"}, {"labels": None}, {"annotations": []}, {"fingerprint": "x" * 10_000},
        {"status": "resolved", "endsAt": "2019-08-22T19:00:00Z"},
        {"status": "resolved", "endsAt": "9999-12-31T23:59:59Z"},
        {"fingerprint": "\ud800"}, {"fingerprint": "a\u0000b"},
    ],
)  # fmt: skip
def test_an_alert_that_cannot_be_is_refused_and_leaves_nothing(alertmanager: Watching, change: dict[str, Any]) -> None:
    alertmanager.send(group(firing(fingerprint="fine"), firing() | change), status=400)
    assert alertmanager.suspected() == []


def test_too_much_is_refused_unread(alertmanager: Watching) -> None:
    many = group(*[firing(fingerprint=f"{number:x}") for number in range(1_001)])
    many["alerts"] = [one | {"annotations": {}, "labels": {}} for one in many["alerts"]]
    alertmanager.send(many, status=400 if len(json.dumps(many)) < 262_144 else 413)
    alertmanager.send(b" " * 300_000, status=413)


def test_a_title_is_one_line_of_plain_text(alertmanager: Watching) -> None:
    nasty = "<script>alert(1)</script>\r\n\u202e{{7*7}} \ud800" + "x" * 10_000
    alertmanager.send(group(firing() | {"annotations": {"summary": nasty}}))
    ((_began, _ended, title),) = alertmanager.suspected()
    assert title.startswith("<script>alert(1)</script> {{7*7}} x")
    assert (len(title), title.isprintable()) == (120, True)


def test_confirming_declares_the_incident_under_the_same_id(alertmanager: Watching) -> None:
    august = alertmanager.august
    with building(august.db):
        august.sell(id="in_corner")
    alertmanager.send(group(firing("2019-08-22T20:00:00Z")))
    id = alertmanager.only()
    with august.db.work(OPERATOR) as session:
        suspicion = suspicions.undecided(session, id, august.finance)
        made = schemas.declaration(session, DECLARED, **suspicions.described(session, suspicion))
        incidents.declare(session, DECLARED, made, august.finance, "test", id=id)
        suspicions.confirm(session, DECLARED, suspicion, august.finance, "test")
    shown = august.shown(id)
    assert (shown["state"], shown["started_at"]) == ("declared", "2019-08-22T20:00:00Z")
    assert august.grants(id)["in_corner"].amount == 375  # 31.00 x 90 h / 744 h
    alertmanager.send(group(resolved("2019-08-23T02:30:00Z", start="2019-08-22T20:00:00Z")))
    alertmanager.send(group(firing("2019-08-22T20:00:00Z")))
    assert (august.shown(id)["state"], august.shown(id)["ended_at"]) == ("declared", None), "a person resolves it"
    with august.db.work(OPERATOR) as session:
        assert suspicions.listed(session) == []
    with pytest.raises(Conflict, match="confirmed already"), august.db.work(OPERATOR) as session:
        suspicions.dismiss(session, DECLARED, id, august.finance, "test", reason="No.")


def test_what_was_dismissed_stays_so_until_something_else_happens(alertmanager: Watching) -> None:
    august = alertmanager.august
    alertmanager.send(group(firing("2019-08-22T20:00:00Z")))
    id = alertmanager.only()
    for who, reason, refusal in (
        (august.approver, "It was us.", NotAllowed), (august.finance, " ", BadRequest),
        (august.finance, "x" * 501, BadRequest), (august.finance, "a\x00b", BadRequest),
    ):  # fmt: skip
        with pytest.raises(refusal), august.db.work(OPERATOR) as session:
            suspicions.dismiss(session, DECLARED, id, who, "test", reason=reason)
    with august.db.work(OPERATOR) as session:
        suspicions.dismiss(session, DECLARED, id, august.finance, "test", reason="It was our own proxy.")
    alertmanager.send(group(firing("2019-08-22T20:00:00Z")))
    alertmanager.send(group(resolved("2019-08-23T02:30:00Z", start="2019-08-22T20:00:00Z")))
    assert alertmanager.suspected() == []
    alertmanager.send(group(firing("2019-08-22T21:00:00Z", fingerprint="another")))  # of the same hours
    assert [began for began, _, _ in alertmanager.suspected()] == [at(22, 21)]


def test_an_agencys_own_monitor_proposes_for_it_alone(august: August) -> None:
    own = watching(august, "alertmanager", agency=august.agency)
    everybodys = watching(august, "alertmanager")
    own.send(group(firing("2019-08-22T20:00:00Z")))
    everybodys.send(group(firing("2019-08-22T20:00:00Z")))
    assert len(own.suspected()) == 2
    with building(august.db):
        theirs = MemberFactory(email="f@acme.example", role="agency-finance", agency_id=august.agency.id)
        others = MemberFactory(email="f@o.example", role="agency-finance", agency_id=AgencyFactory(slug="o").id)
    with august.db.work(OPERATOR) as session:
        found = session.scalars(sa.select(Suspicion).where(Suspicion.agency_id.is_not(None))).one()
        assert suspicions.described(session, found)["agencies"] == ["acme"]
        suspicions.undecided(session, found.id, theirs)
        for nobody in (others, august.approver):
            with pytest.raises(NotAllowed):
                suspicions.undecided(session, found.id, nobody)
