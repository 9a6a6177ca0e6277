"""What was counted as goodwill while it was on its way, and never arrived: no later incident is to pay for it again."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.models import Grant


def take_out(session: Session, grant: Grant, part: int) -> None:
    """`part` of a grant was not given after all: it is no goodwill any more, of its own incident first.

    What another incident left over may be of this grant as well, if it was worked out while the grant stood.
    """
    told = {"agency": grant.agency_id, "invoice": grant.invoice_id, "incident": grant.incident_id, "part": part}
    session.execute(sa.text(_NEVER_GIVEN), told | {"since": grant.fallback_of or grant.id})


# Of a grant that stands in for another it was that other that stood.
_NEVER_GIVEN: Final = """
UPDATE goodwill w SET amount = w.amount - off.part, highest = w.highest - off.part
FROM (
    SELECT o.incident_id, least(o.amount, greatest(0, :part - (sum(o.amount) OVER own_first - o.amount))) AS part
    FROM goodwill o JOIN grants g ON g.agency_id = o.agency_id AND g.id = :since AND g.created_at < o.changed_at
    WHERE o.agency_id = :agency AND o.invoice_id = :invoice
    WINDOW own_first AS (ORDER BY o.incident_id <> :incident, o.changed_at DESC, o.incident_id)
) off
WHERE w.agency_id = :agency AND w.invoice_id = :invoice AND w.incident_id = off.incident_id AND off.part > 0
"""
