"""Agencies' endpoints are told what is published and what became of each grant, signed, and each fact once."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import sqlalchemy as sa
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from billing.errors import Conflict, NotAllowed
from billing.outages.models import Grant
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database, Scope
from tenants.house import House
from tenants.models import Agency, AuditEntry
from tenants.policy import set_policy
from tests.billing.outages.august import DECLARED, FACEBOOK_IS_DOWN, August
from tests.factories import AgencyFactory, MemberFactory, building
from tests.web import house_of
from tests.webhooks.hooks import THIS_MACHINE, Receiver, receiving
from webhooks import calling, deliveries, endpoints, notices, tasks
from webhooks.addresses import Target
from webhooks.models import Delivery, Notice, WebhookEndpoint, WebhookSecret

pytestmark = pytest.mark.breaks("I4 every grant has ended or waits")
"""The states of grants are set by hand: no step is sent here."""


@dataclass
class Hooked:
    """What the engine does, and what an agency's server is told of it, one step at a time."""

    august: August
    house: House
    server: Receiver
    endpoint: int
    secret: str

    @property
    def db(self) -> Database:
        return self.house.database

    def tell(self) -> None:
        tasks.announce(self.house, time.monotonic() + 60)

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _headers, body in self.server.calls]

    def set_all(self, table: type, *which: object, **values: object) -> None:
        with self.db.work(OPERATOR) as session:
            session.execute(
                sa.update(table).where(*which).values(**values).execution_options(synchronize_session=False)  # type: ignore[arg-type]
            )

    def due_now(self) -> None:
        """Time passes: whatever waits for its next attempt is due, and every lease has run out."""
        self.set_all(Delivery, due_at=sa.text("now() - interval '1 second'"), lease_until=None)

    def deliveries(self) -> list[dict[str, Any]]:
        """In the order in which they were made."""
        with self.db.work(OPERATOR) as session:
            return endpoints.sent(session)[::-1]

    def states(self) -> list[str]:
        return [one["state"] for one in self.deliveries()]


@pytest.fixture
def hooked(db: Database) -> Iterator[Hooked]:
    """Acme has one endpoint, and one customer who paid 31.00 for August."""
    august = August(db)
    with building(db):
        august.sell(id="in_corner")
    house = house_of(db, clock=FixedClock(DECLARED))
    house = replace(house, settings=replace(house.settings, webhook_networks=THIS_MACHINE))
    with receiving() as server:
        with db.work(OPERATOR) as session:
            endpoint, secret = endpoints.add(session, august.agency, server.url, august.finance, "test", THIS_MACHINE)
        yield Hooked(august, house, server, endpoint.id, secret)


@pytest.fixture
def incident(hooked: Hooked) -> str:
    return hooked.august.declare()


def test_a_published_update_is_told_once_signed_as_the_standard_says(hooked: Hooked, incident: str) -> None:
    hooked.tell()
    hooked.tell()
    ((headers, body),) = hooked.server.calls
    checked = Webhook(hooked.secret).verify(body, headers)  # the published reference implementation
    assert checked == json.loads(body)
    assert checked["type"] == "incident.updated"
    assert checked["timestamp"] == "2019-08-26T14:00:00Z"
    assert checked["data"]["incident"] == {
        "id": incident, "state": "declared", "platform": "facebook", "title": "Facebook outage",
        "started_at": "2019-08-22T20:00:00Z", "ended_at": None, "impact": 10_000,
        "money_back_by": "2019-09-04T14:00:00Z",
    }  # fmt: skip
    assert checked["data"]["update"]["body"].startswith("Facebook has not been available to us since")
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert hooked.states() == ["delivered"]


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body", "secret"])
def test_nobody_else_can_sign_or_replay_another_call(hooked: Hooked, incident: str, changed: str) -> None:
    hooked.tell()
    ((headers, body),) = hooked.server.calls
    secret = hooked.secret
    if changed == "body":
        body = body.replace("declared", "resolved")
    elif changed == "secret":
        secret = "whsec_" + "A" * 43 + "="
    else:
        headers[changed] = "msg_other" if changed == "webhook-id" else str(int(headers[changed]) - 3_600)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_what_became_of_a_grant_is_told_each_time_it_ends(hooked: Hooked, incident: str) -> None:
    hooked.august.approve(incident)
    hooked.set_all(Grant, state="succeeded", settled_at=datetime(2019, 8, 26, 15, tzinfo=UTC))
    hooked.tell()
    hooked.set_all(Grant, state="failed", reason="The card was closed.")  # weeks later
    hooked.tell()
    told = {one["type"]: one for one in hooked.told()}  # several are sent at once, in no order
    back, failed = told["grant.succeeded"], told["grant.failed"]
    assert back["timestamp"] == "2019-08-26T15:00:00Z"
    assert back["data"] | {"grant": 0, "customer": ""} == {
        "grant": 0, "state": "succeeded", "reason": None, "incident": incident, "customer": "",
        "invoice": "in_corner", "currency": "usd", "amount": 375, "instead_of": None,
        "parts": {"refund": 375, "credit": 0, "reduce": 0, "out_of_band": 0},
    }  # fmt: skip
    assert failed["data"]["reason"] == "The card was closed."
    assert len(set(hooked.server.ids)) == 3


