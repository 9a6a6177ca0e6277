"""Billing periods: month ends, leap days, odd intervals."""

from datetime import UTC, datetime

import pytest

from sandbox.stripe.periods import add_months, boundary, period_of


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("anchor", "interval", "count", "number", "then"),
    [
        ("2019-08-01", "month", 1, 1, "2019-09-01"),
        ("2019-01-31", "month", 1, 1, "2019-02-28"),
        ("2019-01-31", "month", 1, 2, "2019-03-31"),  # the anchor's day returns
        ("2020-01-31", "month", 1, 1, "2020-02-29"),
        ("2019-10-31T23:59:59", "month", 1, -1, "2019-09-30T23:59:59"),
        ("2019-12-15", "month", 3, 1, "2020-03-15"),
        ("2020-02-29", "year", 1, 1, "2021-02-28"),
        ("2020-02-29", "year", 1, 4, "2024-02-29"),
        ("2019-08-20", "week", 2, 1, "2019-09-03"),
        ("2019-02-27", "day", 3, 1, "2019-03-02"),
    ],
)
def test_boundaries_are_counted_from_the_anchor(anchor: str, interval: str, count: int, number: int, then: str) -> None:
    assert boundary(at(anchor), interval, count, number) == at(then)


@pytest.mark.parametrize(
    ("anchor", "interval", "when", "start", "end"),
    [
        ("2019-01-31", "month", "2019-02-28", "2019-02-28", "2019-03-31"),
        ("2019-01-31", "month", "2019-02-27T23:59:59", "2019-01-31", "2019-02-28"),
        ("2019-08-15T12:00:00", "month", "2019-09-15T11:59:59", "2019-08-15T12:00:00", "2019-09-15T12:00:00"),
        ("2019-08-15T12:00:00", "month", "2019-06-01", "2019-05-15T12:00:00", "2019-06-15T12:00:00"),
        ("2020-02-29", "year", "2021-02-28", "2021-02-28", "2022-02-28"),
        ("2020-02-29", "year", "2021-02-27", "2020-02-29", "2021-02-28"),
        ("2019-08-20", "week", "2019-08-27", "2019-08-27", "2019-09-03"),
        ("2019-08-20", "day", "2019-08-19T23:00:00", "2019-08-19", "2019-08-20"),
    ],
)
def test_the_period_that_contains_a_moment(anchor: str, interval: str, when: str, start: str, end: str) -> None:
    assert period_of(at(anchor), interval, 1, at(when)) == (at(start), at(end))


def test_periods_of_every_day_of_years_join_without_gap() -> None:
    anchor = at("2016-01-31T08:30:00")
    for day in range(0, 5 * 366, 5):
        when = anchor + day * 86_400
        start, end = period_of(anchor, "month", 1, when)
        assert start <= when < end
        assert period_of(anchor, "month", 1, end)[0] == end


def test_adding_months_keeps_the_time_of_day() -> None:
    assert add_months(at("2019-11-30T22:15:01"), 3) == at("2020-02-29T22:15:01")
