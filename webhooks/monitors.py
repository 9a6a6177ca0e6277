"""Monitors propose incidents: Alertmanager, PagerDuty and Statuspage say what they see, and a person decides.

An alert is kept once per monitor, its own name and occurrence, with the last that was said of it; what is repeated or
comes late changes nothing. Alerts of one platform whose times overlap are one suspected incident, whichever monitors
report them. It begins with the first of them and ends with the last.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import catalog
from billing.errors import BadRequest, Conflict, NotAllowed, NotFound, Refused, nearest
from billing.models import Platform
from billing.outages import suspicions
from billing.outages.alarms import Suspicion
from billing.windows import iso
from tenants import audit
from tenants.models import OPERATOR_AGENCY, Agency, Member
from webhooks import alerts
from webhooks.alerts import Alert
from webhooks.models import Monitor, MonitorAlert

AHEAD: Final = timedelta(minutes=5)
"""How far a monitor's clock may be ahead of ours."""
MOST_SIGNATURES: Final = 10
_ONE_AT_A_TIME: Final = 7_303
"""The first key of the advisory lock under which the alerts of one platform are sorted into incidents."""


class NotProven(Refused):
    """Whoever sent this did not prove to be the monitor."""

    status = 401
    code = "not_proven"


def add(
    session: Session, kind: str, platform_slug: str, agency: Agency | None, secret: str, by: Member, origin: str
) -> tuple[Monitor, str, str]:
    """A monitor, the token of its address and its secret, each shown this once.

    `secret` is PagerDuty's, which makes it itself; Alertmanager gets one of ours, and Statuspage signs nothing: there
    the address is the secret. Raises `BadRequest`, `NotFound`, `NotAllowed`, and `Conflict` for a platform that is
    disabled.
    """
    _may_change(agency.id if agency else None, by)
    if kind not in alerts.KINDS:
        raise BadRequest(f"There is no monitor called {kind[:40]!r}{nearest(kind, alerts.KINDS)}")
    platform = catalog.platform_called(session, platform_slug)
    if kind == "pagerduty" and not (8 <= len(secret) <= 500 and secret.isascii() and secret.isprintable()):
        raise BadRequest("Give the secret that PagerDuty shows when the webhook subscription is made.")
    if kind != "pagerduty" and secret:
        raise BadRequest(f"{kind} brings no secret: leave it out.")
    token = secrets.token_urlsafe(32)
    made = secrets.token_urlsafe(32) if kind == "alertmanager" else ""
    monitor = Monitor(
        kind=kind, agency_id=agency.id if agency else None, platform_id=platform.id, token_hash=_hash(token),
        secret=secret if kind == "pagerduty" else _hash(made) if made else None, added_by=by.id,
    )  # fmt: skip
    session.add(monitor)
    session.flush()
    audit.record(
        session, by.email, origin, "monitor.added", str(monitor.id), agency_id=monitor.agency_id or OPERATOR_AGENCY,
        after={"kind": kind, "platform": platform_slug},
    )  # fmt: skip
    return monitor, token, made


def disable(session: Session, monitor_id: int, by: Member, origin: str) -> None:
    """Believe nothing more that it sends. Raises `NotFound`, `NotAllowed`, `Conflict`."""
    monitor = session.scalar(sa.select(Monitor).where(Monitor.id == monitor_id).with_for_update())
    if monitor is None:
        raise NotFound("There is no such monitor.")
    _may_change(monitor.agency_id, by)
    if monitor.disabled_at is not None:
        raise Conflict("This monitor is disabled already.")
    monitor.disabled_at = sa.func.clock_timestamp()
    audit.record(
        session, by.email, origin, "monitor.disabled", str(monitor.id), agency_id=monitor.agency_id or OPERATOR_AGENCY
    )


