"""The one formula: which share of a plan was lost when, what that makes owed, and what is granted of it. Pure.

Times are unix seconds (UTC), amounts integers of the currency's smallest Stripe unit, shares parts of 10^8 (a weight in
basis points times an impact in basis points). Everything is exact until the one rounding per invoice.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final, TypeAlias

from billing.money import apportion, round_half_up, sendable, split, unit
from billing.stretches import Counting
from billing.windows import Window, unix

WHOLE = 10**8
"""The share that means: all of it."""


@dataclass(frozen=True)
class OutageSpan:
    """One incident as the formula sees it: `platform` worked `impact_bp` basis points less over [start, end)."""

    platform: str
    start: int
    end: int | None
    impact_bp: int
    recovers: bool = True
    """Whether its end is one, rather than how far it is paid for while it goes on."""

    @classmethod
    def over(cls, platform: str, window: Window, impact_bp: int) -> "OutageSpan":
        """A part of a second at either end counts as a whole one, in the customer's favour."""
        end = None if window.end is None else unix(window.end) + bool(window.end.microsecond)
        return cls(platform, unix(window.start), end, impact_bp)


@dataclass(frozen=True)
class Step:
    """`share` parts of 10^8 of a plan were lost over [start, end)."""

    start: int
    end: int
    share: int


Schedule: TypeAlias = Sequence[Step]


EXACTLY: Final = Counting()
"""To the second: nothing is rounded, joined or added."""


def counted(outages: Iterable[OutageSpan], until: int, counting: Counting) -> list[tuple[str, int, int, int]]:
    """The lost stretches as an agency counts them: `(platform, start, end, impact)`, each in the customer's favour.

    In this order: an outage that is over has its recovery added; two stretches of one platform that are closer than the
    gap have the time between them lost as well, at the larger impact of its two neighbours; each is rounded outward.
    """
    found: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for outage in outages:
        end = until if outage.end is None else outage.end + counting.tail * outage.recovers
        if outage.impact_bp > 0 and outage.start < (until if outage.end is None else outage.end):
            found[outage.platform].append((outage.start, end, outage.impact_bp))
    return [
        (platform, counting.floor(start), counting.ceil(end), impact)
        for platform, stretches in found.items()
        for start, end, impact in [*stretches, *_between(sorted(stretches), counting.gap)]
    ]


def _between(stretches: Sequence[tuple[int, int, int]], gap: int) -> list[tuple[int, int, int]]:
    """The pauses between these ordered stretches that are shorter than the gap."""
    bridges = []
    reached, impact = (stretches[0][1], stretches[0][2]) if stretches else (0, 0)
    for start, end, next_impact in stretches[1:]:
        if reached < start < reached + gap:
            bridges.append((reached, start, max(impact, next_impact)))
        reached, impact = max((reached, impact), (end, next_impact))
    return bridges


def schedule(
    weights: Mapping[str, int], outages: Iterable[OutageSpan], until: int, counting: Counting = EXACTLY
) -> list[Step]:
    """The loss schedule of a plan: min(1, Σ over platforms of weight × the largest impact running then).

    Ordered, without overlap, neighbours of one share merged, nothing where nothing was lost. Open outages are counted
    until `until`; an end that is given counts as given, also where it is later. `counting` is the agency's policy.
    """
    spans = [stretch for stretch in counted(outages, until, counting) if weights.get(stretch[0], 0) > 0]
    edges = sorted({edge for _, start, end, _ in spans if start < end for edge in (start, end)})
    steps: list[Step] = []
    for left, right in pairwise(edges):
        impacts: dict[str, int] = {}
        for platform, start, end, impact in spans:
            if start <= left and right <= end:
                impacts[platform] = max(impact, impacts.get(platform, 0))
        share = min(WHOLE, sum(weights[platform] * impact for platform, impact in impacts.items()))
        if steps and steps[-1].end == left and steps[-1].share == share:
            steps[-1] = Step(steps[-1].start, right, share)
        elif share:
            steps.append(Step(left, right, share))
    return steps


