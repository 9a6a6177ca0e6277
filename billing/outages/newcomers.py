"""Hold what an incident takes and nobody knew of when it was declared.

While it goes on, subscriptions are sold and imported, change their plans, and plans get other weights. Every minute
whichever worker comes first looks whether there is one that depends on the platform and is not held, and whether an
agency was made, or wants its runs more often, since. What is sold on a platform that was given up is for a person.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages import fates, filling, holds, planning, settlements, terms
from billing.outages.in_force import weights_of_plans
from billing.outages.models import Incident
from tenants import audit
from tenants.clock import ClockUnavailable
from tenants.db import OPERATOR, after_commit
from tenants.house import House
from tenants.models import Agency

EVERY: Final = timedelta(minutes=1)
_GOES_ON: Final = sa.or_(
    sa.and_(Incident.state == "declared", Incident.ended_at.is_(None)), Incident.state == "retired"
)


def oldest_due() -> sa.Select[Any]:
    """`(when the next look is due, now)`."""
    return sa.select(sa.func.min(Incident.followed_at) + EVERY, sa.func.clock_timestamp()).where(_GOES_ON)


def look_due(house: House, limit: int) -> int:
    """Look at up to `limit` incidents that go on and were not looked at within a minute. Returns at how many.

    Safe to run anywhere, any number of times at once.
    """
    try:
        now = house.clock.now()
    except ClockUnavailable:
        now = None  # what is to be held does not wait for it
    for looked in range(limit):
        if not house.database.retried(OPERATOR, partial(_look_at_next, now=now)):
            return looked
    return limit


def _look_at_next(session: Session, now: datetime | None) -> bool:
    due = sa.and_(_GOES_ON, Incident.followed_at <= sa.func.clock_timestamp() - EVERY)
    # The lock keeps whoever resolves or changes it waiting: what is held here is held for the incident as it stands.
    taken = sa.select(Incident).where(due).order_by(Incident.followed_at).limit(1)
    incident = session.scalar(taken.with_for_update(skip_locked=True, key_share=True))
    if incident is None:
        return False
    incident.followed_at = sa.func.clock_timestamp()
    outage = planning.standing(session, incident.id)
    if incident.state == "retired":
        late = fates.find_late(session, incident.id, outage.platform, outage.agencies)
        _note(session, incident, "retirements.joined", late)
        return True
    agencies = [one for one in session.scalars(sa.select(Agency.id).order_by(Agency.id)) if outage.covers(one)]
    agreed = terms.now(session, agencies)
    if now is not None:
        policies = {agency: one.granting(outage.policy).policy for agency, one in agreed.items()}
        settlements.keep_up(session, incident.id, now, policies, goes_on=True)
    pausing = filling.pausing(outage, weights_of_plans(session), agreed)
    held = Counter(holds.join(session, incident.id, pausing))
    _note(session, incident, "pauses.joined", held)
    if held:
        after_commit(session, "outages.hold", incident.id)
    return True


def _note(session: Session, incident: Incident, what: str, of_agencies: Mapping[int, int]) -> None:
    for agency_id, count in sorted(of_agencies.items()):
        audit.record(session, "engine", "worker", what, incident.id, agency_id=agency_id, after={"count": count})
