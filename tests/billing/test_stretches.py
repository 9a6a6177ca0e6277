"""Rounding outward, worked out by hand: Berlin is UTC+1, UTC+2 in summer; its days of change have 23 and 25 hours."""

from datetime import UTC, datetime

import pytest

from billing.stretches import Counting
from billing.windows import unix


def at(*moment: int) -> int:
    return unix(datetime(*moment, tzinfo=UTC))  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("counting", "start", "end", "begins", "ends"),
    [
        pytest.param(
            Counting("second", "Europe/Berlin"), at(2019, 8, 22, 20, 0, 7), at(2019, 8, 22, 20, 0, 9),
            at(2019, 8, 22, 20, 0, 7), at(2019, 8, 22, 20, 0, 9), id="seconds stay",
        ),
        pytest.param(
            Counting("hour"), at(2019, 8, 22, 20, 0, 1), at(2019, 8, 22, 21, 0, 1),
            at(2019, 8, 22, 20), at(2019, 8, 22, 22), id="hours",
        ),
        pytest.param(
            Counting("hour"), at(2019, 8, 22, 20), at(2019, 8, 22, 21),
            at(2019, 8, 22, 20), at(2019, 8, 22, 21), id="a whole hour stays",
        ),
        pytest.param(
            # Kathmandu is UTC+5:45, so its hours begin at a quarter past: 20:00 UTC is 01:45 there.
            Counting("hour", "Asia/Kathmandu"), at(2019, 8, 22, 20), at(2019, 8, 22, 20, 20),
            at(2019, 8, 22, 19, 15), at(2019, 8, 22, 21, 15), id="hours that begin at a quarter past",
        ),
        pytest.param(
            # 21:59 UTC is 23:59 in Berlin, 22:01 UTC the next day's 00:01: two days are touched.
            Counting("day", "Europe/Berlin"), at(2019, 8, 22, 21, 59), at(2019, 8, 22, 22, 1),
            at(2019, 8, 21, 22), at(2019, 8, 23, 22), id="two days touched at midnight",
        ),
        pytest.param(
            # 31 March 2019: from 23:00 UTC on the 30th (UTC+1) to 22:00 UTC (UTC+2): 23 hours.
            Counting("day", "Europe/Berlin"), at(2019, 3, 31, 10), at(2019, 3, 31, 11),
            at(2019, 3, 30, 23), at(2019, 3, 31, 22), id="a day of 23 hours",
        ),
        pytest.param(
            # 27 October 2019: from 22:00 UTC on the 26th (UTC+2) to 23:00 UTC (UTC+1): 25 hours.
            Counting("day", "Europe/Berlin"), at(2019, 10, 27, 10), at(2019, 10, 27, 11),
            at(2019, 10, 26, 22), at(2019, 10, 27, 23), id="a day of 25 hours",
        ),
        pytest.param(
            Counting("day"), at(2020, 2, 29, 12), at(2020, 2, 29, 13),
            at(2020, 2, 29), at(2020, 3, 1), id="29 February",
        ),
        pytest.param(
            # Sao Paulo skipped midnight on 4 November 2018: the day began at 01:00 (UTC-2), which was 03:00 UTC.
            Counting("day", "America/Sao_Paulo"), at(2018, 11, 4, 12), at(2018, 11, 4, 13),
            at(2018, 11, 4, 3), at(2018, 11, 5, 2), id="a midnight that was skipped",
        ),
        pytest.param(
            # Havana had midnight twice on 3 November 2019, at 04:00 (UTC-4) and 05:00 UTC (UTC-5): the first begins it.
            Counting("day", "America/Havana"), at(2019, 11, 3, 5, 30), at(2019, 11, 3, 6),
            at(2019, 11, 3, 4), at(2019, 11, 4, 5), id="a midnight that came twice",
        ),
    ],
)  # fmt: skip
def test_stretches_are_rounded_outward(counting: Counting, start: int, end: int, begins: int, ends: int) -> None:
    assert (counting.floor(start), counting.ceil(end)) == (begins, ends)
