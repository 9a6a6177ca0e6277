"""The formula against a slow oracle, and what must hold whatever was lost and however it was billed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from billing.outages.loss import (
    Invoice,
    InvoiceGrant,
    Line,
    OutageSpan,
    base,
    granted_now,
    grants,
    lost,
    netted,
    owed,
    schedule,
)


# The same law, second by second, as slowly and plainly as it can be written.
def oracle(line: Line, weights: Mapping[str, int], outages: Sequence[OutageSpan], until: int) -> Fraction:
    start, end = line.period
    total = Fraction(0)
    for second in range(start, end):
        share = Fraction(0)
        for platform, weight in weights.items():
            running = [
                span.impact_bp
                for span in outages
                if span.platform == platform and span.start <= second < (until if span.end is None else span.end)
            ]
            share += Fraction(weight, 10_000) * Fraction(max(running, default=0), 10_000)
        total += min(Fraction(1), share)
    return line.charged * total / (end - start) if end > start else total


NOW = 40
PLATFORMS = st.sampled_from(["facebook", "instagram", "x"])
WEIGHTS = st.dictionaries(PLATFORMS, st.integers(1, 10_000))
MOMENTS = st.integers(0, NOW)
OUTAGES = st.lists(st.builds(OutageSpan, PLATFORMS, MOMENTS, st.none() | MOMENTS, st.integers(1, 10_000)), max_size=6)
PERIODS = st.tuples(MOMENTS, MOMENTS).map(lambda pair: (min(pair), max(pair)))
LINES = st.builds(
    lambda net, period, plan, tax: Line(net, period, plan, tax=net * tax // 100),
    st.integers(-(10**6), 10**6),
    PERIODS,
    st.sampled_from(["a", "b", "none"]),
    st.integers(0, 25),
)


@given(LINES, WEIGHTS, OUTAGES)
def test_the_formula_is_the_oracles(line: Line, weights: dict[str, int], outages: list[OutageSpan]) -> None:
    exact = owed(line, schedule(weights, outages, NOW))
    assert exact == oracle(line, weights, outages, NOW)
    assert abs(exact) <= abs(line.charged)
    assert exact * line.charged >= 0


@given(WEIGHTS, OUTAGES)
def test_steps_are_ordered_apart_and_say_something(weights: dict[str, int], outages: list[OutageSpan]) -> None:
    steps = schedule(weights, outages, NOW)
    assert all(step.start < step.end and 0 < step.share <= 10**8 for step in steps)
    for left, right in pairwise(steps):
        assert left.end < right.start or (left.end == right.start and left.share != right.share)


@given(WEIGHTS, OUTAGES, st.randoms(use_true_random=False))
def test_the_order_of_incidents_does_not_matter(
    weights: dict[str, int], outages: list[OutageSpan], random: Random
) -> None:
    shuffled = random.sample(outages, len(outages))
    assert schedule(weights, shuffled, NOW) == schedule(weights, outages, NOW)


@given(WEIGHTS, OUTAGES, st.lists(MOMENTS, min_size=3, max_size=3).map(sorted), st.integers(-1000, 1000))
def test_splitting_a_period_changes_nothing(
    weights: dict[str, int], outages: list[OutageSpan], cuts: list[int], per_second: int
) -> None:
    steps = schedule(weights, outages, NOW)
    start, cut, end = cuts
    assert lost(steps, start, cut) + lost(steps, cut, end) == lost(steps, start, end)
    first, second, whole = (Line(per_second * (b - a), (a, b)) for a, b in [(start, cut), (cut, end), (start, end)])
    assert owed(first, steps) + owed(second, steps) == owed(whole, steps)


@given(st.lists(st.tuples(MOMENTS, MOMENTS), max_size=5), st.integers(1, 10_000), st.integers(1, 10_000))
def test_incidents_together_pay_what_their_seconds_pay(
    windows: list[tuple[int, int]], weight: int, impact: int
) -> None:
    overlapping = [OutageSpan("facebook", start, end, impact) for start, end in windows]
    seconds = {second for start, end in windows for second in range(start, end)}
    one_by_one = [OutageSpan("facebook", second, second + 1, impact) for second in seconds]
    weights = {"facebook": weight}
    assert schedule(weights, overlapping, NOW) == schedule(weights, one_by_one, NOW)
    assert lost(schedule(weights, overlapping, NOW), 0, NOW) == len(seconds) * weight * impact


@given(LINES, WEIGHTS, OUTAGES, OUTAGES)
def test_more_incidents_never_owe_less(
    line: Line, weights: dict[str, int], some: list[OutageSpan], more: list[OutageSpan]
) -> None:
    before, after = (owed(line, schedule(weights, outages, NOW)) for outages in (some, some + more))
    assert abs(before) <= abs(after)


@st.composite
def invoices(draw: st.DrawFn) -> Invoice:
    lines = draw(st.lists(LINES, min_size=1, max_size=5))
    total = sum(line.charged for line in lines)
    given_elsewhere = draw(st.integers(0, max(0, total)))
    return Invoice(
        lines,
        draw(st.sampled_from(["usd", "jpy", "isk", "kwd"])),
        refundable=max(0, total - given_elsewhere),
        base=base(total, total, given_elsewhere),
    )


def remembered(grant: InvoiceGrant) -> Invoice:
    """The invoice as it stands after its grant has gone out."""
    return replace(
        grant.invoice,
        lines=[replace(part.line, granted_before=part.line.granted_before + part.amount) for part in grant.lines],
        granted_before=grant.invoice.granted_before + grant.amount,
        refundable=grant.invoice.refundable - grant.amount,
    )


@given(st.lists(invoices(), max_size=4), WEIGHTS, WEIGHTS, OUTAGES, OUTAGES)
def test_grants_hold_their_promises_over_three_runs(
    bills: list[Invoice], a: dict[str, int], b: dict[str, int], first: list[OutageSpan], more: list[OutageSpan]
) -> None:
    before, after = (
        {"a": schedule(a, outages, NOW), "b": schedule(b, outages, NOW)} for outages in (first, first + more)
    )
    one = grants(bills, before)
    two = grants([remembered(grant) for grant in one], after)
    three = grants([remembered(grant) for grant in two], after)
    for grant in (*one, *two, *three):
        assert sum(part.amount for part in grant.lines) == grant.amount >= 0  # parts = whole
        assert grant.amount <= grant.invoice.refundable
        assert grant.rest >= 0
        assert grant.amount == granted_now(
            grant.rounded, grant.invoice.granted_before, grant.invoice.refundable, grant.invoice.currency
        )
        if grant.invoice.currency in ("usd", "jpy"):
            for part in grant.lines:  # never above what a line was charged, in all runs together
                given_back = part.line.granted_before + part.amount
                assert min(0, part.line.charged) <= given_back <= max(0, part.line.charged)
    assert all(grant.amount == 0 for grant in three)  # a run repeated grants nothing
    exact = netted([grant.owed for grant in one])
    assert sum(exact) == max([Fraction(0), *_running([grant.owed for grant in one])])


def _running(totals: Sequence[Fraction]) -> list[Fraction]:
    return [sum(totals[: n + 1], Fraction(0)) for n in range(len(totals))]


@given(invoices(), WEIGHTS, OUTAGES)
def test_an_invoice_is_rounded_once(bill: Invoice, weights: dict[str, int], outages: list[OutageSpan]) -> None:
    (grant,) = grants([bill], {"a": schedule(weights, outages, NOW)})
    exact = bill.base * sum(
        (oracle(line, weights, outages, NOW) for line in bill.lines if line.plan == "a"), Fraction(0)
    )
    assert grant.owed == exact
    assert -Fraction(1, 2) < grant.rounded - max(exact, Fraction(0)) <= Fraction(1, 2)
