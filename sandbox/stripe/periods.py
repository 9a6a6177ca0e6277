"""Billing periods: boundaries counted from an anchor, in UTC seconds. Pure.

The n-th boundary is the anchor moved by n intervals at once, so the 31st returns after every shorter month and
29 February after three common years. Source: Stripe, "Billing cycles".
"""

from calendar import monthrange
from datetime import UTC, datetime
from typing import Final

_SECONDS: Final = {"day": 86_400, "week": 604_800}
_MONTHS: Final = {"month": 1, "year": 12}


def boundary(anchor: int, interval: str, count: int, number: int) -> int:
    """The `number`-th boundary from the anchor (0 is the anchor itself, negative numbers lie before it)."""
    if interval in _SECONDS:
        return anchor + number * count * _SECONDS[interval]
    return add_months(anchor, number * count * _MONTHS[interval])


def add_months(when: int, months: int) -> int:
    """The same day and time of day so many months later; a day that the month lacks becomes its last one."""
    start = datetime.fromtimestamp(when, UTC)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, monthrange(year, month + 1)[1])
    return int(start.replace(year=year, month=month + 1, day=day).timestamp())


def period_of(anchor: int, interval: str, count: int, when: int) -> tuple[int, int]:
    """The period [start, end) of this anchor that contains `when`."""
    if interval in _SECONDS:
        number = (when - anchor) // (count * _SECONDS[interval])
    else:
        first, then = datetime.fromtimestamp(anchor, UTC), datetime.fromtimestamp(when, UTC)
        months = (then.year - first.year) * 12 + then.month - first.month
        number = months // (count * _MONTHS[interval])
        if boundary(anchor, interval, count, number) > when:
            number -= 1
        elif boundary(anchor, interval, count, number + 1) <= when:
            number += 1
    return boundary(anchor, interval, count, number), boundary(anchor, interval, count, number + 1)