def within(steps: Schedule, start: int, end: int) -> list[Step]:
    """The parts of the steps that lie in [start, end)."""
    cut = (Step(max(step.start, start), min(step.end, end), step.share) for step in steps)
    return [step for step in cut if step.start < step.end]


def lost(steps: Schedule, start: int, end: int) -> int:
    """The integral of the lost share over [start, end), in 10^-8 seconds."""
    return sum((step.end - step.start) * step.share for step in within(steps, start, end))


@dataclass(frozen=True)
class Line:
    """One signed invoice line. `net` is after discounts with inclusive tax in it, `tax` the exclusive tax on top.

    `granted_before` is what it has had back because of incidents. Metered lines carry no prepaid time.
    """

    net: int
    period: tuple[int, int]
    plan: str = ""
    tax: int = 0
    metered: bool = False
    granted_before: int = 0
    id: str = ""
    name: str = ""

    @property
    def charged(self) -> int:
        """What the customer was asked for: net and its tax, which goes back in proportion."""
        return self.net + self.tax


def owed(line: Line, steps: Schedule, whole: Fraction = Fraction(0)) -> Fraction:
    """What the line's customer should have had back by now: charged × ∫ loss over its period ÷ its length, exact.

    `whole` is the part of its invoice that goes back whatever was lost (policy `full`); the rest follows the formula.
    """
    start, end = line.period
    if line.metered:
        return Fraction(0)
    share = Fraction(lost(steps, start, end), WHOLE * (end - start)) if end > start else Fraction(0)
    return line.charged * (whole + (1 - whole) * share)


@dataclass(frozen=True)
class Invoice:
    """`base` is the part of the invoice that still stands (see `base`), `refundable` what may at most go back now.

    `whole` is the part of what still stands that was paid while an incident under the policy `full` went on.
    `granted_before` is what the whole invoice has had back because of incidents, without goodwill.
    """

    lines: Sequence[Line]
    currency: str
    refundable: int
    base: Fraction = Fraction(1)
    granted_before: int = 0
    id: str = ""
    whole: Fraction = Fraction(0)


def base(total: int, paid: int, given_elsewhere: int) -> Fraction:
    """The part of an invoice's lines that its customer still carries: (paid − given back by others) ÷ total.

    `paid` counts in whatever way it was paid, or is still due. An invoice whose total is not positive was paid by
    nobody and given back by nobody: its signed lines stand as they are.
    """
    if total <= 0:
        return Fraction(1)
    return Fraction(min(max(paid - given_elsewhere, 0), total), total)


def whole(standing: int, paid_meanwhile: int, reduced: int = 0) -> Fraction:
    """The part of an invoice that goes back whole under the policy `full`.

    `standing` is what is left of its total after others gave some of it back, `reduced` what we had taken off before it
    was paid, `paid_meanwhile` what succeeded since the incident began and has not gone back any other way.
    """
    asked = standing - reduced
    if asked <= 0:
        return Fraction(0)
    return Fraction(min(max(paid_meanwhile, 0), asked), asked)


def owed_by(invoice: Invoice, schedules: Mapping[str, Schedule]) -> Fraction:
    """The exact signed total of what is owed for the invoice. A plan without a schedule lost nothing."""
    shares = (owed(line, schedules.get(line.plan, ()), invoice.whole) for line in invoice.lines)
    return invoice.base * sum(shares, Fraction(0))


def netted(totals: Sequence[Fraction]) -> list[Fraction]:
    """One subscription's signed totals, newest invoice first: a negative one lowers the invoices paid before it.

    With S_k the sum of the k newest and M_k = max(0, S_1 … S_k), the k-th is left with M_k − M_(k−1): never negative,
    never more than its own total.
    """
    left: list[Fraction] = []
    running = highest = Fraction(0)
    for total in totals:
        running += total
        left.append(max(running - highest, Fraction(0)))
        highest = max(highest, running)
    return left


@dataclass(frozen=True)
class LineGrant:
    """One line's part of a grant. `lost` is in 10^-8 seconds, `owed` exact (before the invoice's base and netting)."""

    line: Line
    lost: int
    owed: Fraction
    amount: int


