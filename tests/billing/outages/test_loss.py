"""Every bullet under "what is owed", with its arithmetic in comments.

One day is 86,400 s. June has 30 days, so of 3,000 a day is 100. Amounts are in the smallest unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from billing.money import split
from billing.outages.loss import (
    WHOLE,
    Invoice,
    InvoiceGrant,
    Line,
    OutageSpan,
    Step,
    base,
    grants,
    netted,
    owed,
    schedule,
    split_over_lines,
    whole,
)
from billing.stretches import Counting
from billing.windows import Window, unix

ALL = {"facebook": 10_000}


def day(month: int, of_month: int, hour: int = 0, year: int = 2019) -> int:
    return unix(datetime(year, month, of_month, hour, tzinfo=UTC))


JUNE = (day(6, 1), day(7, 1))


def outage(start: int, end: int | None, impact: int = 10_000, platform: str = "facebook") -> OutageSpan:
    return OutageSpan(platform, start, end, impact)


def lost_to(
    outages: Sequence[OutageSpan], weights: Mapping[str, int] = ALL, until: int = day(12, 31)
) -> dict[str, list[Step]]:
    return {"plan": schedule(weights, outages, until)}


def invoice(*lines: Line, currency: str = "usd", **facts: object) -> Invoice:
    charged = sum(line.charged for line in lines)
    return replace(Invoice(lines, currency, refundable=max(0, charged)), **facts)  # type: ignore[arg-type]


def june(net: int = 3_000, **facts: object) -> Line:
    return replace(Line(net, JUNE, "plan"), **facts)  # type: ignore[arg-type]


def granted(bill: Invoice, schedules: Mapping[str, Sequence[Step]]) -> InvoiceGrant:
    (grant,) = grants([bill], schedules)
    return grant


THREE_DAYS = lost_to([outage(day(6, 20), day(6, 23))])


# Which share of a plan was lost when: shares in parts of 10^8, weight bp × impact bp.
@pytest.mark.parametrize(
    ("weights", "outages", "steps"),
    [
        pytest.param({"facebook": 6_000}, [outage(0, 10)], [Step(0, 10, 60_000_000)], id="weight × whole impact"),
        pytest.param({"facebook": 6_000}, [outage(0, 10, 5_000)], [Step(0, 10, 30_000_000)], id="half the impact"),
        pytest.param(
            ALL,
            [outage(0, 10, 4_000), outage(5, 15)],
            [Step(0, 5, 40_000_000), Step(5, 15, 100_000_000)],
            id="two incidents of one platform count once, the larger",
        ),
        pytest.param(ALL, [outage(0, 10), outage(3, 7, 4_000)], [Step(0, 10, 100_000_000)], id="smaller inside larger"),
        pytest.param(
            {"facebook": 6_000, "instagram": 4_000},
            [outage(0, 10), outage(5, 15, platform="instagram")],
            [Step(0, 5, 60_000_000), Step(5, 10, 100_000_000), Step(10, 15, 40_000_000)],
            id="two platforms add",
        ),
        pytest.param(
            {"facebook": 7_000, "x": 7_000},
            [outage(0, 10), outage(5, 15, platform="x")],
            [Step(0, 5, 70_000_000), Step(5, 10, 100_000_000), Step(10, 15, 70_000_000)],
            id="never past the whole",
        ),
        pytest.param({}, [outage(0, 10)], [], id="a plan that depends on no platform"),
        pytest.param({"x": 10_000}, [outage(0, 10)], [], id="a plan that depends on another platform"),
        pytest.param(ALL, [outage(0, 10), outage(10, 20)], [Step(0, 20, 100_000_000)], id="touching ones are merged"),
        pytest.param(
            ALL,
            [outage(20, 30), outage(0, 10)],
            [Step(0, 10, 100_000_000), Step(20, 30, 100_000_000)],
            id="nothing is lost in between",
        ),
        pytest.param(ALL, [outage(0, None)], [Step(0, 100, 100_000_000)], id="an open one counts until now"),
        pytest.param(ALL, [outage(100, None)], [], id="an open one that begins now"),
        pytest.param(ALL, [outage(0, 10), outage(5, 5)], [Step(0, 10, 100_000_000)], id="an empty one splits nothing"),
    ],
)
def test_loss_schedule(weights: dict[str, int], outages: list[OutageSpan], steps: list[Step]) -> None:
    assert schedule(weights, outages, until=100) == steps


def test_a_broken_second_counts_whole() -> None:
    start = datetime(2019, 8, 22, 20, 0, 0, 900_000, tzinfo=UTC)
    span = OutageSpan.over("facebook", Window(start, start + timedelta(seconds=1)), 10_000)
    assert (span.start, span.end) == (day(8, 22, 20), day(8, 22, 20) + 2)
    assert OutageSpan.over("facebook", Window(start), 10_000).end is None


@pytest.mark.parametrize(
    ("line", "outages", "weights", "exact"),
    [
        # 22 August 20:00 to 26 August 14:00 is 3 days 18 hours = 324,000 s of August's 2,678,400 s.
        # 9,300 × 0.6 × 324,000 ÷ 2,678,400 = 675
        pytest.param(
            Line(9_300, (day(8, 1), day(9, 1)), "plan"),
            [outage(day(8, 22, 20), day(8, 26, 14))],
            {"facebook": 6_000},
            Fraction(675),
            id="the story",
        ),
        # The same at half the impact: 675 ÷ 2 = 337½
        pytest.param(
            Line(9_300, (day(8, 1), day(9, 1)), "plan"),
            [outage(day(8, 22, 20), day(8, 26, 14), 5_000)],
            {"facebook": 6_000},
            Fraction(675, 2),
            id="half the impact",
        ),
        # Retroactive start: 29 June to 2 July. June's line, charged long before: 2 days of 30, 3,000 × 2 ÷ 30 = 200
        pytest.param(june(), [outage(day(6, 29), day(7, 2))], ALL, Fraction(200), id="charged before it began"),
        # … and July's, charged while it ran: 1 day of 31, 3,100 ÷ 31 = 100
        pytest.param(
            Line(3_100, (day(7, 1), day(8, 1)), "plan"),
            [outage(day(6, 29), day(7, 2))],
            ALL,
            Fraction(100),
            id="charged while it ran",
        ),
        pytest.param(june(), [outage(day(7, 1), day(7, 9))], ALL, Fraction(0), id="it began when the period ended"),
        pytest.param(june(), [outage(day(5, 1), day(6, 1))], ALL, Fraction(0), id="it ended when the period began"),
        pytest.param(june(), [outage(day(5, 1), day(8, 1))], ALL, Fraction(3_000), id="never more than the period"),
        # Overlap, one platform: 20–23 and 22–25 June are 5 days, not 6: 500
        pytest.param(
            june(), [outage(day(6, 20), day(6, 23)), outage(day(6, 22), day(6, 25))], ALL, Fraction(500), id="overlap"
        ),
        # Two platforms, 20–23 (0.6) and 22–25 (0.4): 60+60+100+40+40 = 300
        pytest.param(
            june(),
            [outage(day(6, 20), day(6, 23)), outage(day(6, 22), day(6, 25), platform="x")],
            {"facebook": 6_000, "x": 4_000},
            Fraction(300),
            id="two platforms add",
        ),
        # … and with 0.8 each, the shared day is capped: 80+80+100+80+80 = 420
        pytest.param(
            june(),
            [outage(day(6, 20), day(6, 23)), outage(day(6, 22), day(6, 25), platform="x")],
            {"facebook": 8_000, "x": 8_000},
            Fraction(420),
            id="never past the whole",
        ),
        pytest.param(june(0), [outage(*JUNE)], ALL, Fraction(0), id="trial, free plan, 100 % coupon"),
        # 25 % coupon: 2,250 was paid; 3 days of 30: 225
        pytest.param(june(2_250), [outage(day(6, 20), day(6, 23))], ALL, Fraction(225), id="after discounts"),
        # Annual: 36,500 over 365 days, 1 day = 100; over a leap year's 366 days 36,600 make 100 a day
        pytest.param(
            Line(36_500, (day(1, 1), day(1, 1, year=2020)), "plan"),
            [outage(day(2, 28), day(3, 1))],  # 1 day: 2019 has no 29 February
            ALL,
            Fraction(100),
            id="annual",
        ),
        pytest.param(
            Line(36_600, (day(1, 1, year=2020), day(1, 1, year=2021)), "plan"),
            [outage(day(2, 28, year=2020), day(3, 1, year=2020))],  # 28 and 29 February: 2 days
            ALL,
            Fraction(200),
            id="annual with a leap day",
        ),
        # 20 % exclusive tax goes back in proportion: (3,000 + 600) × 3 ÷ 30 = 360
        pytest.param(june(tax=600), [outage(day(6, 20), day(6, 23))], ALL, Fraction(360), id="with its tax"),
        # Unused time that Stripe took back: −1,500 for 15 days from 16 June, 3 of them lost: −300
        pytest.param(
            Line(-1_500, (day(6, 16), day(7, 1)), "plan"),
            [outage(day(6, 20), day(6, 23))],
            ALL,
            Fraction(-300),
            id="a negative line",
        ),
        pytest.param(june(metered=True), [outage(*JUNE)], ALL, Fraction(0), id="billed by use"),
        pytest.param(replace(june(), period=(5, 5)), [outage(0, 10)], ALL, Fraction(0), id="no length"),
    ],
)
def test_owed(line: Line, outages: list[OutageSpan], weights: dict[str, int], exact: Fraction) -> None:
    assert owed(line, schedule(weights, outages, until=day(12, 31))) == exact


def test_extension_grants_the_difference_and_a_repeated_run_nothing() -> None:
    first = granted(invoice(june()), THREE_DAYS)
    assert (first.amount, [line.amount for line in first.lines]) == (300, [300])  # 3 × 100

    again = invoice(june(granted_before=300), granted_before=300, refundable=2_700)
    assert granted(again, THREE_DAYS).amount == 0
    five_days = lost_to([outage(day(6, 20), day(6, 25))])
    assert granted(again, five_days).amount == 200  # 5 × 100 − 300


def test_a_raised_impact_grants_the_difference() -> None:
    half = granted(invoice(june()), lost_to([outage(day(6, 20), day(6, 23), 5_000)]))
    assert half.amount == 150  # 3 × 100 × ½
    assert granted(invoice(june(), granted_before=150), THREE_DAYS).amount == 150  # 300 − 150


def test_an_open_incident_grows_with_the_clock() -> None:
    running = [outage(day(6, 20), None)]
    assert granted(invoice(june()), lost_to(running, until=day(6, 21))).amount == 100
    assert granted(invoice(june(), granted_before=100), lost_to(running, until=day(6, 26))).amount == 500  # 600 − 100


@pytest.mark.parametrize("outages", [[outage(day(6, 20), day(6, 21))], []], ids=["shortened", "retracted"])
def test_nothing_is_clawed_back(outages: list[OutageSpan]) -> None:
    grant = granted(invoice(june(granted_before=300), granted_before=300, refundable=2_700), lost_to(outages))
    assert (grant.amount, [line.amount for line in grant.lines], grant.rest) == (0, [0], 0)


def test_goodwill_does_not_count_against_a_later_incident() -> None:
    # 300 went out for 3 days, 2 of them were taken back: 100 counts, 200 is goodwill. 2 other days: 300 − 100 = 200.
    outages = [outage(day(6, 20), day(6, 21)), outage(day(6, 27), day(6, 29))]
    bill = invoice(june(granted_before=300), granted_before=100, refundable=2_700)
    assert granted(bill, lost_to(outages)).amount == 200


# Basic costs 100 a day, Pro 200. On 16 June, 15 of 30 days are left: Stripe takes back 1,500 of Basic's 3,000 (or
# 3,000 of Pro's 6,000) and charges the other plan's 15 days.
BASIC, PRO = Line(3_000, JUNE, "basic"), Line(6_000, JUNE, "pro")
SECOND_HALF = (day(6, 16), day(7, 1))


def test_upgrade_pays_each_plan_for_its_own_days() -> None:
    # 10–25 June: 6 days of Basic = 600 and 9 days of Pro = 1,800, 2,400 in all.
    everything = schedule(ALL, [outage(day(6, 10), day(6, 25))], until=0)
    upgrade = invoice(Line(-1_500, SECOND_HALF, "basic"), Line(3_000, SECOND_HALF, "pro"))
    newer, older = grants([upgrade, invoice(BASIC)], {"basic": everything, "pro": everything})
    assert [line.amount for line in newer.lines] == [-900, 1_800]  # −1,500 × 9 ÷ 15 and 3,000 × 9 ÷ 15
    assert (newer.amount, older.amount) == (900, 1_500)  # 3,000 × 15 ÷ 30


def test_upgrade_to_a_plan_that_lost_nothing() -> None:
    # Only Basic depends on the platform: 6 days × 100 = 600. The upgrade's −900 comes off the older invoice's 1,500.
    lost_basic = {"basic": schedule(ALL, [outage(day(6, 10), day(6, 25))], until=0)}
    upgrade = invoice(Line(-1_500, SECOND_HALF, "basic"), Line(3_000, SECOND_HALF, "pro"))
    newer, older = grants([upgrade, invoice(BASIC)], lost_basic)
    assert (newer.amount, older.amount) == (0, 600)
    assert newer.owed == -900
    assert older.owed == 1_500


def test_downgrade_lowers_the_invoice_paid_before_it() -> None:
    # 20–23 June: 3 days of Basic = 300. Pro's invoice: 6,000 × 3 ÷ 30 = 600.
    # The downgrade's: (−3,000 + 1,500) × 3 ÷ 15 = −300.
    everything = schedule(ALL, [outage(day(6, 20), day(6, 23))], until=0)
    downgrade = invoice(Line(-3_000, SECOND_HALF, "pro"), Line(1_500, SECOND_HALF, "basic"))
    newer, older = grants([downgrade, invoice(PRO)], {"basic": everything, "pro": everything})
    assert (newer.amount, older.amount) == (0, 300)


@pytest.mark.parametrize(
    ("totals", "left"),
    [
        # S = sums of the newest k, M = largest of 0 and them so far; each is left with M's rise.
        ([-300, 1_000], [0, 700]),  # S −300, 700; M 0, 700
        ([500, -300, 1_000], [500, 0, 700]),  # S 500, 200, 1,200; M 500, 500, 1,200
        ([-300, 200, 1_000], [0, 0, 900]),  # S −300, −100, 900; M 0, 0, 900
        ([-300, 200], [0, 0]),
        ([100, 200], [100, 200]),
        ([], []),
    ],
)
def test_netting_newest_first(totals: list[int], left: list[int]) -> None:
    assert netted([Fraction(total) for total in totals]) == left


@pytest.mark.parametrize(
    ("currency", "net", "days", "amount", "rest"),
    [
        ("jpy", 1_000, 10, 333, 0),  # 1,000 × 10 ÷ 30 = 333⅓
        ("jpy", 1_000, 5, 167, 0),  # 166⅔
        ("jpy", 1_005, 10, 335, 0),
        ("isk", 199_900, 3, 19_900, 90),  # 19,990, sent in hundreds
        ("ugx", 2_900, 1, 0, 97),  # 96⅔ → 97, less than one hundred
        ("kwd", 10_000, 1, 330, 3),  # 333⅓ → 333, sent in tens
        ("usd", 15, 1, 1, 0),  # exactly ½ goes up
        ("usd", 14, 1, 0, 0),  # 7⁄15 goes down
    ],
)
def test_rounding_and_currencies(currency: str, net: int, days: int, amount: int, rest: int) -> None:
    grant = granted(invoice(june(net), currency=currency), lost_to([outage(day(6, 1), day(6, 1 + days))]))
    assert (grant.amount, grant.rest, [line.amount for line in grant.lines]) == (amount, rest, [amount])


@pytest.mark.parametrize(
    ("total", "paid", "given", "part"),
    [
        (3_000, 3_000, 0, Fraction(1)),
        (3_000, 3_000, 1_500, Fraction(1, 2)),
        (3_000, 3_000, 1_000, Fraction(2, 3)),
        (3_000, 3_000, 3_000, Fraction(0)),
        (3_000, 3_000, 3_001, Fraction(0)),  # never below nothing
        (3_000, 3_100, 0, Fraction(1)),  # paying too much makes no more time
        (0, 0, 0, Fraction(1)),
        (-1_500, 0, 0, Fraction(1)),
    ],
)
def test_what_still_stands_of_an_invoice(total: int, paid: int, given: int, part: Fraction) -> None:
    assert base(total, paid, given) == part


def test_what_was_refunded_by_hand_shrinks_the_base() -> None:
    half = invoice(june(), base=base(3_000, 3_000, 1_500), refundable=1_500)
    assert granted(half, THREE_DAYS).amount == 150  # 300 × ½
    whole = lost_to([outage(*JUNE)])
    assert granted(half, whole).amount == 1_500  # 3,000 × ½: with the 1,500 before, the whole invoice and no more


def test_never_above_what_is_still_refundable() -> None:
    grant = granted(invoice(june(), refundable=120), THREE_DAYS)
    assert (grant.amount, grant.rest) == (120, 180)  # 300 − 120 stays owed


def test_lines_billed_by_use_are_left_out() -> None:
    grant = granted(invoice(june(), june(5_000, metered=True)), THREE_DAYS)
    assert [line.amount for line in grant.lines] == [300, 0]
    assert [line.lost for line in grant.lines] == [3 * 86_400 * 10**8, 0]


def test_one_rounding_per_invoice() -> None:
    # Each line is owed 5 × 15 ÷ 30 = 2½. Rounded one by one they would be 9; the invoice's 7½ is 8.
    # Of equal remainders the earlier ones go up.
    grant = granted(invoice(june(5), june(5), june(5)), lost_to([outage(day(6, 1), day(6, 16))]))
    assert (grant.exact, grant.amount, [line.amount for line in grant.lines]) == (Fraction(15, 2), 8, [3, 3, 2])


def test_a_line_never_gets_more_than_it_was_charged() -> None:
    # Owed 10 (all of it), 3⁄10 and 2⁄10: 10½ is 11. The cent goes to the larger remainder, not to the first.
    lost_by = {"a": schedule(ALL, [outage(*JUNE)], 0), "b": schedule(ALL, [outage(day(6, 1), day(6, 4))], 0)}
    bill = invoice(june(10, plan="a"), june(3, plan="b"), june(2, plan="b"))
    grant = granted(bill, lost_by)
    assert (grant.exact, [line.amount for line in grant.lines]) == (Fraction(21, 2), [10, 1, 0])


def test_a_later_run_pays_the_line_that_lost_and_not_the_one_paid_already() -> None:
    lost_by = {"a": schedule(ALL, [outage(*JUNE)], 0), "b": schedule(ALL, [outage(day(6, 1), day(6, 16))], 0)}
    bill = invoice(
        june(1_000, plan="a", granted_before=1_000), june(1_000, plan="b"), granted_before=1_000, refundable=1_000
    )
    assert [line.amount for line in granted(bill, lost_by).lines] == [0, 500]  # 1,000 × 15 ÷ 30


def test_where_less_is_taken_away_than_before_no_line_gets_too_much() -> None:
    # Before: 10 − 5 = 5. Now the second line takes away 3: 10 − 3 = 7, 2 more, and the first is paid in full already.
    lines = [june(10, granted_before=10), june(-5, granted_before=-5)]
    assert split_over_lines(2, lines, [Fraction(10), Fraction(-3)], Fraction(7)) == [0, 2]


def test_a_parts_tax_is_its_share() -> None:
    assert split(360, [3_000, 600]) == [300, 60]


# What an agency's policy makes of lost time. HOUR and DAY are its seconds.
HOUR, DAY = 3_600, 86_400


@pytest.mark.parametrize(
    ("counting", "outages", "steps"),
    [
        pytest.param(Counting("hour"), [outage(10, 20)], [Step(0, HOUR, WHOLE)], id="rounded to its hour"),
        pytest.param(
            Counting("hour"),
            [outage(10, 20), outage(HOUR + 10, HOUR + 20, 4_000)],
            [Step(0, HOUR, WHOLE), Step(HOUR, 2 * HOUR, 40_000_000)],
            id="each stretch is rounded by itself",
        ),
        pytest.param(
            Counting("hour"), [outage(10, 20), outage(30, 40, 4_000)], [Step(0, HOUR, WHOLE)],
            id="one hour counts once, the larger",
        ),
        pytest.param(Counting("day"), [outage(DAY, None)], [Step(DAY, 3 * DAY, WHOLE)], id="open: to the end of today"),
        pytest.param(Counting(tail=60), [outage(0, 100)], [Step(0, 160, WHOLE)], id="recovery follows the end"),
        pytest.param(
            Counting(tail=60), [outage(2 * DAY, None)], [Step(2 * DAY, 2 * DAY + 7, WHOLE)],
            id="what goes on does not recover yet",
        ),
        pytest.param(
            Counting(gap=60), [outage(0, 100), outage(159, 200)], [Step(0, 200, WHOLE)], id="closer than the gap: one",
        ),
        pytest.param(
            Counting(gap=60), [outage(0, 100), outage(160, 200)], [Step(0, 100, WHOLE), Step(160, 200, WHOLE)],
            id="as far apart as the gap: two",
        ),
        pytest.param(
            Counting(gap=60), [outage(0, 100, 2_000), outage(150, 200, 5_000)],
            [Step(0, 100, 20_000_000), Step(100, 200, 50_000_000)], id="between two the larger impact",
        ),
        pytest.param(
            Counting(gap=60), [outage(0, 500), outage(10, 20), outage(550, 600)], [Step(0, 600, WHOLE)],
            id="the gap is measured from the longest",
        ),
        pytest.param(
            Counting(gap=60), [outage(0, 100), outage(150, 200, platform="x")], [Step(0, 100, WHOLE)],
            id="another platform's stretch is no neighbour",
        ),
        pytest.param(
            # 100 + 60 of recovery reaches 160, 39 before the next begins: one stretch to 300 + 60, in the hour from 0.
            Counting("hour", gap=40, tail=60), [outage(0, 100), outage(199, 300)], [Step(0, HOUR, WHOLE)],
            id="recovery, then gap, then rounding",
        ),
    ],
)  # fmt: skip
def test_an_agency_counts_in_the_customers_favour(
    counting: Counting, outages: list[OutageSpan], steps: list[Step]
) -> None:
    assert schedule(ALL, outages, 2 * DAY + 7, counting) == steps


def test_rounding_never_gives_more_than_the_period() -> None:
    """A day of a line that lasts an hour: all of it, 500, and no more."""
    on = schedule(ALL, [outage(DAY + 10, DAY + 20)], 2 * DAY, Counting("day"))
    bill = invoice(Line(500, (DAY, DAY + HOUR), "plan"))
    assert granted(bill, {"plan": on}).amount == 500


def test_full_gives_back_what_was_paid_meanwhile_and_the_formula_the_rest() -> None:
    """3,000 for June, three days lost: 300. Half of it was paid meanwhile: 1,500 whole, and 10 % of the other 1,500."""
    bill = replace(invoice(june()), whole=whole(3_000, 1_500))
    grant = granted(bill, THREE_DAYS)
    assert grant.amount == 1_500 + 150
    assert grant.exact == Fraction(1_650)


def test_full_counts_what_others_gave_back_once() -> None:
    """3,000 paid meanwhile, of which somebody refunded 1,000 by hand: 2,000 still stand, and all of that goes back."""
    bill = replace(invoice(june()), whole=whole(2_000, 2_000), base=base(3_000, 3_000, 1_000))
    assert granted(bill, {}).amount == 2_000


def test_full_leaves_usage_alone() -> None:
    bill = replace(invoice(june(), june(700, metered=True)), whole=Fraction(1))
    assert granted(bill, {}).amount == 3_000


def test_what_was_taken_off_before_it_was_paid_was_not_asked_for() -> None:
    assert whole(3_100, 2_942, 158) == 1
    assert whole(3_100, 1_471, 158) == Fraction(1, 2)
    assert whole(3_100, 0, 3_100) == 0


@pytest.mark.parametrize(
    ("standing", "paid", "part"),
    [(3_000, 3_000, 1), (3_000, 0, 0), (3_000, 1_000, Fraction(1, 3)), (2_000, 3_000, 1), (0, 500, 0), (500, -1, 0)],
)
def test_the_part_that_goes_back_whole(standing: int, paid: int, part: Fraction) -> None:
    assert whole(standing, paid) == part
