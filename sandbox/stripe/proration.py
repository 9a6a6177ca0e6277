"""What a change in the middle of a period is worth, by the second, and the one way of rounding. Pure.

A credit follows the amount that was debited before (billing mode `flexible`); a debit follows the price.
"""

from collections.abc import Sequence
from fractions import Fraction


def rounded(exact: Fraction) -> int:
    """The nearest integer, halves away from zero: a credit of x is exactly the opposite of a debit of x."""
    whole = (2 * abs(exact.numerator) + exact.denominator) // (2 * exact.denominator)
    return whole if exact >= 0 else -whole


def split(total: int, exact: Sequence[Fraction]) -> list[int]:
    """Integers near `exact` that add up to `total`: largest remainder first, the earlier one among equals.

    `total` must be the rounded sum of `exact`."""
    shares = [part.numerator // part.denominator for part in exact]
    missing = total - sum(shares)
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[:missing]:
        shares[i] += 1
    return shares


def part_of(amount: int, start: int, end: int, since: int) -> Fraction:
    """The share of `amount` that belongs to [since, end) of a period [start, end)."""
    if end <= start:
        return Fraction(0)
    return amount * Fraction(min(max(end - since, 0), end - start), end - start)


def unused(debited: int, start: int, end: int, since: int) -> int:
    """The credit (zero or negative) for the time [since, end) of a period for which `debited` was billed."""
    return -rounded(part_of(debited, start, end, since))


def remaining(price: int, period: tuple[int, int], since: int) -> int:
    """The debit for the rest [since, end) of a period that costs `price` as a whole."""
    return rounded(part_of(price, *period, since))
