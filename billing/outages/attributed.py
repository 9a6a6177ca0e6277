"""How much was granted because of one incident, where several took the same time: for reports, to the unit."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.money import Money, Totals, split
from billing.outages import attribution, terms
from billing.outages.attribution import Claimant
from billing.outages.in_force import FOR_GOOD, Outage, outages_in_force
from billing.outages.planning_sql import LIVE
from billing.windows import unix


@dataclass
class Attributed:
    """`granted` because of time that the incident took, and `goodwill` for time that it did not take after all."""

    granted: Totals = field(default_factory=Totals)
    goodwill: Totals = field(default_factory=Totals)

    def to_json(self) -> dict[str, Any]:
        return {"granted": self.granted.to_json(), "goodwill": self.goodwill.to_json()}


_Weights = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Bill:
    """One invoice: what it had back without goodwill, and its lines as `(charged, weights, start, end)`; the weights
    are `(platform, basis points)` of its plan, as the invoice's last run knew it."""

    agency_id: int
    invoice_id: str
    currency: str
    amount: int
    by_grants: Mapping[str, int]
    lines: Sequence[tuple[int, _Weights, int, int]]


def attributed(session: Session, incident_id: str, as_of: datetime, agency: str | None = None) -> Attributed:
    """What was granted because of this incident, per currency, to all agencies or to the one with that slug.

    Open incidents are counted until `as_of`. Each invoice's grants, without goodwill, are split over the incidents by
    what each took of its lines (largest remainder; ties: the earlier declared). Over all incidents together they add up
    to everything that was granted. An invoice of which nothing is lost any more counts for the incidents whose runs
    granted it. What a plan depends on is what its run knew: to weigh it anew moves nothing that was granted.
    """
    outages = sorted(outages_in_force(session), key=lambda one: (one.declared_at or as_of, one.id))
    found = Attributed()
    shared = _Shared(outages, unix(as_of), as_of, terms.gave_until(session))
    told = {"incident": incident_id, "agency": agency}
    for bill in _bills(session, told):
        parts = _parts(bill, shared)
        if part := parts.get(incident_id, 0):
            found.granted.add(Money(part, bill.currency))
    given = sa.text(
        "SELECT g.currency, sum(g.amount)::bigint AS amount FROM goodwill g JOIN agencies a ON a.id = g.agency_id"
        " WHERE g.incident_id = :incident AND g.amount > 0 AND (CAST(:agency AS text) IS NULL OR a.slug = :agency)"
        " GROUP BY g.currency ORDER BY g.currency"
    )
    for row in session.execute(given, told):
        found.goodwill.add(Money(row.amount, row.currency))
    return found


class _Shared:
    """The shares of each plan and period, worked out once for all the invoices that have them."""

    def __init__(
        self, outages: Sequence[Outage], until: int, as_of: datetime, stopped: Mapping[tuple[str, int], datetime | None]
    ) -> None:
        self._outages, self._until, self._as_of, self._stopped = outages, until, as_of, stopped
        self._claimants: dict[int, list[Claimant]] = {}
        self._known: dict[tuple[int, _Weights, int, int], dict[str, Fraction]] = {}

    def of(self, agency_id: int, weights: _Weights, start: int, end: int) -> dict[str, Fraction]:
        if agency_id not in self._claimants:
            gave = [
                (one, self._stopped.get((one.id, agency_id), FOR_GOOD))
                for one in self._outages
                if one.covers(agency_id)
            ]
            self._claimants[agency_id] = [
                Claimant(one.id, one.until(until).span(self._as_of))
                for one, until in gave
                if until is not None and until > one.started_at
            ]
        key = (agency_id, weights, start, end)
        if key not in self._known:
            self._known[key] = attribution.shares(dict(weights), self._claimants[agency_id], self._until, start, end)
        return self._known[key]

    def order(self, incidents: Sequence[str]) -> list[str]:
        declared = {one.id: number for number, one in enumerate(self._outages)}
        return sorted(incidents, key=lambda id: (declared.get(id, len(declared)), id))


