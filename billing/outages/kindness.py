"""How much of the goodwill of other incidents is left at the time of a plan: one that goes on uses its own up first."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.decisions import Goodwill, IncidentVersion
from billing.outages.filling import Filling
from billing.outages.in_force import Outage
from billing.outages.models import Incident
from billing.outages.planning_sql import tables


def count(filling: Filling, others: Sequence[Outage], full: Sequence[tuple[int, Outage]]) -> None:
    """Leave what is left of it in `plan_kindness`; nothing, where it is planned afresh.

    Those that go on have used up what the `others` come to by now, beyond what they came to when it was worked out.
    """
    session, outage = filling.session, filling.outage
    for statement in tables.KINDNESS:
        session.execute(sa.text(statement), {"incident": outage.id, "afresh": filling.afresh})
    worked_out = {} if filling.afresh else _worked_out(session, outage)
    if not worked_out:
        return
    before = [_then(one, worked_out) for one in others]
    before_full = [(agency, _then(one, worked_out)) for agency, one in full]
    for sign, counted, whole in ((1, others, full), (-1, before, before_full)):
        of_others = [(agency, one) for agency, one in whole if one.id != outage.id and one.impact_bp]
        filling.compute(filling.losses(counted), of_others)
        session.execute(sa.text(tables.KEEP_GROWN), {"sign": sign})
    session.execute(sa.text(tables.USE_UP), {"growing": list(worked_out)})


def _worked_out(session: Session, outage: Outage) -> dict[str, datetime]:
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


def _then(one: Outage, worked_out: Mapping[str, datetime]) -> Outage:
    """One of the others as it stood when its goodwill was worked out."""
    at = worked_out.get(one.id)
    if at is None or (one.ended_at is not None and one.ended_at <= at):
        return one
    if one.started_at >= at:
        return replace(one, impact_bp=0)
    return replace(one, ended_at=at, goes_on=True)
