"""What one invoice gets in a plan, line by line: read out of the plan's tables, split as the formula splits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from heapq import merge
from itertools import groupby, islice
from math import gcd
from operator import itemgetter
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.arithmetic import fraction_text, line_data, period_data
from billing.outages.in_force import Losses
from billing.outages.loss import (
    WHOLE,
    Invoice,
    InvoiceGrant,
    Line,
    LineGrant,
    Step,
    lost,
    owed,
    split_over_lines,
    within,
)
from billing.outages.planning_sql import LIVE
from billing.outages.planning_sql.parts import ADD_PARTS, LINES_OF_GRANTS, PARTS, SIMPLE_GRANTS
from billing.windows import unix

BATCH: Final = 1_000

T = TypeVar("T")


@dataclass(frozen=True)
class PlannedGrant:
    """One invoice's grant in a plan, and how the formula came to it. `parts` say which way how much of it goes.

    `clipped` is what it falls short of the formula, as no more can be refunded or sent.
    """

    agency_id: int
    agency: str
    customer: str
    channel: str
    parts: Mapping[str, int]
    clipped: int
    grant: InvoiceGrant
    schedules: Mapping[str, Sequence[Step]]

    def to_json(self) -> dict[str, Any]:
        """As scripts rely on it; lines that lost nothing are left out."""
        return {
            "agency": self.agency,
            "customer": self.customer,
            "invoice": self.grant.invoice.id,
            "currency": self.grant.invoice.currency,
            "amount": self.grant.amount,
            "channel": self.channel,
            "parts": dict(self.parts),
            "base": fraction_text(self.grant.invoice.base),
            "clipped": self.clipped,
            "granted_before": self.grant.invoice.granted_before,
            "lines": [
                line_data(line, self.schedules.get(line.line.plan, ()))
                for line in self.grant.lines
                if line.lost or line.amount
            ],
        }


def planned_grants(
    session: Session, losses: Sequence[Losses], *, every: bool = True, biggest: int | None = None
) -> Iterator[PlannedGrant]:
    """Every grant of the plan in this transaction's tables, by agency and invoice; or the `biggest` so many of them.

    Without `every` only those that `plan_parts` does not have: their split over their lines is no matter of course.
    """
    by_group = {group.group: group.schedules for group in losses}
    if every:
        _fill_simple_parts(session)
    rows = session.execute(
        sa.text(LINES_OF_GRANTS),
        {"live": list(LIVE), "every": every, "biggest": biggest},
        execution_options={"yield_per": BATCH},
    )
    for _, group in groupby(rows, key=lambda row: (row.agency_id, row.invoice_id)):
        lines = list(group)
        yield _planned(lines, by_group[lines[0].grp])


def told(session: Session, losses: Sequence[Losses]) -> Iterator[dict[str, Any]]:
    """What `to_json` says of every grant, in the same order, twenty times as fast where one line alone lost something.

    Such lines are many and their periods few, so that a period's losses are put into words once.
    """
    by_group = {group.group: group.schedules for group in losses}
    _fill_simple_parts(session)
    rows = session.execute(
        sa.text(SIMPLE_GRANTS),
        {"live": list(LIVE)},
        execution_options={"yield_per": BATCH},
    )
    periods: dict[tuple[Any, ...], dict[str, Any]] = {}
    simple = (((row.agency_id, row.invoice_id), _told(row, by_group, periods)) for row in rows)
    rest = (
        ((one.agency_id, one.grant.invoice.id), one.to_json()) for one in planned_grants(session, losses, every=False)
    )
    return (grant for _, grant in merge(simple, rest, key=itemgetter(0)))


def fill_parts(session: Session, losses: Sequence[Losses]) -> None:
    """Leave what each line gets in `plan_parts`."""
    _fill_simple_parts(session)
    for batch in batched(planned_grants(session, losses, every=False), BATCH):
        split = [
            (planned.agency_id, planned.grant.invoice.id, line.line.id, line.amount, line.lost, _length(line.line))
            for planned in batch
            for line in planned.grant.lines
        ]
        names = ("agencies", "invoices", "lines", "amounts", "losses", "lengths")
        columns = zip(names, zip(*split, strict=True), strict=True)
        session.execute(sa.text(ADD_PARTS), {name: list(values) for name, values in columns})


def batched(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` things each, the last one shorter."""
    rest = iter(things)
    while batch := list(islice(rest, size)):
        yield batch