def listed(session: Session) -> list[dict[str, Any]]:
    """Every monitor, and when it was heard of last."""
    heard = (
        sa.select(MonitorAlert.monitor_id, sa.func.max(MonitorAlert.heard_at).label("at"))
        .group_by(MonitorAlert.monitor_id)
        .subquery()
    )
    rows = session.execute(
        sa.select(Monitor, Platform.slug, Agency.slug, heard.c.at)
        .join(Platform, Platform.id == Monitor.platform_id)
        .outerjoin(Agency, Agency.id == Monitor.agency_id)
        .outerjoin(heard, heard.c.monitor_id == Monitor.id)
        .order_by(Monitor.id)
    )
    return [
        {
            "id": monitor.id,
            "kind": monitor.kind,
            "platform": platform,
            "agency": agency,
            "state": "disabled" if monitor.disabled_at else "enabled",
            "heard_at": iso(at) if at else None,
        }
        for monitor, platform, agency, at in rows
    ]


def called(session: Session, token: str) -> Monitor:
    """The enabled monitor at this address. Raises `NotFound`."""
    known = sa.select(Monitor).where(Monitor.token_hash == _hash(token), Monitor.disabled_at.is_(None))
    monitor: Monitor | None = session.scalar(known)
    if monitor is None:
        raise NotFound("There is no monitor at this address.")
    return monitor


def proven(monitor: Monitor, raw: bytes, authorization: str, signature: str) -> None:
    """Raises `NotProven` unless these bytes come from the monitor.

    Alertmanager sends `Authorization: Bearer …`, PagerDuty signs: `X-PagerDuty-Signature: v1=…`, one signature for each
    of its secrets, hex of HMAC-SHA256 over the raw body (https://developer.pagerduty.com/docs/verifying-signatures).
    """
    if monitor.kind == "statuspage":
        return
    if monitor.kind == "alertmanager":
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(_hash(given), monitor.secret or ""):
            raise NotProven("The bearer token is not this monitor's.")
        return
    wanted = hmac.new((monitor.secret or "").encode(), raw, hashlib.sha256).hexdigest().encode()
    given_ones = [one.strip().partition("=")[2] for one in signature.split(",") if one.strip().startswith("v1=")]
    if len(given_ones) > MOST_SIGNATURES or not any(
        hmac.compare_digest(one.encode("utf-8", "replace"), wanted) for one in given_ones
    ):
        raise NotProven("No signature of this webhook is the monitor's.")


def receive(session: Session, now: datetime, monitor: Monitor, document: Any) -> int:
    """Keep what a monitor says, and open or close suspected incidents by it. Returns how many alerts it spoke of.

    Nothing else follows: no pause, no plan, no money. Raises `BadRequest` for what is no payload of its kind.
    """
    said = alerts.read(monitor.kind, document)
    for one in said:
        if max(moment for moment in (one.started_at, one.ended_at, one.said_at) if moment) > now + AHEAD:
            raise BadRequest(f"It speaks of a time that has not come: it is {iso(now)} now.")
        if one.started_at and one.ended_at and one.ended_at < one.started_at:
            raise BadRequest("An alert cannot end before it begins.")
    session.execute(sa.select(sa.func.pg_advisory_xact_lock(_ONE_AT_A_TIME, monitor.platform_id % 2**31)))
    touched: set[str] = set()
    for one in said:
        kept = _kept(session, monitor, one)
        if kept is not None and (suspicion_id := _sorted_in(session, monitor, kept, one.title)):
            touched.add(suspicion_id)
    for suspicion_id in touched:
        _follow(session, suspicion_id)
    return len(said)


def _kept(session: Session, monitor: Monitor, one: Alert) -> MonitorAlert | None:
    """The alert as it is known by now; None where this says nothing new."""
    known = sa.select(MonitorAlert).where(MonitorAlert.monitor_id == monitor.id, MonitorAlert.name == one.name)
    last = session.scalar(known.order_by(*_nearest_to(one.started_at or one.said_at)).limit(1))
    if last is None or _is_another(one, last):
        last = MonitorAlert(
            monitor_id=monitor.id, name=one.name, no=last.no + 1 if last else 1, started_at=one.started_at,
            ended_at=one.ended_at, said_at=one.said_at,
        )  # fmt: skip
        session.add(last)
        session.flush()
        return last
    before = (last.started_at, last.ended_at)
    if one.started_at is not None:
        last.started_at = min(one.started_at, last.started_at or one.started_at)
    if one.said_at >= last.said_at:
        last.ended_at, last.said_at = one.ended_at, one.said_at
    last.heard_at = sa.func.clock_timestamp()
    session.flush()
    return None if (last.started_at, last.ended_at) == before else last


