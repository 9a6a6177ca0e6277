"""Runs that are due by themselves: when customers have chosen, and every so many days while an incident goes on."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.outages import terms
from billing.outages.decisions import Settlement
from billing.outages.in_force import EVERYBODY, Outage
from billing.outages.models import Incident, Pause
from tenants.db import after_commit
from tenants.models import Agency
from tenants.policy import Policy


def begin(session: Session, outage: Outage, now: datetime) -> None:
    """Note when each agency that the outage covers is due, as its policy says now. What is noted already stays."""
    covered = sa.select(Agency.id)
    if EVERYBODY not in outage.agencies:
        covered = covered.where(Agency.id.in_(outage.agencies))
    rows = []
    for agency, one in terms.now(session, session.scalars(covered).all()).items():
        policy = one.granting(outage.policy).policy
        asked = policy.choice_days and policy.grants != "none"
        closes_at = now + timedelta(days=policy.choice_days) if asked else None
        due_at = after(now, policy, closes_at, goes_on=outage.ended_at is None)
        if due_at is not None:
            rows.append({"agency_id": agency, "incident_id": outage.id, "closes_at": closes_at, "due_at": due_at})
    if rows:
        noted = insert(Settlement).values(rows)
        session.execute(
            noted.on_conflict_do_update(
                index_elements=["incident_id", "agency_id"],
                set_={"due_at": sa.func.coalesce(Settlement.due_at, noted.excluded.due_at)},
            ),
            execution_options={"synchronize_session": False},
        )


def at_once(session: Session, agency_id: int, incident_id: str) -> None:
    """Have a worker plan this agency for this incident again: something was found that no run has looked at."""
    began = session.get_one(Incident, incident_id).started_at
    noted = insert(Settlement).values(agency_id=agency_id, incident_id=incident_id, due_at=began)
    session.execute(
        noted.on_conflict_do_update(index_elements=["incident_id", "agency_id"], set_={"due_at": began}),
        execution_options={"synchronize_session": False},
    )
    after_commit(session, "outages.settle", incident_id)


def is_overdue(pause: type[Pause]) -> sa.ColumnElement[bool]:
    """Of a Pause: that what was found for its incident and agency has still to be planned."""
    return sa.exists().where(
        Settlement.agency_id == pause.agency_id,
        Settlement.incident_id == pause.incident_id,
        Incident.id == Settlement.incident_id,
        Settlement.due_at <= Incident.started_at,
    )


def after(now: datetime, policy: Policy, closes_at: datetime | None, *, goes_on: bool) -> datetime | None:
    """When the next run is due after `now`."""
    days = [closes_at] if closes_at is not None and closes_at > now else []
    if goes_on and policy.settle == "every":
        days.append(now + timedelta(days=policy.settle_days))
    return min(days, default=None)
