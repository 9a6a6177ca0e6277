"""Whom an incident covers, and when: the rows that keep two people from declaring the same outage."""

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing.errors import AlreadyDeclared
from billing.models import Platform
from billing.outages.models import Incident, IncidentScope
from billing.windows import iso


def agencies_in(session: Session, incident_id: str) -> frozenset[int]:
    """The agency numbers of an incident's scope; 0 is all of them."""
    return frozenset(
        session.scalars(sa.select(IncidentScope.agency_id).where(IncidentScope.incident_id == incident_id))
    )


def write(session: Session, incident: Incident, agencies: Iterable[int]) -> None:
    """Let the scope say what the incident says now. Raises `AlreadyDeclared` where another one covers that already.

    What was retracted stands in nobody's way.
    """
    agencies = sorted(agencies)
    during = Range(incident.started_at, incident.ended_at, bounds="[)")
    try:
        with session.begin_nested():
            session.execute(sa.delete(IncidentScope).where(IncidentScope.incident_id == incident.id))
            session.execute(
                sa.insert(IncidentScope),
                [
                    {
                        "incident_id": incident.id, "agency_id": agency_id, "platform_id": incident.platform_id,
                        "impact_bp": incident.impact_bp, "during": during, "live": incident.state != "retracted",
                    }
                    for agency_id in agencies
                ],
            )  # fmt: skip
    except IntegrityError as error:
        if "not_declared_twice" not in str(error.orig):
            raise
        raise AlreadyDeclared(_which_overlaps(session, incident, agencies, during)) from error


def _which_overlaps(session: Session, incident: Incident, agencies: list[int], during: Range[datetime]) -> str:
    overlapping = session.scalar(
        sa.select(Incident)
        .join(IncidentScope, IncidentScope.incident_id == Incident.id)
        .where(
            IncidentScope.live,
            IncidentScope.agency_id.in_(agencies),
            IncidentScope.platform_id == incident.platform_id,
            IncidentScope.impact_bp == incident.impact_bp,
            IncidentScope.during.overlaps(during),
            Incident.id != incident.id,
        )
        .order_by(Incident.started_at)
        .limit(1)
    )
    name = session.get_one(Platform, incident.platform_id).name
    which = f"incident {overlapping.id}, which began at {iso(overlapping.started_at)}" if overlapping else "another one"
    if overlapping and overlapping.state == "retired":
        return f"{name} was given up for good with {which}: what was paid for it from then on is owed by that one."
    return f"{name} is declared for that time already: it overlaps {which}. Go on with that."
