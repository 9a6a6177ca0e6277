"""Grants as the formula made them, out of what was kept when each was planned: the same years later.

Nothing here looks at today's plans' weights, policies or incidents.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from billing.locales import Reader
from billing.models import Plan
from billing.money import round_half_up
from billing.outages import loss
from billing.outages.loss import Invoice, InvoiceGrant, Line, LineGrant, lost, owed
from billing.outages.models import Grant, GrantLine, Run, RunLoss, Step
from billing.windows import unix


@dataclass(frozen=True)
class Less:
    """What was kept of why a grant is less than its lines come to; None where that was not kept, but may be."""

    netted: Fraction | None
    """What later invoices of the subscription took back."""
    at_planning: int | None
    """What was waived, and what could not go back."""
    since: int | None
    """What Stripe's rounding of tax took; None where a part of it has ended otherwise, which its steps tell."""

    @staticmethod
    def is_why(missing: Fraction | int, kept: Fraction | int | None) -> bool:
        """Never more than the formula says, and less only by what was kept."""
        return missing >= 0 if kept is None else missing == kept


@dataclass(frozen=True)
class Reckoned:
    """One grant, the schedules that it was computed with, and the terms that its run was planned on."""

    grant: InvoiceGrant
    schedules: Mapping[str, Sequence[loss.Step]]
    policy: str
    terms: Mapping[str, Any]
    """The agency's whole policy as it was then, and what plans were called; empty for a run that is older than that."""
    less: Less
    ungiven: int
    """What of it was neither given nor is to be, by this grant or by one that stands in for it."""

    @property
    def reproduced(self) -> bool:
        """Whether the formula, over what was kept, still comes to what was kept: any other answer is a bug or worse."""
        made, less, planned = self.grant, self.less, sum(line.amount for line in self.grant.lines)
        return (
            all(self._follows(line) for line in made.lines)
            and less.is_why(made.owed - made.exact, less.netted)
            and less.is_why(made.rounded - made.invoice.granted_before - planned, less.at_planning)
            and less.is_why(planned - made.invoice.refundable, less.since)
        )

    def _follows(self, kept: LineGrant) -> bool:
        steps = self.schedules.get(kept.line.plan, ())
        share = 0 if kept.line.metered else lost(steps, *kept.line.period)
        return kept.lost == share and kept.owed == owed(kept.line, steps, self.grant.invoice.whole)


def of(session: Session, grants: Sequence[Grant], known: Sequence[Run] = ()) -> dict[int, Reckoned]:
    """Each of these grants by its id. One that stands in for another is reckoned as that one.

    `known` are runs that need not be read again.
    """
    originals = _originals(session, grants)
    runs = {run.id: run for run in known}
    if missing := {one.run_id for one in originals.values()} - set(runs):
        runs |= {run.id: run for run in session.scalars(sa.select(Run).where(Run.id.in_(missing)))}
    lines = _lines(session, {one.id for one in originals.values()})
    ended = _ended_in_part(session, originals.values(), lines)
    instead = _given_instead(session, ended)
    plans = {line.plan_id for found in lines.values() for line, _name in found if line.plan_id}
    schedules = _schedules(session, set(runs), plans)
    found = {}
    for id, one in originals.items():
        terms, partly = runs[one.run_id].terms or {}, one.id in ended
        made = _computed(one, _named(lines[one.id], terms), schedules[one.run_id], partly=partly)
        found[id] = Reckoned(
            made, schedules[one.run_id], runs[one.run_id].policy, terms,
            _less(one, since=None if partly else one.short),
            ungiven=made.amount - _stands(one) - instead[one.id] if partly else 0,
        )  # fmt: skip
    return found


def on_its_clock(reader: Reader, terms: Mapping[str, Any]) -> Reader:
    """The same reader on the clock that the run was planned by."""
    return replace(reader, zone=terms.get("time_zone", reader.zone))


_ENDED: Final = ("failed", "cancelled")
_LINES: Final = (
    sa.select(GrantLine, Plan.name)
    .outerjoin(Plan, Plan.id == GrantLine.plan_id)
    .where(GrantLine.grant_id == sa.any_(sa.bindparam("grants", type_=ARRAY(sa.BigInteger))))
    .order_by(GrantLine.period_start, GrantLine.line_id)
)
_LOSSES: Final = (
    sa.select(RunLoss.run_id, RunLoss.plan_id, RunLoss.starts_at, RunLoss.ends_at, RunLoss.share)
    .where(
        RunLoss.run_id == sa.any_(sa.bindparam("runs", type_=ARRAY(sa.Text))),
        RunLoss.plan_id == sa.any_(sa.bindparam("plans", type_=ARRAY(sa.Text))),
    )
    .order_by(RunLoss.starts_at)
)


