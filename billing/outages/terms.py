"""The terms that a run is planned on: its agency's policy as it was then, under what the incident asked for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.models import Run
from billing.stretches import Counting
from tenants import policy
from tenants.models import Agency
from tenants.policy import Policy


@dataclass(frozen=True)
class Terms:
    """One agency's policy and time zone. A run keeps them, as `to_json` writes them down."""

    policy: Policy
    time_zone: str

    @property
    def counting(self) -> Counting:
        return Counting(self.policy.granularity, self.time_zone, self.policy.gap, self.policy.recovery)

    def granting(self, grants: str | None) -> "Terms":
        """The same, except for what is granted, where an incident asked for something else."""
        return self if grants is None else replace(self, policy=replace(self.policy, grants=grants))

    def to_json(self) -> dict[str, Any]:
        return {"policy": self.policy.to_json(), "time_zone": self.time_zone}


def of_json(kept: Mapping[str, Any]) -> Terms:
    """The terms that a run kept."""
    return Terms(policy.of_json(kept["policy"]), kept["time_zone"])


def now(session: Session, agencies: Collection[int]) -> dict[int, Terms]:
    """What these agencies want from now on."""
    policies = policy.in_force(session, agencies)
    zones = session.execute(sa.select(Agency.id, Agency.time_zone).where(Agency.id.in_(agencies)))
    return {agency: Terms(policies[agency], zone) for agency, zone in zones}


def granted_by(session: Session) -> dict[tuple[str, int], str]:
    """What the last run of each incident granted each agency by: `prorated`, `full`, `credit` or `none`."""
    rows = session.execute(
        sa.select(Run.incident_id, Run.agency_id, Run.policy).where(Run.state != "superseded").order_by(Run.no)
    )
    return {(incident, agency): grants for incident, agency, grants in rows}


def left_something_out(session: Session, incident_id: str) -> set[int]:
    """The agencies whose last run of an incident left something out, or was declined: what stands until another run
    says that it does not."""
    rows = session.execute(
        sa.select(Run.agency_id, Run.state == "declined", sa.func.jsonb_array_length(Run.left_out))
        .where(Run.incident_id == incident_id, Run.state.not_in(("superseded", "waiting")))
        .order_by(Run.no)
    )
    last = {agency: declined or left_out > 0 for agency, declined, left_out in rows}
    return {agency for agency, stands in last.items() if stands}


def gave_until(session: Session) -> dict[tuple[str, int], datetime | None]:
    """Of the incidents, each with its agency, whose last run granted `none`: until when those before it gave something.

    None: no run ever did. One that gave for good is not among them.
    """
    gives = sa.and_(Run.policy != "none", Run.state.in_(("running", "halted", "done")))
    nothing_more = sa.func.max(Run.no).filter(Run.policy == "none") == sa.func.max(Run.no)
    for_good = sa.func.coalesce(sa.func.bool_or(sa.and_(gives, Run.purpose == "retire")), False)
    rows = session.execute(
        sa.select(Run.incident_id, Run.agency_id, sa.func.max(Run.as_of).filter(gives))
        .where(Run.state != "superseded")
        .group_by(Run.incident_id, Run.agency_id)
        .having(sa.and_(nothing_more, ~for_good))
    )
    return {(incident, agency): until for incident, agency, until in rows}
