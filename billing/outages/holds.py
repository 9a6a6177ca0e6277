"""Which subscriptions an incident holds as it stands now: planned anew, kept, or let go. And whose hold decides."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from billing.outages.models import Pause
from billing.outages.planning_sql.sums import TO_PAUSE


def follow(session: Session, incident_id: str, *, holds: bool) -> None:
    """Hold every subscription that the plan in this transaction's tables affects, and none that it does not.

    Those that were let go before are held again; of those that are held and no longer affected the release begins.
    Without `holds` nothing is held anew. Releases after the end of an incident wait for its runs: see
    `pauses.release_settled`.
    """
    if not holds:
        return
    for statement in (_LET_GO, _PAUSES):
        session.execute(sa.text(statement), {"incident": incident_id})
    session.execute(sa.text(_HELD_INVOICES), {"incident": incident_id, "states": ["planned", "held"]})


def join(session: Session, incident_id: str, pausing: Sequence[tuple[int, str, str]]) -> list[int]:
    """Hold every subscription to one of these (agency, plan, how) that the incident does not hold; the agency of each.

    What somebody else had paused, or lifted, stays theirs.
    """
    if not pausing:
        return []
    agencies, plans, ways = (list(one) for one in zip(*pausing, strict=True))
    told = {"incident": incident_id, "agencies": agencies, "plans": plans, "holds": ways}
    joined = session.scalars(sa.text(_JOIN), told).all()
    if joined:
        session.execute(sa.text(_HELD_INVOICES), {"incident": incident_id, "states": ["planned"]})
    return list(joined)


def leading() -> sa.Select[int]:
    """Of each subscription the pause that has stood the longest: renewals are held in Stripe as that one says."""
    in_stripe = sa.select(Pause.id).where(Pause.state.in_(("held", "releasing")))
    oldest_first = in_stripe.order_by(Pause.subscription_id, Pause.held_at, Pause.id)
    return oldest_first.ext(distinct_on(Pause.subscription_id))


UNTOUCHED: Final = """
pauses.state = 'planned' AND NOT EXISTS (
    SELECT FROM pauses ours
    WHERE ours.agency_id = pauses.agency_id AND ours.subscription_id = pauses.subscription_id AND ours.attempt_no > 0
)
"""
"""Of a pause: that nobody has begun to make it, nor that of another incident, which may have been left to this one."""
_LET_GO: Final = f"""
UPDATE pauses
SET state = CASE WHEN {UNTOUCHED} THEN 'cancelled' ELSE 'releasing' END, due_at = clock_timestamp()
WHERE incident_id = :incident AND state IN ('planned', 'held')
AND NOT EXISTS (SELECT FROM ({TO_PAUSE}) s WHERE s.agency_id = pauses.agency_id AND s.id = pauses.subscription_id)
"""  # noqa: S608 - constants only
_INTO_PAUSES: Final = """
INSERT INTO pauses (agency_id, incident_id, subscription_id, behavior, state, renews_at)
SELECT s.agency_id, :incident, s.id, s.hold, 'planned', s.renews_at
"""
_AGAIN: Final = """
ON CONFLICT ON CONSTRAINT one_hold_per_incident DO UPDATE
SET state = 'planned', behavior = excluded.behavior, renews_at = excluded.renews_at, due_at = clock_timestamp(),
    reason = NULL
"""
_PAUSES: Final = f"""
{_INTO_PAUSES} FROM ({TO_PAUSE}) s ORDER BY s.renews_at, s.id
{_AGAIN} WHERE pauses.state IN ('releasing', 'released', 'left', 'cancelled')
"""
_JOIN: Final = f"""
WITH plan_pausing AS (
    SELECT * FROM unnest(CAST(:agencies AS bigint[]), CAST(:plans AS text[]), CAST(:holds AS text[]))
        AS one (agency_id, plan_id, hold)
)
{_INTO_PAUSES} FROM ({TO_PAUSE}) s
WHERE NOT EXISTS (
    SELECT FROM pauses p WHERE p.agency_id = s.agency_id AND p.incident_id = :incident AND p.subscription_id = s.id
    AND p.state NOT IN ('releasing', 'released', 'cancelled')
)
ORDER BY s.renews_at, s.id
{_AGAIN} WHERE pauses.state IN ('releasing', 'released', 'cancelled')
RETURNING agency_id
"""  # noqa: S608 - constants only
_HELD_INVOICES: Final = """
INSERT INTO held_invoices (agency_id, invoice_id, pause_id, kind, found_auto_advance, state)
SELECT i.agency_id, i.id, p.id, i.status, i.auto_advance, 'planned'
FROM pauses p JOIN invoices i ON i.agency_id = p.agency_id AND i.subscription_id = p.subscription_id
WHERE p.incident_id = :incident AND p.state = ANY(:states) AND i.status IN ('draft', 'open') AND i.auto_advance
ON CONFLICT (agency_id, invoice_id, pause_id) DO UPDATE SET state = 'planned', due_at = clock_timestamp(), reason = NULL
WHERE held_invoices.state IN ('collecting', 'released')
"""
