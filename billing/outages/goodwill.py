"""What an invoice had had back for time that was not lost after all: recorded, never taken back."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.planning import Plan
from billing.outages.planning_sql import LIVE


def record(session: Session, plan: Plan) -> None:
    """Bring the goodwill of the planned incident to what its plan, in this transaction's tables, makes of it.

    Per invoice: granted − goodwill of other incidents − round(owed), never below 0. Cut an incident and it rises; let
    it grow again and it is used up first, before anything new is granted; of others that go on only what they have not
    used up since counts. Safe to repeat.
    """
    told = {"incident": plan.outage.id, "live": list(LIVE)}
    for statement in (_HOLD_STILL, _RECORD):
        session.execute(sa.text(statement), told)


# What ends without having gone out leaves the goodwill that it finds (`ungiven`): whoever ends it meanwhile has to wait
# until there is any.
_HOLD_STILL: Final = """
SELECT FROM grants g JOIN plan_reached r ON r.agency_id = g.agency_id AND r.invoice_id = g.invoice_id
WHERE g.state = ANY(:live) ORDER BY g.agency_id, g.id FOR SHARE OF g
"""

_RECORD: Final = """
INSERT INTO goodwill (agency_id, incident_id, invoice_id, currency, amount, highest)
SELECT r.agency_id, :incident, r.invoice_id, r.currency, surplus.amount, surplus.amount
FROM plan_reached r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(g.amount), 0) AS amount FROM grants g
    WHERE g.agency_id = r.agency_id AND g.invoice_id = r.invoice_id AND g.state = ANY(:live)
) given
CROSS JOIN LATERAL (
    SELECT coalesce(sum(k.amount), 0) AS amount FROM plan_kindness k
    WHERE k.agency_id = r.agency_id AND k.invoice_id = r.invoice_id
) others
LEFT JOIN plan_invoices i ON i.agency_id = r.agency_id AND i.invoice_id = r.invoice_id
CROSS JOIN LATERAL (
    SELECT greatest(0, given.amount - others.amount - coalesce(i.rounded, 0)) AS amount
) surplus
WHERE given.amount - others.amount > coalesce(i.rounded, 0) OR EXISTS (
    SELECT FROM goodwill o
    WHERE o.agency_id = r.agency_id AND o.invoice_id = r.invoice_id AND o.incident_id = :incident
)
ON CONFLICT (agency_id, incident_id, invoice_id) DO UPDATE
SET amount = excluded.amount, highest = greatest(goodwill.highest, excluded.amount), changed_at = now()
WHERE goodwill.amount <> excluded.amount
"""
