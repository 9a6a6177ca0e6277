"""What an incident says now, kept beside what it said before: versions, audit entries and published updates."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.decisions import IncidentVersion
from billing.outages.in_force import EVERYBODY
from billing.outages.models import Incident, Update
from billing.outages.planning import Plan
from billing.windows import iso
from tenants import audit
from tenants.models import Agency, Member


def facts(session: Session, incident: Incident, agencies: Iterable[int]) -> dict[str, Any]:
    """What an audit entry says about an incident."""
    named = sa.select(Agency.slug).where(Agency.id.in_(agencies)).order_by(Agency.slug)
    return {
        "state": incident.state,
        "started_at": iso(incident.started_at),
        "ended_at": iso(incident.ended_at) if incident.ended_at else None,
        "impact": incident.impact_bp,
        "policy": incident.policy,
        "agencies": "all" if EVERYBODY in agencies else list(session.scalars(named)),
    }


def keep(
    session: Session, incident: Incident, agencies: Iterable[int], what: str, reason: str, by: Member, at: datetime
) -> None:
    """Add the version that the incident's row shows now."""
    last = sa.select(sa.func.coalesce(sa.func.max(IncidentVersion.no), 0))
    session.add(
        IncidentVersion(
            incident_id=incident.id,
            no=int(session.scalar(last.where(IncidentVersion.incident_id == incident.id)) or 0) + 1,
            what=what,
            started_at=incident.started_at,
            ended_at=incident.ended_at,
            impact_bp=incident.impact_bp,
            agencies=sorted(agencies),
            reason=reason,
            by=by.id,
            at=at,
        )
    )
    session.flush()


def authors(session: Session, incident_id: str) -> frozenset[int]:
    """The members who have said what the incident is: who declared it, and who changed, resolved or reopened it."""
    said = sa.select(IncidentVersion.by).where(IncidentVersion.incident_id == incident_id).distinct()
    return frozenset(session.scalars(said))


def publish(session: Session, incident: Incident, body: str, by: Member, at: datetime) -> None:
    """Add an update to the status page."""
    session.add(Update(incident_id=incident.id, state=incident.state, body=body, published_by=by.id, published_at=at))


def record(
    session: Session,
    by: Member,
    origin: str,
    action: str,
    plan: Plan,
    after: dict[str, Any],
    before: dict[str, Any] | None = None,
) -> None:
    """One entry in the operator's chain, and one in the chain of each agency that the plan touches."""
    known = {"platform": plan.outage.platform, **after}
    everything = {**known, "as_of": iso(plan.as_of), "fingerprint": plan.fingerprint, "totals": plan.totals}
    incident_id = plan.outage.id
    everything["pauses"] = plan.pauses
    audit.record(session, by.email, origin, action, incident_id, before=before, after=everything)
    for one in plan.agencies:
        own = {**known, "fingerprint": one.fingerprint, "totals": list(one.totals), "pauses": one.pauses}
        own_before, own_after = (_without_others(said) for said in (before, own))
        audit.record(
            session, by.email, origin, action, incident_id, agency_id=one.agency_id, before=own_before, after=own_after
        )


def _without_others(said: dict[str, Any] | None) -> dict[str, Any] | None:
    """An agency reads its own chain, and need not know who else is covered."""
    return said and {name: value for name, value in said.items() if name != "agencies"}
