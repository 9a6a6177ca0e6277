"""The words that explain a grant hold every number that it takes to compute it again."""

from datetime import UTC, datetime
from fractions import Fraction

import pytest

from billing.locales import Reader
from billing.outages.arithmetic import arithmetic, decimal_text, in_short
from billing.outages.loss import Invoice, Line, OutageSpan, grants, schedule
from billing.windows import unix


def day(month: int, of_month: int, hour: int = 0) -> int:
    return unix(datetime(2019, month, of_month, hour, tzinfo=UTC))


AM, PM = "\u202fAM UTC", "\u202fPM UTC"
"""With the narrow space that the Unicode locale data has."""
JUNE, SECOND_HALF = (day(6, 1), day(7, 1)), (day(6, 16), day(7, 1))


def test_arithmetic_can_be_followed_with_a_pocket_calculator() -> None:
    line = Line(9_300, (day(8, 1), day(9, 1)), "growth", tax=930, id="il_1", name="Growth")
    facebook = OutageSpan("facebook", day(8, 22, 20), day(8, 26, 14), 10_000)
    schedules = {"growth": schedule({"facebook": 6_000}, [facebook], 0)}
    (grant,) = grants([Invoice([line], "usd", refundable=10_230, granted_before=100, id="in_1")], schedules)
    shown = arithmetic(grant, schedules, Reader())
    # 0.6 × 324,000 s = 194,400 s; (93.00 + 9.30) × 194,400 ÷ 2,678,400 = 7.425; rounded 7.43; 7.43 − 1.00 = 6.43
    assert shown.text == [
        f"Growth: ($93.00 + $9.30 tax) for Aug 1, 2019, 12:00{AM} to Sep 1, 2019, 12:00{AM}, 2,678,400 seconds.",
        f"  60 % of it was lost from Aug 22, 2019, 8:00{PM} to Aug 26, 2019, 2:00{PM}: 324,000 seconds.",
        "  ($93.00 + $9.30 tax) × 194,400 ÷ 2,678,400 = $7.425.",
        "Owed in all: $7.425, rounded $7.43.",
        "Given back before: $1.00.",
        "Given back now: $6.43.",
    ]
    assert shown.data == {
        "invoice": "in_1",
        "currency": "usd",
        "lines": [
            {
                "line": "il_1",
                "net": 9_300,
                "tax": 930,
                "period": ["2019-08-01T00:00:00Z", "2019-09-01T00:00:00Z"],
                "lost": [{"from": "2019-08-22T20:00:00Z", "to": "2019-08-26T14:00:00Z", "share": "3/5"}],
                "lost_seconds_weighted": "194400",
                "owed": "1485/2",
                "granted_before": 0,
                "amount": 643,
            }
        ],
        "base": "1/1",
        "whole": "0/1",
        "owed": "1485/2",
        "exact": "1485/2",
        "rounded": 743,
        "granted_before": 100,
        "amount": 643,
        "waived": 0,
        "rest": 0,
    }


def test_arithmetic_says_what_else_lowered_it() -> None:
    everything = schedule({"facebook": 10_000}, [OutageSpan("facebook", day(6, 20), day(6, 23), 10_000)], until=0)
    schedules = {"basic": everything, "pro": everything}
    lines = [Line(-3_000, SECOND_HALF, "pro"), Line(1_500, SECOND_HALF, "basic"), Line(9, JUNE, "calls", metered=True)]
    downgrade = Invoice(lines, "usd", refundable=0)
    newer, older = grants(
        [downgrade, Invoice([Line(6_000, JUNE, "pro")], "usd", refundable=100, base=Fraction(3, 4))], schedules
    )
    assert arithmetic(newer, schedules, Reader()).text[5:] == [
        "  $15.00 × 259,200 ÷ 1,296,000 = $3.00.",
        f"calls: $0.09 for Jun 1, 2019, 12:00{AM} to Jul 1, 2019, 12:00{AM}, 2,592,000 seconds.",
        "  It is billed by use, so no time was paid for in advance: nothing is owed.",
        "It took back unused time of which $3.00 was lost, which lowers what the invoice paid before it gets back.",
        "Owed in all: $0.00, rounded $0.00.",
        "Given back now: $0.00.",
    ]
    older_stands = (
        "Of this invoice 3/4 still stands after what was given back otherwise, and the same part of what was lost:"
        " $4.50."
    )
    # 600 × ¾ = 450, less the 300 of the downgrade = 150; 100 can go back
    assert arithmetic(older, schedules, Reader()).text[3:] == [
        older_stands,
        "Later invoices of the same subscription took back unused time, which lowers this one to $1.50.",
        "Owed in all: $1.50, rounded $1.50.",
        "Given back now: $1.00.",
        "Still owed: $0.50, which cannot go back this way now.",
    ]


@pytest.mark.parametrize(
    ("exact", "places", "text"),
    [
        (Fraction(27, 4), 6, "6.75"),
        (Fraction(1, 3), 4, "0.3333…"),
        (Fraction(7), 2, "7"),
        (Fraction(-1, 2), 1, "-0.5"),
        (Fraction(1, 3), 0, "0…"),
        (Fraction(1, 100_000), 2, "0.00…"),
    ],
)
def test_decimals_never_hide_that_there_are_more(exact: Fraction, places: int, text: str) -> None:
    assert decimal_text(exact, places) == text


def test_the_arithmetic_is_written_for_its_reader() -> None:
    line = Line(9_300, (day(8, 1), day(9, 1)), "growth", id="il_1", name="Growth")
    schedules = {
        "growth": schedule({"facebook": 6_000}, [OutageSpan("facebook", day(8, 22, 20), day(8, 26), 10_000)], 0)
    }
    (grant,) = grants([Invoice([line], "eur", refundable=9_300)], schedules)
    # 76 h = 273,600 s, of which 60 % = 164,160; 93.00 × 164,160 ÷ 2,678,400 = 5.70
    told = arithmetic(grant, schedules, Reader("de-AT", "Europe/Vienna")).text
    assert [line.replace("\xa0", " ") for line in told] == [
        "Growth: € 93,00 for 01.08.2019, 02:00 CEST to 01.09.2019, 02:00 CEST, 2.678.400 seconds.",
        "  60 % of it was lost from 22.08.2019, 22:00 CEST to 26.08.2019, 02:00 CEST: 273.600 seconds.",
        "  € 93,00 × 164.160 ÷ 2.678.400 = € 5,70.",
        "Owed in all: € 5,70, rounded € 5,70.",
        "Given back now: € 5,70.",
    ]


def test_one_sentence_holds_every_number() -> None:
    facebook = OutageSpan("facebook", day(6, 20), day(6, 23), 10_000)
    schedules = {"pro": schedule({"facebook": 10_000}, [facebook], until=0)}
    lines = [Line(6_100, JUNE, "pro", tax=610), Line(500, SECOND_HALF, "pro"), Line(900, JUNE, "other")]
    (grant,) = grants([Invoice(lines, "usd", refundable=9_000, granted_before=100)], schedules)
    # 67.10 × 3/30 = 6.71; 5.00 × 3/15 = 1.00; 7.71 − 1.00
    assert in_short(grant, Reader()) == (
        "In seconds lost, of those paid for: ($61.00 + $6.10 tax) × 259,200 ÷ 2,592,000 = $6.71;"
        " $5.00 × 259,200 ÷ 1,296,000 = $1.00; together $7.71, less $1.00 given back before."
    )