def _nearest_to(moment: datetime) -> tuple[sa.ColumnElement[Any], ...]:
    """Sorts first the occurrence that a moment is in: a late copy of an older one says nothing about a newer one.

    Of those that are known by their end alone the one that ends next may be it.
    """
    going_on = sa.or_(MonitorAlert.ended_at.is_(None), MonitorAlert.ended_at >= moment)
    is_in = sa.case(
        (sa.and_(MonitorAlert.started_at <= moment, going_on), 0),
        (sa.and_(MonitorAlert.started_at.is_(None), going_on), 1),
        else_=2,
    )
    return is_in, sa.case((is_in == 1, MonitorAlert.ended_at)), MonitorAlert.no.desc()


def _is_another(one: Alert, last: MonitorAlert) -> bool:
    """Whether it began after the last had ended, or had ended before the last began.

    Of what only says that it has ended: whether it did after the last, which can have ended but once.
    """
    begun = one.started_at or one.ended_at
    after = last.ended_at is not None and begun is not None and begun > last.ended_at
    return after or (one.ended_at is not None and last.started_at is not None and one.ended_at < last.started_at)


def _sorted_in(session: Session, monitor: Monitor, alert: MonitorAlert, title: str) -> str | None:
    """The suspected incident that the alert belongs to, made where there is none."""
    if alert.started_at is None or alert.suspicion_id is not None:
        return alert.suspicion_id
    same_scope = (
        Suspicion.agency_id.is_(None) if monitor.agency_id is None else Suspicion.agency_id == monitor.agency_id
    )
    until = alert.ended_at
    overlapping = session.scalar(
        sa.select(Suspicion)
        .where(
            Suspicion.platform_id == monitor.platform_id, same_scope, Suspicion.state != "dismissed",
            sa.or_(Suspicion.ended_at.is_(None), Suspicion.ended_at >= alert.started_at),
            sa.true() if until is None else Suspicion.started_at <= until,
        )
        .order_by(Suspicion.started_at)
        .limit(1)
    )  # fmt: skip
    if overlapping is None:
        name = session.get_one(Platform, monitor.platform_id).name
        overlapping = suspicions.notice(
            session, monitor.platform_id, monitor.agency_id, title or f"{name} outage", alert.started_at,
            alert.ended_at, monitor.kind,
        )  # fmt: skip
    alert.suspicion_id = overlapping.id
    session.flush()
    return overlapping.id


def _follow(session: Session, suspicion_id: str) -> None:
    """It began with the first of its alerts, and ended with the last. What a person has declared is left as it is."""
    suspicion = session.scalars(sa.select(Suspicion).where(Suspicion.id == suspicion_id).with_for_update()).one()
    windows: Iterable[tuple[datetime, datetime | None]] = session.execute(
        sa.select(MonitorAlert.started_at, MonitorAlert.ended_at).where(
            MonitorAlert.suspicion_id == suspicion_id, MonitorAlert.started_at.is_not(None)
        )
    ).all()  # type: ignore[assignment]
    ends = [end for _start, end in windows]
    suspicion.started_at = min(start for start, _end in windows)
    suspicion.ended_at = None if None in ends else max(end for end in ends if end is not None)
    session.flush()


def _may_change(agency_id: int | None, by: Member) -> None:
    if by.role == "finance" or (by.role == "agency-admin" and agency_id is not None and by.agency_id == agency_id):
        return
    raise NotAllowed(f"{by.email} is {by.role}: monitors are up to the operator's finance, or their agency's admin.")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