def test_a_grant_that_has_not_ended_is_not_told(hooked: Hooked, incident: str) -> None:
    hooked.august.approve(incident)
    hooked.set_all(Grant, state="pending")
    hooked.tell()
    assert [one["type"] for one in hooked.told()] == ["incident.updated"]


def test_an_agency_that_is_not_concerned_is_not_told(hooked: Hooked) -> None:
    with building(hooked.db):
        other = AgencyFactory(slug="elsewhere")
    with receiving() as theirs:
        with hooked.db.work(OPERATOR) as session:
            endpoints.add(session, other, theirs.url, hooked.august.finance, "test", THIS_MACHINE)
        hooked.august.declare(replace(FACEBOOK_IS_DOWN, agencies=("acme",)))
        hooked.tell()
        assert (len(hooked.server.calls), len(theirs.calls)) == (1, 0)


def test_an_agency_is_told_its_own_promise(hooked: Hooked) -> None:
    """Another's customers choose for 30 days first; ours are paid within seven business days of Monday 26 August."""
    with building(hooked.db):
        other = AgencyFactory(slug="elsewhere")
    with hooked.db.work(OPERATOR) as session:
        agency = session.get_one(Agency, other.id)
        set_policy(session, DECLARED, agency, {"choice_days": 30}, hooked.august.finance, "test")
    hooked.august.declare()
    hooked.tell()
    (told,) = hooked.told()
    assert told["data"]["incident"]["money_back_by"] == "2019-09-04T14:00:00Z"


def test_who_begins_to_listen_is_told_what_happens_from_then_on(hooked: Hooked, incident: str) -> None:
    with hooked.db.work(OPERATOR) as session:
        endpoints.disable(session, hooked.endpoint, hooked.august.finance, "test")
    hooked.august.approve(incident)
    hooked.set_all(Grant, state="succeeded")
    hooked.tell()
    with hooked.db.work(OPERATOR) as session:
        endpoints.enable(session, hooked.endpoint, hooked.august.finance, "test", THIS_MACHINE)
    hooked.tell()
    assert hooked.told() == []
    hooked.set_all(Grant, state="failed")
    hooked.tell()
    assert [one["type"] for one in hooked.told()] == ["grant.failed"]


def test_an_answer_that_was_lost_brings_the_same_call_again_under_the_same_id(
    hooked: Hooked, incident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    notices.derive_due(hooked.house)
    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "_answered", killed)
        with pytest.raises(KeyboardInterrupt):
            deliveries.send_due(hooked.house)
    assert hooked.states() == ["sending"]
    assert deliveries.send_due(hooked.house) == 0, "its lease has not run out"
    hooked.due_now()
    hooked.tell()
    (first, again) = hooked.server.calls
    assert first[0]["webhook-id"] == again[0]["webhook-id"]
    assert first[1] == again[1]
    assert hooked.states() == ["delivered"]


def test_many_workers_at_once_make_one_call_of_each(hooked: Hooked, incident: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(hooked.tell) for _ in range(8)]:
            done.result()
    hooked.tell()
    assert len(hooked.server.ids) == len(set(hooked.server.ids)) == 1


