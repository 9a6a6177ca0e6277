"""What is different between a plan that somebody looked at and the one that took its place, invoice by invoice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.money import Money, plain

TOLD: Final = 5
"""Lines that a sentence has room for; a page and a document show `SHOWN`."""
SHOWN: Final = 100


@dataclass(frozen=True)
class Change:
    """One invoice that came (`before` None), went (`after` None), or gets another amount or goes another way."""

    agency: str
    invoice: str
    currency: str
    before: int | None
    after: int | None

    def sentence(self) -> str:
        before = plain(Money(self.before or 0, self.currency))
        after = plain(Money(self.after or 0, self.currency))
        if self.before is None:
            return f"{self.invoice} came with {after}"
        if self.after is None:
            return f"{self.invoice} went, which had {before}"
        if self.before == self.after:
            return f"{self.invoice} gets its {after} another way"
        return f"{self.invoice} gets {after} instead of {before}"

    def to_json(self) -> dict[str, Any]:
        return {
            "agency": self.agency, "invoice": self.invoice, "currency": self.currency, "before": self.before,
            "after": self.after, "text": self.sentence(),
        }  # fmt: skip


def between(session: Session, before: Sequence[str], after: Sequence[str]) -> list[Change]:
    """What the grants of the runs `after` say differently from those of the runs `before`, by agency and invoice."""
    return [Change(*row) for row in session.execute(sa.text(_BETWEEN), {"before": list(before), "after": list(after)})]


def of_waiting(session: Session, incident_id: str) -> list[Change]:
    """What the runs that wait say differently from those that had waited before them."""
    waiting = session.execute(sa.text(_REPLACED), {"incident": incident_id}).all()
    return between(session, [row.before for row in waiting if row.before], [row.after for row in waiting])


def told(changes: Sequence[Change]) -> str:
    """The differences in one line, the first few of them."""
    lines = "; ".join(change.sentence() for change in changes[:TOLD])
    return f"{lines}; and {len(changes) - TOLD:,} more" if len(changes) > TOLD else lines


_BETWEEN: Final = """
SELECT a.slug, coalesce(n.invoice_id, o.invoice_id), coalesce(n.currency, o.currency), o.amount, n.amount
FROM (
    SELECT * FROM grants WHERE run_id = ANY(:before) AND fallback_of IS NULL
) o FULL JOIN (
    SELECT * FROM grants WHERE run_id = ANY(:after) AND fallback_of IS NULL
) n ON n.agency_id = o.agency_id AND n.invoice_id = o.invoice_id
JOIN agencies a ON a.id = coalesce(n.agency_id, o.agency_id)
WHERE (o.amount, o.refund, o.credit, o.reduce, o.out_of_band)
    IS DISTINCT FROM (n.amount, n.refund, n.credit, n.reduce, n.out_of_band)
ORDER BY a.slug, 2
"""
_REPLACED: Final = """
SELECT r.id AS after, (
    SELECT o.id FROM runs o
    WHERE o.agency_id = r.agency_id AND o.incident_id = r.incident_id AND o.state = 'superseded' AND o.no = r.no - 1
) AS before
FROM runs r WHERE r.incident_id = :incident AND r.state = 'waiting' AND r.no > 1
"""