def _originals(session: Session, grants: Sequence[Grant]) -> dict[int, Grant]:
    found = {grant.id: grant for grant in grants}
    while missing := {one.fallback_of for one in found.values() if one.fallback_of is not None}:
        before = {one.id: one for one in session.scalars(sa.select(Grant).where(Grant.id.in_(missing)))}
        found = {id: before[one.fallback_of] if one.fallback_of else one for id, one in found.items()}
    return found


def _lines(session: Session, grant_ids: set[int]) -> defaultdict[int, list[tuple[GrantLine, str | None]]]:
    rows = session.execute(_LINES, {"grants": list(grant_ids)})
    found: defaultdict[int, list[tuple[GrantLine, str | None]]] = defaultdict(list)
    for line, name in rows:
        found[line.grant_id].append((line, name))
    return found


def _ended_in_part(
    session: Session, grants: Iterable[Grant], lines: Mapping[int, Sequence[tuple[GrantLine, str | None]]]
) -> set[int]:
    """Of these grants, those of which a step gave nothing in the end: such a part has left the grant's amount."""
    smaller = {one.id for one in grants if one.amount + one.short < sum(line.amount for line, _name in lines[one.id])}
    if not smaller:
        return set()
    ended = sa.select(Step.grant_id).where(Step.grant_id.in_(smaller), Step.state.in_(_ENDED))
    return set(session.scalars(ended))


def _stands(grant: Grant) -> int:
    return 0 if grant.state in _ENDED else grant.amount


def _given_instead(session: Session, grants: set[int]) -> Counter[int]:
    """What stands in for parts of these grants."""
    if not grants:
        return Counter()
    amounts = sa.select(Grant.fallback_of, sa.func.sum(Grant.amount)).where(
        Grant.fallback_of.in_(grants), Grant.state.not_in(_ENDED)
    )
    return Counter({id: int(amount) for id, amount in session.execute(amounts.group_by(Grant.fallback_of)) if id})


def _less(kept: Grant, since: int | None) -> Less:
    netted = None if kept.netted is None else Fraction(kept.netted)
    waived_or_clipped = None if kept.waived is None or kept.clipped is None else kept.waived + kept.clipped
    return Less(netted, waived_or_clipped, since)


def _named(
    lines: Sequence[tuple[GrantLine, str | None]], terms: Mapping[str, Any]
) -> list[tuple[GrantLine, str | None]]:
    """With the names that the plans had when the run was planned; a run that is older than that has today's."""
    names = terms.get("plans", {})
    return [(line, names.get(line.plan_id, today)) for line, today in lines]


def _schedules(session: Session, run_ids: set[str], plans: set[str]) -> defaultdict[str, dict[str, list[loss.Step]]]:
    found: defaultdict[str, dict[str, list[loss.Step]]] = defaultdict(dict)
    for kept in session.execute(_LOSSES, {"runs": list(run_ids), "plans": list(plans)}):
        step = loss.Step(unix(kept.starts_at), unix(kept.ends_at), kept.share)
        found[kept.run_id].setdefault(kept.plan_id, []).append(step)
    return found


def _computed(
    grant: Grant,
    kept: Sequence[tuple[GrantLine, str | None]],
    schedules: Mapping[str, Sequence[loss.Step]],
    *,
    partly: bool,
) -> InvoiceGrant:
    """As it was planned: a part that ended otherwise since (`partly`) is told beside it. `refundable` stands."""
    lines = [_line(line, name, schedules) for line, name in kept]
    exact, base, whole = Fraction(grant.owed), Fraction(grant.base), Fraction(grant.whole)
    total = sum((line.owed for line in lines), Fraction(0))
    amount = sum(line.amount for line in lines) - grant.short if partly else grant.amount
    invoice = Invoice(
        [line.line for line in lines], grant.currency, grant.amount, base, grant.granted_before, grant.invoice_id, whole
    )
    return InvoiceGrant(invoice, lines, total * base, exact, round_half_up(exact), amount, grant.waived or 0)


def _line(kept: GrantLine, name: str | None, schedules: Mapping[str, Sequence[loss.Step]]) -> LineGrant:
    line = Line(
        net=kept.net, period=(unix(kept.period_start), unix(kept.period_end)), plan=kept.plan_id or "", tax=kept.tax,
        id=kept.line_id, name=name or "",
    )  # fmt: skip
    share = Fraction(kept.owed)
    # A line that is billed by use has lost nothing by definition, while its plan's schedule has.
    by_use = not kept.lost and not share and line.charged != 0 and lost(schedules.get(line.plan, ()), *line.period) > 0
    return LineGrant(replace(line, metered=by_use), int(kept.lost), share, kept.amount)