def _parts(bill: _Bill, shared: _Shared) -> dict[str, int]:
    took: defaultdict[str, Fraction] = defaultdict(Fraction)
    for charged, depends_on, start, end in bill.lines:
        for incident, share in shared.of(bill.agency_id, depends_on, start, end).items():
            took[incident] += charged * share / (end - start)
    weights: dict[str, Fraction | int] = {incident: part for incident, part in took.items() if part > 0}
    if not weights:
        weights = {incident: amount for incident, amount in bill.by_grants.items() if amount > 0}
    order = shared.order(list(weights))
    return dict(zip(order, split(bill.amount, [weights[incident] for incident in order]), strict=True))


def _bills(session: Session, told: dict[str, Any]) -> list[_Bill]:
    """Every invoice that the incident gave something, or of which it may have taken a part that another one gave."""
    told = told | {"live": list(LIVE)}
    lines: defaultdict[tuple[int, str], list[tuple[int, _Weights, int, int]]] = defaultdict(list)
    for row in session.execute(sa.text(_LINES), told):
        weights = tuple(sorted(row.weights.items()))
        lines[row.agency_id, row.invoice_id].append((row.charged, weights, row.starts, row.ends))
    return [
        _Bill(
            row.agency_id, row.invoice_id, row.currency, max(0, row.given - row.goodwill), row.by_grants,
            lines[row.agency_id, row.invoice_id],
        )
        for row in session.execute(sa.text(_BILLS), told)
    ]  # fmt: skip


_OF_INVOICES: Final = """
WITH concerned AS (
    SELECT DISTINCT g.agency_id, g.invoice_id FROM grants g JOIN agencies a ON a.id = g.agency_id
    WHERE g.state = ANY(:live) AND (CAST(:agency AS text) IS NULL OR a.slug = :agency) AND (
        g.incident_id = :incident OR EXISTS (
            SELECT FROM incidents i JOIN incident_scope s ON s.incident_id = i.id
            JOIN platforms f ON f.id = i.platform_id
            JOIN invoice_lines l ON l.agency_id = g.agency_id AND l.invoice_id = g.invoice_id
            JOIN runs r ON r.agency_id = g.agency_id AND r.id = g.run_id
            WHERE i.id = :incident AND s.agency_id IN (0, g.agency_id) AND r.terms -> 'weights' -> l.plan_id ? f.slug
            AND l.period_end > i.started_at AND (i.ended_at IS NULL OR l.period_start < i.ended_at)
        )
    )
)
"""
_BILLS: Final = f"""{_OF_INVOICES}
SELECT agency_id, invoice_id, min(currency) AS currency, sum(amount)::bigint AS given,
       jsonb_object_agg(incident_id, amount) AS by_grants,
       coalesce((
           SELECT sum(w.amount) FROM goodwill w WHERE w.agency_id = g.agency_id AND w.invoice_id = g.invoice_id
       ), 0)::bigint AS goodwill
FROM (
    SELECT g.agency_id, g.invoice_id, g.incident_id, min(g.currency) AS currency, sum(g.amount) AS amount
    FROM grants g JOIN concerned c ON c.agency_id = g.agency_id AND c.invoice_id = g.invoice_id
    WHERE g.state = ANY(:live) GROUP BY g.agency_id, g.invoice_id, g.incident_id
) g
GROUP BY agency_id, invoice_id ORDER BY agency_id, invoice_id
"""  # noqa: S608 - constants only
_LINES: Final = f"""{_OF_INVOICES}
SELECT l.agency_id, l.invoice_id, (l.net + l.tax)::bigint AS charged,
       date_part('epoch', l.period_start)::bigint AS starts, date_part('epoch', l.period_end)::bigint AS ends,
       coalesce(last.weights -> l.plan_id, '{{}}') AS weights
FROM invoice_lines l JOIN concerned c ON c.agency_id = l.agency_id AND c.invoice_id = l.invoice_id
CROSS JOIN LATERAL (
    SELECT r.terms -> 'weights' AS weights FROM grants g JOIN runs r ON r.agency_id = g.agency_id AND r.id = g.run_id
    WHERE g.agency_id = l.agency_id AND g.invoice_id = l.invoice_id AND g.state = ANY(:live)
    ORDER BY g.id DESC LIMIT 1
) last
WHERE NOT l.metered AND l.plan_id IS NOT NULL AND l.period_end > l.period_start
"""  # noqa: S608 - constants only
