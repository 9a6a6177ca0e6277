"""Runs that nobody has to start: after customers have chosen, and every so many days of a long incident."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages import automatic, planning, runs, settlements, terms
from billing.outages.decisions import Settlement
from billing.outages.in_force import COUNTED, OVER
from billing.outages.models import Incident
from tenants import audit
from tenants.clock import ClockUnavailable
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Member


def settle_due(house: House, limit: int) -> int:
    """Plan what is due of up to `limit` incidents. Returns of how many; safe to run anywhere, any number of times."""
    with house.database.work(OPERATOR) as session:
        if not session.scalar(sa.select(sa.exists().where(Settlement.due_at.is_not(None)))):
            return 0
    try:
        now = house.clock.now()
    except ClockUnavailable:
        return 0  # looked at again in a few seconds
    with house.database.work(OPERATOR) as session:
        due = sa.select(Settlement.incident_id).where(Settlement.due_at <= now).distinct()
        incidents = session.scalars(due.order_by(Settlement.incident_id).limit(limit)).all()
    for incident_id in incidents:
        house.database.retried(OPERATOR, lambda session, id=incident_id: settle(session, now, id))  # type: ignore[misc]
    return len(incidents)


def settle(session: Session, now: datetime, incident_id: str) -> None:
    """Plan an incident for the agencies that are due by `now`; nothing where another worker has done it."""
    planning.lock(session, planning.standing(session, incident_id))
    incident = session.get_one(Incident, incident_id, with_for_update={"key_share": True}, populate_existing=True)
    rows = session.scalars(
        sa.select(Settlement)
        .where(Settlement.incident_id == incident_id, Settlement.due_at <= now)
        .order_by(Settlement.agency_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).all()
    policies = {agency: one.policy for agency, one in terms.now(session, [row.agency_id for row in rows]).items()}
    due = [row for row in rows if settlements.still_due(row, incident, policies[row.agency_id])]
    if due and incident.state in COUNTED:
        outage = planning.standing(session, incident_id)
        settlements.ask_first(session, outage, now, due)
        plan = planning.plan(session, outage, now, drafts=incident.state in OVER)
        by, concerned = session.get_one(Member, incident.declared_by), [row.agency_id for row in due]
        made = runs.freeze(session, plan, incident, by, "settle", only=concerned)
        automatic.approve_within_limits(session, now, made, "worker")
        for run in made:
            facts = {"run": run.id, "fingerprint": run.fingerprint}
            audit.record(
                session, "engine", "worker", "incident.settled", incident_id, agency_id=run.agency_id, after=facts
            )
    goes_on = incident.state == "declared" and incident.ended_at is None
    for row in rows:
        row.due_at = settlements.after(now, policies[row.agency_id], row.closes_at, goes_on=goes_on)


def oldest_due() -> sa.Select[tuple[datetime, datetime]]:
    """Now, while anything is due some day: what time it is for the business only `settle_due` can ask."""
    now = sa.func.clock_timestamp()
    return sa.select(sa.case((sa.exists().where(Settlement.due_at.is_not(None)), now)), now)