@dataclass(frozen=True)
class InvoiceGrant:
    """What one invoice gets back now, and how it came to that.

    `owed` is the exact signed total of its lines, `exact` what is left of it after netting, `rounded` that in whole
    units. `amount` goes out now and is the sum of the lines' amounts; `rest` stays owed, because no more is refundable
    or because the currency cannot be sent that finely. What its customer `waived` is neither.
    """

    invoice: Invoice
    lines: Sequence[LineGrant]
    owed: Fraction
    exact: Fraction
    rounded: int
    amount: int
    waived: int = 0

    @property
    def rest(self) -> int:
        return max(0, self.rounded - self.invoice.granted_before - self.waived) - self.amount


def grants(invoices: Sequence[Invoice], schedules: Mapping[str, Schedule]) -> list[InvoiceGrant]:
    """What each invoice of one subscription gets back now; the newest paid first, in and out.

    round(exact) − granted before, never below 0, never above what is refundable, in amounts that Stripe takes.
    An invoice without a subscription stands alone.
    """
    totals = [owed_by(invoice, schedules) for invoice in invoices]
    return [
        _grant(invoice, schedules, total, exact)
        for invoice, total, exact in zip(invoices, totals, netted(totals), strict=True)
    ]


def granted_now(rounded: int, granted_before: int, refundable: int, currency: str) -> int:
    """What goes out of an invoice's rounded total."""
    return sendable(max(0, min(rounded - granted_before, refundable)), currency)


def _grant(invoice: Invoice, schedules: Mapping[str, Schedule], total: Fraction, exact: Fraction) -> InvoiceGrant:
    rounded = round_half_up(exact)
    amount = granted_now(rounded, invoice.granted_before, invoice.refundable, invoice.currency)
    losses = [schedules.get(line.plan, ()) for line in invoice.lines]
    shares = [owed(line, steps, invoice.whole) for line, steps in zip(invoice.lines, losses, strict=True)]
    parts = split_over_lines(amount, invoice.lines, shares, exact, unit(invoice.currency))
    lines = [
        LineGrant(line, 0 if line.metered else lost(steps, *line.period), share, part)
        for line, steps, share, part in zip(invoice.lines, losses, shares, parts, strict=True)
    ]
    return InvoiceGrant(invoice, lines, total, exact, rounded, amount)


def split_over_lines(
    amount: int, lines: Sequence[Line], shares: Sequence[Fraction], exact: Fraction, unit: int = 1
) -> list[int]:
    """A grant over its invoice's lines: they add up to `amount`, and no line ever gets more than it was charged.

    `shares` is what each line is owed, `exact` the invoice's exact total after base and netting. The rounded total is
    split over the lines by largest remainder, and what a line has had before is taken off its part. Parts are multiples
    of `unit`, as the amount is.
    """
    if amount == 0:
        return [0] * len(lines)
    scale = exact / sum(shares, Fraction(0))
    targets = apportion(round_half_up(exact), [share * scale for share in shares])
    room = [
        max(0, target - line.granted_before) if line.charged > 0 else min(0, target - line.granted_before)
        for line, target in zip(lines, targets, strict=True)
    ]
    if (missing := amount - sum(room)) > 0:
        # A line that took away before takes away less now, so the parts that are left to give do not hold the amount.
        room = [part + more for part, more in zip(room, split(missing, _spare(missing, lines, room)), strict=True)]
    return [part * unit for part in split(amount // unit, room)]


def _spare(missing: int, lines: Sequence[Line], room: Sequence[int]) -> list[int]:
    """Where `missing` more fits: on lines that charged something, else also where something was taken away before."""
    left = [max(0, max(0, line.charged) - line.granted_before - part) for line, part in zip(lines, room, strict=True)]
    charging = [spare if line.charged > 0 else 0 for line, spare in zip(lines, left, strict=True)]
    return next(spare for spare in (charging, left, [max(0, line.charged) for line in lines]) if sum(spare) >= missing)
