"""The words that explain a grant hold every number that it takes to compute it again."""

from datetime import UTC, datetime
from fractions import Fraction

import pytest

from billing.outages.arithmetic import arithmetic, decimal_text
from billing.outages.loss import Invoice, Line, OutageSpan, grants, schedule
from billing.windows import unix


def day(month: int, of_month: int, hour: int = 0) -> int:
    return unix(datetime(2019, month, of_month, hour, tzinfo=UTC))


JUNE, SECOND_HALF = (day(6, 1), day(7, 1)), (day(6, 16), day(7, 1))


def test_arithmetic_can_be_followed_with_a_pocket_calculator() -> None:
    line = Line(9_300, (day(8, 1), day(9, 1)), "growth", tax=930, id="il_1", name="Growth")
    facebook = OutageSpan("facebook", day(8, 22, 20), day(8, 26, 14), 10_000)
    schedules = {"growth": schedule({"facebook": 6_000}, [facebook], 0)}
    (grant,) = grants([Invoice([line], "usd", refundable=10_230, granted_before=100, id="in_1")], schedules)
    shown = arithmetic(grant, schedules)
    # 0.6 × 324,000 s = 194,400 s; (93.00 + 9.30) × 194,400 ÷ 2,678,400 = 7.425; rounded 7.43; 7.43 − 1.00 = 6.43
    assert shown.text == [
        "Growth: (93.00 USD + 9.30 USD tax) for 2019-08-01 00:00 to 2019-09-01 00:00 UTC, 2,678,400 seconds.",
        "  60 % of it was lost from 2019-08-22 20:00 to 2019-08-26 14:00 UTC: 324,000 seconds.",
        "  (93.00 USD + 9.30 USD tax) × 194400 ÷ 2678400 = 7.425 USD.",
        "Owed in all: 7.425 USD, rounded 7.43 USD.",
        "Given back before: 1.00 USD.",
        "Given back now: 6.43 USD.",
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
        "owed": "1485/2",
        "exact": "1485/2",
        "rounded": 743,
        "granted_before": 100,
        "amount": 643,
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
    assert arithmetic(newer, schedules).text[5:] == [
        "  15.00 USD × 259200 ÷ 1296000 = 3 USD.",
        "calls: 0.09 USD for 2019-06-01 00:00 to 2019-07-01 00:00 UTC, 2,592,000 seconds.",
        "  It is billed by use, so no time was paid for in advance: nothing is owed.",
        "It took back unused time of which 3 USD was lost, which lowers what the invoice paid before it gets back.",
        "Owed in all: 0 USD, rounded 0.00 USD.",
        "Given back now: 0.00 USD.",
    ]
    older_stands = (
        "Of this invoice 3/4 still stands after what was given back otherwise, and the same part of what was lost:"
        " 4.5 USD."
    )
    # 600 × ¾ = 450, less the 300 of the downgrade = 150; 100 can go back
    assert arithmetic(older, schedules).text[3:] == [
        older_stands,
        "Later invoices of the same subscription took back unused time, which lowers this one to 1.5 USD.",
        "Owed in all: 1.5 USD, rounded 1.50 USD.",
        "Given back now: 1.00 USD.",
        "Still owed: 0.50 USD, which cannot go back this way now.",
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
