"""Suspected incidents: what monitors report until a person confirms it, by declaring it, or dismisses it."""

import secrets
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import BadRequest, Conflict, NotAllowed, NotFound
from billing.models import Platform
from billing.outages.alarms import Suspicion
from billing.windows import iso
from tenants import audit
from tenants.models import OPERATOR_AGENCY, Agency, Member

LONGEST_REASON = 500


def notice(
    session: Session, platform_id: int, agency_id: int | None, title: str, started_at: datetime,
    ended_at: datetime | None, origin: str,
) -> Suspicion:  # fmt: skip
    """Write down that somebody reports an outage. No money and no pause follows from it."""
    suspicion = Suspicion(
        id=f"inc_{secrets.token_hex(8)}", agency_id=agency_id, platform_id=platform_id, title=title,
        started_at=started_at, ended_at=ended_at,
    )  # fmt: skip
    session.add(suspicion)
    session.flush()
    facts = {"started_at": iso(started_at), "ended_at": iso(ended_at) if ended_at else None, "title": title}
    audit.record(
        session, "engine", origin, "incident.suspected", suspicion.id, agency_id=agency_id or OPERATOR_AGENCY,
        after=facts,
    )  # fmt: skip
    return suspicion


def undecided(session: Session, suspicion_id: str, by: Member) -> Suspicion:
    """The suspicion, locked, for somebody who may decide about it.

    Raises `NotFound`, `NotAllowed`, and `Conflict` where it is decided.
    """
    found = sa.select(Suspicion).where(Suspicion.id == suspicion_id).with_for_update()
    suspicion = session.scalar(found) if suspicion_id.isprintable() else None
    if suspicion is None:
        raise NotFound(f"There is no suspected incident {suspicion_id[:40]!r}.")
    own = by.role == "agency-finance" and by.agency_id is not None and by.agency_id == suspicion.agency_id
    if by.role != "finance" and not own:
        raise NotAllowed(f"{by.email} is {by.role}: a suspected incident is confirmed or dismissed by finance.")
    if suspicion.state != "suspected":
        raise Conflict(f"This incident is {suspicion.state} already.")
    return suspicion


def confirm(session: Session, now: datetime, suspicion: Suspicion, by: Member, origin: str) -> None:
    """The incident of the same id was declared in this transaction."""
    suspicion.state, suspicion.decided_by, suspicion.decided_at = "confirmed", by.id, now
    _record(session, suspicion, by, origin, "incident.confirmed", None)


def dismiss(session: Session, now: datetime, suspicion_id: str, by: Member, origin: str, *, reason: str) -> Suspicion:
    """It is no outage of ours. What its monitors say of the same alerts from now on changes nothing."""
    suspicion = undecided(session, suspicion_id, by)
    why = " ".join(reason.split())
    if not why or len(why) > LONGEST_REASON or not why.isprintable():
        raise BadRequest(f"Say why it is dismissed, in at most {LONGEST_REASON} characters: the reason is kept.")
    suspicion.state, suspicion.decided_by, suspicion.decided_at, suspicion.reason = "dismissed", by.id, now, why
    _record(session, suspicion, by, origin, "incident.dismissed", why)
    return suspicion


def described(session: Session, suspicion: Suspicion) -> dict[str, Any]:
    """What a declaration says about it, where the person who confirms it says nothing else."""
    given: dict[str, Any] = {
        "platform": session.get_one(Platform, suspicion.platform_id).slug,
        "since": iso(suspicion.started_at),
    }
    if suspicion.ended_at is not None and suspicion.ended_at > suspicion.started_at:
        given["until"] = iso(suspicion.ended_at)
    if suspicion.agency_id is not None:
        given["agencies"] = [session.get_one(Agency, suspicion.agency_id).slug]
    return given


def listed(session: Session, *, every: bool = False) -> list[dict[str, Any]]:
    """Those that wait for a person, newest first, in the shape of incidents; with `every` the dismissed ones too."""
    wanted = (
        sa.select(Suspicion, Platform, Agency.slug)
        .join(Platform, Platform.id == Suspicion.platform_id)
        .outerjoin(Agency, Agency.id == Suspicion.agency_id)
        .where(Suspicion.state.in_(("suspected", "dismissed") if every else ("suspected",)))
        .order_by(Suspicion.noticed_at.desc(), Suspicion.id)
    )
    return [
        {
            "id": suspicion.id,
            "state": suspicion.state,
            "platform": platform.slug,
            "platform_name": platform.name,
            "title": suspicion.title,
            "started_at": iso(suspicion.started_at),
            "ended_at": iso(suspicion.ended_at) if suspicion.ended_at else None,
            "agency": slug,
            "noticed_at": iso(suspicion.noticed_at),
            "reason": suspicion.reason,
        }
        for suspicion, platform, slug in session.execute(wanted)
    ]


def ends_reported(session: Session, incident_ids: list[str]) -> dict[str, str]:
    """Of declared incidents that monitors had reported: when the monitors say that each ended."""
    rows = session.execute(
        sa.select(Suspicion.id, Suspicion.ended_at).where(
            Suspicion.id.in_(incident_ids), Suspicion.state == "confirmed", Suspicion.ended_at.is_not(None)
        )
    )
    return {id: iso(ended_at) for id, ended_at in rows if ended_at}


def _record(session: Session, suspicion: Suspicion, by: Member, origin: str, action: str, reason: str | None) -> None:
    audit.record(
        session, by.email, origin, action, suspicion.id, agency_id=suspicion.agency_id or OPERATOR_AGENCY,
        before={"state": "suspected"}, after={"state": suspicion.state, "reason": reason},
    )  # fmt: skip
