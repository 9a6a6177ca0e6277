"""Proration by seconds, the one rounding, discounts and taxes: every number worked out by hand."""

from fractions import Fraction

import pytest

from sandbox.stripe.proration import remaining, rounded, split, unused
from sandbox.stripe.tax import Line, Off, Rate, excluding_inclusive, worked_out

AUGUST = (1_564_617_600, 1_567_296_000)  # 2019-08-01 .. 2019-09-01, 2,678,400 s
NOON_16 = 1_565_956_800  # 16 August 12:00: 1,339,200 s of 2,678,400 are left, exactly half

ON_TOP = Rate("txr_a", Fraction(20), inclusive=False)
INSIDE = Rate("txr_b", Fraction(20), inclusive=True)


@pytest.mark.parametrize(
    ("exact", "whole"), [("1/2", 1), ("-1/2", -1), ("3/2", 2), ("7/3", 2), ("-7/3", -2), ("-5/3", -2)]
)
def test_halves_go_away_from_zero(exact: str, whole: int) -> None:
    assert rounded(Fraction(exact)) == whole


def test_half_a_month_of_the_old_plan_back_and_of_the_new_one_due() -> None:
    assert unused(3100, *AUGUST, NOON_16) == -1550  # 31.00 / 2
    assert remaining(6200, AUGUST, NOON_16) == 3100  # 62.00 / 2
    assert remaining(3101, AUGUST, NOON_16) == 1551  # 15.505, away from zero
    assert unused(3101, *AUGUST, NOON_16) == -1551  # and its exact opposite


def test_before_the_period_everything_after_it_nothing() -> None:
    assert remaining(3100, AUGUST, AUGUST[0] - 5) == 3100
    assert remaining(3100, AUGUST, AUGUST[1] + 5) == 0


def test_largest_remainder_ties_go_to_the_earlier() -> None:
    assert split(100, [Fraction(100, 3)] * 3) == [34, 33, 33]
    assert split(-1, [Fraction(-1, 4), Fraction(-1, 4)]) == [0, -1]  # floors -1, -1; the one missing unit to the first
    assert split(5, [Fraction(5, 2), Fraction(5, 2)]) == [3, 2]


def test_a_percentage_off_is_rounded_once_over_all_lines() -> None:
    # 15 % of 333 is 49.95 a line, of three lines 149.85 -> 150: every line 50.
    lines = [Line(333)] * 3
    assert [w.discounts for w in worked_out(lines, [Off("di_1", Fraction(15), None)])] == [[("di_1", 50)]] * 3
    # 15 % of 331 is 49.65, together 148.95 -> 149: 50, 50, 49.
    lines = [Line(331)] * 3
    assert [w.net for w in worked_out(lines, [Off("di_1", Fraction(15), None)])] == [281, 281, 282]


def test_an_amount_off_is_spread_in_proportion_and_never_exceeds_the_lines() -> None:
    # 10.00 over 20.00 and 10.00: 6.666.. and 3.333.. -> 6.67 and 3.33.
    found = worked_out([Line(2000), Line(1000)], [Off("di_1", None, 1000)])
    assert [w.net for w in found] == [1333, 667]
    assert [w.net for w in worked_out([Line(300)], [Off("di_1", None, 1000)])] == [0]


def test_prorations_are_not_discounted_again() -> None:
    found = worked_out([Line(3100), Line(-1550, discountable=False)], [Off("di_1", Fraction(20), None)])
    assert [w.net for w in found] == [2480, -1550]


def test_discounts_follow_each_other() -> None:
    # 100.00 - 10 % = 90.00, - 5.00 = 85.00.
    offs = [Off("di_1", Fraction(10), None), Off("di_2", None, 500)]
    assert worked_out([Line(10_000)], offs)[0].net == 8500


def test_tax_on_top_is_on_what_the_discount_leaves() -> None:
    # 31.00 - 20 % = 24.80, + 20 % = 4.96 -> 29.76.
    found = worked_out([Line(3100, (ON_TOP,))], [Off("di_1", Fraction(20), None)])[0]
    assert (found.net, found.taxes[0].amount, found.taxes[0].taxable, found.total) == (2480, 496, 2480, 2976)


def test_tax_inside_comes_out_of_the_price() -> None:
    # 31.00 / 1.2 = 25.8333; the tax inside is 5.1667 -> 5.17, without it 25.83.
    found = worked_out([Line(3100, (INSIDE,))], [])[0]
    assert (found.total, found.taxes[0].amount, found.excluding_tax, found.taxes[0].taxable) == (3100, 517, 2583, 2583)
    assert excluding_inclusive([Line(3100, (INSIDE,))]) == 2583


def test_a_rate_is_rounded_once_over_its_lines() -> None:
    # 8.875 % of 3.33 is 0.2955375 a line, three lines 0.8866125 -> 0.89: 0.30, 0.30, 0.29.
    rate = Rate("txr_ny", Fraction("8.875"), inclusive=False)
    assert [w.taxes[0].amount for w in worked_out([Line(333, (rate,))] * 3, [])] == [30, 30, 29]


def test_tax_of_a_credit_is_negative() -> None:
    # -15.50 and +31.00, 20 % on top: -3.10 and +6.20.
    found = worked_out([Line(-1550, (ON_TOP,)), Line(3100, (ON_TOP,))], [])
    assert [w.total for w in found] == [-1860, 3720]


def test_tax_on_top_of_a_price_with_tax_inside() -> None:
    # 12.00 holds 2.00 (20 %); 5 % on top is of 10.00: 0.50.
    more = Rate("txr_c", Fraction(5), inclusive=False)
    found = worked_out([Line(1200, (more, INSIDE))], [])[0]
    assert {tax.rate.id: (tax.amount, tax.taxable) for tax in found.taxes} == {
        "txr_b": (200, 1000),
        "txr_c": (50, 1000),
    }
    assert found.total == 1250
