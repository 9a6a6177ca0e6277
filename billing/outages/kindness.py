"""How much of the goodwill of other incidents is left at the time of a plan: one that goes on uses its own up first."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.decisions import Goodwill, IncidentVersion
from billing.outages.in_force import Outage
from billing.outages.models import Incident
from billing.outages.planning_sql import tables


def begin(session: Session, outage: Outage, *, afresh: bool) -> None:
    """What the others left over when somebody last decided about each of them; nothing, where it is planned afresh."""
    for statement in tables.KINDNESS:
        session.execute(sa.text(statement), {"incident": outage.id, "afresh": afresh})


def worked_out(session: Session, outage: Outage) -> dict[str, datetime]:
    """When the goodwill of each other incident that goes on was worked out: with the last decision about it."""
    rows = session.execute(
        sa.select(IncidentVersion.incident_id, sa.func.max(IncidentVersion.at))
        .join(Incident, Incident.id == IncidentVersion.incident_id)
        .where(
            Incident.state == "declared",
            Incident.id != outage.id,
            sa.exists().where(Goodwill.incident_id == Incident.id, Goodwill.amount > 0),
        )
        .group_by(IncidentVersion.incident_id)
    )
    return dict(rows.all())


def then(one: Outage, worked_out: Mapping[str, datetime]) -> Outage:
    """One of the others as it stood when its goodwill was worked out."""
    at = worked_out.get(one.id)
    if at is None or (one.ended_at is not None and one.ended_at <= at):
        return one
    if one.started_at >= at:
        return replace(one, impact_bp=0)
    return replace(one, ended_at=at, goes_on=True)


def keep(session: Session, *, grown: bool) -> None:
    """Of what was planned last, what comes to those that have goodwill: now that it has `grown`, and before that."""
    session.execute(sa.text(tables.KEEP_GROWN), {"sign": 1 if grown else -1})


def use_up(session: Session, worked_out: Mapping[str, datetime]) -> None:
    """Take what those incidents took since off the goodwill that they had left over, never more than that."""
    session.execute(sa.text(tables.USE_UP), {"growing": list(worked_out)})
