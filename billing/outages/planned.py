"""What one invoice gets in a plan, line by line: read out of the plan's tables, split as the formula splits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, islice
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages import planning_sql
from billing.outages.arithmetic import line_data
from billing.outages.in_force import Losses
from billing.outages.loss import Invoice, InvoiceGrant, Line, LineGrant, Step, lost, owed, split_over_lines
from billing.windows import unix

BATCH: Final = 1_000

T = TypeVar("T")


@dataclass(frozen=True)
class PlannedGrant:
    """One invoice's grant in a plan, and how the formula came to it. `parts` say which way how much of it goes."""

    agency_id: int
    agency: str
    customer: str
    channel: str
    parts: Mapping[str, int]
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
            "granted_before": self.grant.invoice.granted_before,
            "lines": [
                line_data(line, self.schedules.get(line.line.plan, ()))
                for line in self.grant.lines
                if line.lost or line.amount
            ],
        }


def planned_grants(session: Session, losses: Sequence[Losses], *, every: bool = True) -> Iterator[PlannedGrant]:
    """Every grant of the plan in this transaction's tables, by agency and invoice.

    Without `every` only those whose split over their lines is not a matter of course.
    """
    by_group = {group.group: group.schedules for group in losses}
    _fill_simple_parts(session)
    rows = session.execute(
        sa.text(planning_sql.LINES_OF_GRANTS),
        {"live": list(planning_sql.LIVE), "every": every},
        execution_options={"yield_per": BATCH},
    )
    for _, group in groupby(rows, key=lambda row: (row.agency_id, row.invoice_id)):
        lines = list(group)
        yield _planned(lines, by_group[lines[0].grp])


def fill_parts(session: Session, losses: Sequence[Losses]) -> None:
    """Leave what each line gets in `plan_parts`."""
    for batch in batched(planned_grants(session, losses, every=False), BATCH):
        parts = [
            (planned.agency_id, planned.grant.invoice.id, line.line.id, line.amount)
            for planned in batch
            for line in planned.grant.lines
        ]
        columns = zip(("agencies", "invoices", "lines", "amounts"), zip(*parts, strict=True), strict=True)
        session.execute(sa.text(planning_sql.ADD_PARTS), {name: list(values) for name, values in columns})


def batched(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` things each, the last one shorter."""
    rest = iter(things)
    while batch := list(islice(rest, size)):
        yield batch


def _fill_simple_parts(session: Session) -> None:
    session.execute(sa.text("DROP TABLE IF EXISTS pg_temp.plan_parts"))
    session.execute(sa.text(planning_sql.PARTS), {"live": list(planning_sql.LIVE)})


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
    shares = [owed(line, on) for line, on in zip(lines, steps, strict=True)]
    exact = Fraction(int(first.exact_num), int(first.exact_den))
    base = Fraction(int(first.base_num), int(first.base_den))
    parts = {name: getattr(first, name) for name in ("refund", "credit", "reduce", "out_of_band")}
    return PlannedGrant(
        first.agency_id, first.slug, first.customer_id, channel(parts), parts,
        InvoiceGrant(
            Invoice(lines, first.currency, first.amount, base, first.before, first.invoice_id),
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


def channel(parts: Mapping[str, int]) -> str:
    """The way that most of a grant takes."""
    ways = {"refund": "refund", "credit": "credit", "reduce": "reduce", "out_of_band": "manual"}
    return ways[max(ways, key=lambda part: parts[part])]