def _length(line: Line) -> int:
    """Seconds; a line of no time has lost none, whatever it is divided by."""
    start, end = line.period
    return max(1, end - start)


def _fill_simple_parts(session: Session) -> None:
    session.execute(sa.text("DROP TABLE IF EXISTS pg_temp.plan_parts"))
    session.execute(sa.text(PARTS), {"live": list(LIVE)})


def _planned(rows: Sequence[Any], schedules: Mapping[str, Sequence[Step]]) -> PlannedGrant:
    first = rows[0]
    lines = [
        Line(
            net=row.net, period=(unix(row.period_start), unix(row.period_end)), plan=row.plan_id or "", tax=row.tax,
            metered=row.metered, granted_before=row.line_before, id=row.line_id,
        )
        for row in rows
    ]  # fmt: skip
    steps = [schedules.get(line.plan, ()) for line in lines]
    whole = Fraction(int(first.whole_num), int(first.whole_den))
    shares = [owed(line, on, whole) for line, on in zip(lines, steps, strict=True)]
    exact = Fraction(int(first.exact_num), int(first.exact_den))
    base = Fraction(int(first.base_num), int(first.base_den))
    parts = {name: getattr(first, name) for name in ("refund", "credit", "reduce", "out_of_band")}
    return PlannedGrant(
        first.agency_id, first.slug, first.customer_id, channel(parts), parts, first.clipped,
        InvoiceGrant(
            Invoice(lines, first.currency, first.amount, base, first.before, first.invoice_id, whole),
            [
                LineGrant(line, 0 if line.metered else lost(on, *line.period), share, part)
                for line, on, share, part in zip(
                    lines, steps, shares, split_over_lines(first.amount, lines, shares, exact, first.unit), strict=True
                )
            ],
            base * sum(shares, Fraction(0)), exact, first.rounded, first.amount,
        ),
        schedules,
    )  # fmt: skip


def _told(
    row: Any, schedules: Mapping[int, Mapping[str, Sequence[Step]]], periods: dict[tuple[Any, ...], dict[str, Any]]
) -> dict[str, Any]:
    key = (row.grp, row.plan_id, row.starts, row.length)
    if key not in periods:
        periods[key] = period_data(
            within(schedules[row.grp][row.plan_id], row.starts, row.starts + row.length),
            (row.starts, row.starts + row.length), row.lost,
        )  # fmt: skip
    num, den = row.charged * row.lost, WHOLE * row.length
    common = gcd(num, den)
    parts = {"refund": row.refund, "credit": row.credit, "reduce": row.reduce, "out_of_band": row.out_of_band}
    line = {
        "line": row.line_id, "net": row.net, "tax": row.tax, **periods[key], "owed": f"{num // common}/{den // common}",
        "granted_before": row.line_before, "amount": row.amount,
    }  # fmt: skip
    return {
        "agency": row.slug, "customer": row.customer_id, "invoice": row.invoice_id, "currency": row.currency,
        "amount": row.amount, "channel": channel(parts), "parts": parts,
        "base": fraction_text(Fraction(int(row.base_num), int(row.base_den))), "clipped": row.clipped,
        "granted_before": row.before, "lines": [line],
    }  # fmt: skip


def channel(parts: Mapping[str, int]) -> str:
    """The way that most of a grant takes."""
    ways = {"refund": "refund", "credit": "credit", "reduce": "reduce", "out_of_band": "manual"}
    return ways[max(ways, key=lambda part: parts[part])]
