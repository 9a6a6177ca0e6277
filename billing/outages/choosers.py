"""Which agencies' customers may still choose what they get for an incident, and which incidents they waived."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import Session

from billing.models import Platform
from billing.outages.decisions import Choice, Settlement
from billing.outages.in_force import COUNTED, EVERYBODY
from billing.outages.models import Incident, IncidentScope


def choosing(session: Session, as_of: datetime) -> list[tuple[int, str, datetime, datetime | None]]:
    """`(agency, platform, since, until)` of every incident for which customers may choose at `as_of`."""
    covered = sa.exists().where(
        IncidentScope.incident_id == Incident.id, IncidentScope.agency_id.in_((EVERYBODY, Settlement.agency_id))
    )
    rows = session.execute(
        sa.select(Settlement.agency_id, Platform.slug, Incident.started_at, Incident.ended_at)
        .join(Incident, Incident.id == Settlement.incident_id)
        .join(Platform, Platform.id == Incident.platform_id)
        .where(Settlement.closes_at > as_of, Incident.state.in_(COUNTED), covered)
    )
    return [(agency, platform, since, until) for agency, platform, since, until in rows]


def one_by_one(session: Session) -> list[list[str]]:
    """Which incidents customers waived, in the order of their ids: the first of them alone, the first two, and so on to
    all of them, once for all customers who waived the same."""
    of_customer = (
        sa.select(sa.func.array_agg(aggregate_order_by(Choice.incident_id, Choice.incident_id)).label("incidents"))
        .join(Incident, Incident.id == Choice.incident_id)
        .where(Choice.choice == "waive", Incident.state.in_(COUNTED))
        .group_by(Choice.agency_id, Choice.customer_id)
        .subquery()
    )
    together = session.scalars(sa.select(of_customer.c.incidents).distinct()).all()
    parts = {tuple(waived[:many]) for waived in together for many in range(1, len(waived) + 1)}
    return [list(part) for part in sorted(parts)]