@pytest.mark.parametrize("status", [500, 404, 302, 307])
def test_anything_but_success_is_tried_ten_times_over_three_days(hooked: Hooked, incident: str, status: int) -> None:
    hooked.server.answers.extend([(status, {"Location": hooked.server.url})] * 10)
    waits = []
    for _ in range(10):
        hooked.due_now()
        before = datetime.now(UTC)
        hooked.tell()
        (one,) = hooked.deliveries()
        waits.append(datetime.fromisoformat(one["due_at"]) - before if one["due_at"] else None)
    # 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h: 75 h 35 min 5 s in all.
    assert sum((wait.total_seconds() for wait in waits if wait), 0.0) == pytest.approx(272_105, abs=30)
    assert waits[-1] is None
    assert (one["state"], one["attempts"], one["status"]) == ("failed", 10, status)
    assert len(set(hooked.server.ids)) == 1
    assert len(hooked.server.calls) == 10, "a redirect is not followed"
    hooked.due_now()
    hooked.tell()
    assert len(hooked.server.calls) == 10


def test_gone_disables_the_endpoint_at_once(hooked: Hooked, incident: str) -> None:
    hooked.server.answers.append((410, {}))
    hooked.tell()
    with hooked.db.work(OPERATOR) as session:
        (endpoint,) = endpoints.listed(session)
        entry = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "webhook.disabled")).one()
    assert (endpoint["state"], entry.actor) == ("disabled", "engine")
    assert "410" in endpoint["reason"]
    hooked.august.resolve(incident)
    hooked.tell()
    assert len(hooked.server.calls) == 1


@pytest.mark.parametrize(
    ("asked", "waits"),
    [
        ("3600", timedelta(hours=1)),
        ("1000000000", timedelta(hours=24)),
        ("9" * 400, timedelta(hours=24)),
        ("-5", timedelta(seconds=5)),
        ("soon", timedelta(seconds=5)),
        ("0", timedelta(seconds=5)),
        ("in an hour", timedelta(seconds=5)),
    ],
)
def test_who_is_asked_to_stay_away_does_within_reason(
    hooked: Hooked, incident: str, asked: str, waits: timedelta
) -> None:
    hooked.server.answers.append((429, {"Retry-After": asked}))
    before = datetime.now(UTC)
    hooked.tell()
    (one,) = hooked.deliveries()
    assert one["state"] == "queued"
    assert datetime.fromisoformat(one["due_at"]) - before == pytest.approx(waits, abs=timedelta(seconds=5))


def test_a_date_to_come_back_at_is_understood(hooked: Hooked, incident: str) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    hooked.server.answers.append((503, {"Retry-After": format_datetime(later, usegmt=True)}))
    hooked.tell()
    (one,) = hooked.deliveries()
    assert abs(datetime.fromisoformat(one["due_at"]) - later) < timedelta(seconds=5)


def test_a_rotated_secret_signs_beside_the_old_one_for_a_day(hooked: Hooked, incident: str) -> None:
    with hooked.db.work(OPERATOR) as session:
        _endpoint, new = endpoints.rotate(session, hooked.endpoint, hooked.august.finance, "test")
    hooked.tell()
    headers, body = hooked.server.calls[0]
    assert len(headers["webhook-signature"].split(" ")) == 2
    assert Webhook(hooked.secret).verify(body, headers) == Webhook(new).verify(body, headers)
    hooked.set_all(WebhookSecret, WebhookSecret.until.is_not(None), until=sa.text("now() - interval '1 second'"))
    hooked.august.resolve(incident)
    hooked.tell()
    headers, body = hooked.server.calls[1]
    Webhook(new).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(hooked.secret).verify(body, headers)


def test_an_endpoint_that_has_moved_inside_is_not_called(hooked: Hooked, incident: str) -> None:
    # The name meant a public server when it was saved; the operator named no network of its own.
    hooked.house = replace(hooked.house, settings=replace(hooked.house.settings, webhook_networks=()))
    hooked.tell()
    (one,) = hooked.deliveries()
    assert (one["state"], one["attempts"], hooked.server.calls) == ("queued", 1, [])
    assert "HTTPS" in one["reason"]


def test_the_machine_that_was_looked_at_is_called_whatever_the_name_means_by_then(
    hooked: Hooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(hooked.server.url.split(":")[2].split("/")[0])
    asked: list[str] = []
    look_up = socket.getaddrinfo

    def rebound(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return look_up("127.0.0.9" if host == "hooks.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    answer = calling.call(Target(False, "hooks.example", port, "/", ("127.0.0.1",)), {}, b"{}")
    assert answer.status == 200
    assert "hooks.example" not in asked
    assert hooked.server.calls[0][0]["host"] == f"hooks.example:{port}"


def test_a_receiver_that_drips_is_given_up_in_time(hooked: Hooked) -> None:
    hooked.server.drip = True
    port = int(hooked.server.url.split(":")[2].split("/")[0])
    began = time.monotonic()
    answer = calling.call(Target(False, "127.0.0.1", port, "/", ("127.0.0.1",)), {}, b"{}", patience=0.5)
    assert (answer.status, answer.reason) == (None, "It did not answer within 0.5 seconds.")
    assert time.monotonic() - began < 3


def test_a_reply_without_end_is_not_read(hooked: Hooked, incident: str) -> None:
    hooked.server.endless = True
    hooked.tell()
    assert hooked.states() == ["delivered"]


def test_an_endpoint_that_fails_holds_up_no_other(hooked: Hooked, incident: str) -> None:
    with receiving() as healthy:
        with hooked.db.work(OPERATOR) as session:
            endpoints.add(session, hooked.august.agency, healthy.url, hooked.august.finance, "test", THIS_MACHINE)
        hooked.server.answers.extend([(500, {})] * 50)
        for number in range(12):
            with hooked.db.work(OPERATOR) as session:
                session.add(
                    Notice(
                        agency_id=hooked.august.agency.id, type="incident.updated", about=f"{number}",
                        incident_id=incident, body="{}",
                    )
                )  # fmt: skip
                session.flush()
                notice = session.scalars(sa.select(Notice).order_by(Notice.id.desc()).limit(1)).one()
                for endpoint in session.scalars(sa.select(WebhookEndpoint)):
                    session.add(Delivery(agency_id=notice.agency_id, endpoint_id=endpoint.id, notice_id=notice.id))
        while deliveries.send_due(hooked.house):
            pass
        assert len(healthy.calls) == 12


def test_a_delivery_that_failed_can_be_tried_again_by_a_person(hooked: Hooked, incident: str) -> None:
    hooked.tell()
    (one,) = hooked.deliveries()
    with pytest.raises(Conflict, match="is delivered"), hooked.db.work(OPERATOR) as session:
        deliveries.try_again(session, one["id"], hooked.august.finance, "test")
    hooked.set_all(Delivery, state="failed", attempt_no=10, delivered_at=None)
    with hooked.db.work(OPERATOR) as session:
        deliveries.try_again(session, one["id"], hooked.august.finance, "test")
    hooked.tell()
    assert hooked.states() == ["delivered"]


def test_endpoints_are_up_to_the_agencys_admin_or_the_operators_finance(hooked: Hooked) -> None:
    with building(hooked.db):
        admin = MemberFactory(email="admin@acme.example", role="agency-admin", agency_id=hooked.august.agency.id)
        other = MemberFactory(
            email="admin@other.example", role="agency-admin", agency_id=AgencyFactory(slug="other").id
        )
    with hooked.db.work(OPERATOR) as session:
        endpoints.rotate(session, hooked.endpoint, admin, "test")
    for nobody in (other, hooked.august.approver):
        with pytest.raises(NotAllowed), hooked.db.work(OPERATOR) as session:
            endpoints.disable(session, hooked.endpoint, nobody, "test")


def test_an_address_is_told_once_and_its_secret_is_no_other_agencys(hooked: Hooked) -> None:
    with pytest.raises(Conflict, match="already"), hooked.db.work(OPERATOR) as session:
        endpoints.add(session, hooked.august.agency, hooked.server.url, hooked.august.finance, "test", THIS_MACHINE)
    with building(hooked.db):
        other = AgencyFactory(slug="other")
    with hooked.db.work(Scope(other.id)) as session:
        assert session.execute(sa.text("SELECT secret FROM webhook_secrets")).all() == []
