"""Money refuses to mix, splits lose nothing, and what is sent is what Stripe takes."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import Money, Totals, apportion, exponent, plain, round_half_up, sendable, split, unit

ZERO_DECIMAL = ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]


def test_money_of_one_currency_adds_and_compares() -> None:
    assert Money(900, "usd") + Money(100, "usd") - Money(1, "usd") == Money(999, "usd")
    assert -Money(5, "eur") < Money(5, "eur") <= Money(5, "eur")
    assert Money(1, "usd")
    assert not Money(0, "usd")


@pytest.mark.parametrize("mix", [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a < b, lambda a, b: a <= b])
def test_currencies_never_mix(mix) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError, match="usd and eur are different currencies"):
        mix(Money(1, "usd"), Money(1, "eur"))


@pytest.mark.parametrize("amount", [1.0, 10.5, "10", True, None, Fraction(1)])
def test_an_amount_is_an_int(amount: object) -> None:
    with pytest.raises(TypeError, match="An amount is an int"):
        Money(amount, "usd")  # type: ignore[arg-type]


@pytest.mark.parametrize("currency", ["USD", "us", "dollar", "", "u$d", "üsd"])
def test_a_currency_is_written_as_stripe_writes_it(currency: str) -> None:
    with pytest.raises(ValueError, match="three lower-case letters"):
        Money(1, currency)


def test_totals_keep_one_entry_per_currency() -> None:
    totals = Totals(Money(100, "usd"), Money(70, "jpy"))
    totals.add(Money(23, "usd"), grants=1, customers=1)
    totals.add(Money(1, "usd"), grants=1)
    assert totals.to_json() == [
        {"currency": "jpy", "amount": 70},
        {"currency": "usd", "amount": 124, "grants": 2, "customers": 1},  # 100 + 23 + 1
    ]
    assert list(totals) == [Money(70, "jpy"), Money(124, "usd")]
    assert totals["usd"] == Money(124, "usd")
    assert totals["eur"] == Money(0, "eur")


def test_totals_add_without_touching_either() -> None:
    left, right = Totals(Money(1, "usd")), Totals(Money(2, "usd"), Money(3, "eur"))
    assert left + right == Totals(Money(3, "usd"), Money(3, "eur"))
    assert (left["usd"], right["usd"]) == (Money(1, "usd"), Money(2, "usd"))


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [
        (Fraction(5, 2), 3),  # a half goes up, also from an even number
        (Fraction(7, 2), 4),
        (Fraction(249999999, 100000000), 2),
        (Fraction(-5, 2), -2),  # up is towards positive infinity
        (Fraction(0), 0),
        (7, 7),
    ],
)
def test_a_half_is_rounded_up(exact: Fraction | int, rounded: int) -> None:
    assert round_half_up(exact) == rounded


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (100, [1, 1, 1], [34, 33, 33]),  # 33⅓ each; the cent left over goes to the earliest of equals
        (101, [1, 1, 1], [34, 34, 33]),
        (10, [Fraction(1, 3), Fraction(2, 3)], [3, 7]),  # 3⅓ and 6⅔: the larger remainder goes up
        (1, [2, 5, 3], [0, 1, 0]),
        (30, [100, -40], [50, -20]),  # 30 × 100/60 and 30 × −40/60
        (1, [3, -1], [2, -1]),  # 1½ and −½: floors 1 and −1, remainders equal, the earlier goes up
        (-100, [1, 1, 1], [-34, -33, -33]),
        (0, [], []),
        (0, [1, -1], [0, 0]),
        (7, [0, 1, 0], [0, 7, 0]),
    ],
)
def test_split_by_largest_remainder(total: int, weights: list[Fraction | int], parts: list[int]) -> None:
    assert split(total, weights) == parts


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1]])
def test_what_has_no_weight_cannot_be_split(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="add up to nothing"):
        split(5, weights)


@given(st.integers(-(10**9), 10**9), st.lists(st.fractions(-100, 100, max_denominator=50), min_size=1))
def test_the_parts_are_the_whole(total: int, weights: list[Fraction]) -> None:
    if sum(weights) == 0:
        return
    parts = split(total, weights)
    assert sum(parts) == total
    assert all(
        abs(part - total * weight / sum(weights)) < 1 for part, weight in zip(parts, weights, strict=True)
    )  # no part is a whole unit away from its exact share


@given(st.lists(st.fractions(-1000, 1000, max_denominator=60)))
def test_apportioning_leaves_whole_parts_as_they_are(exact: list[Fraction]) -> None:
    parts = apportion(round_half_up(sum(exact, Fraction(0))), exact)
    assert all(abs(part - share) < 1 for part, share in zip(parts, exact, strict=True))


def test_apportioning_refuses_another_total() -> None:
    with pytest.raises(ValueError, match="is not what"):
        apportion(12, [10, Fraction(1, 2)])  # 10½ is 10 or 11, never 12


@pytest.mark.parametrize(
    ("currency", "places", "multiple_of"),
    [
        *((code, 0, 1) for code in ZERO_DECIMAL),
        *((code, 3, 10) for code in ["bhd", "jod", "kwd", "omr", "tnd"]),
        ("isk", 2, 100),
        ("ugx", 2, 100),
        ("usd", 2, 1),
        ("huf", 2, 1),
    ],
)
def test_stripes_currencies(currency: str, places: int, multiple_of: int) -> None:
    assert (exponent(currency), unit(currency)) == (places, multiple_of)


@pytest.mark.parametrize(
    ("amount", "currency", "sent"),
    [(1234, "usd", 1234), (1234, "jpy", 1234), (1299, "isk", 1200), (99, "ugx", 0), (1239, "kwd", 1230), (0, "isk", 0)],
)
def test_what_is_sent_is_rounded_down(amount: int, currency: str, sent: int) -> None:
    assert sendable(amount, currency) == sent


@pytest.mark.parametrize(
    ("money", "text"),
    [
        (Money(1234, "usd"), "12.34 USD"),
        (Money(1234, "jpy"), "1,234 JPY"),
        (Money(123456789, "eur"), "1,234,567.89 EUR"),
        (Money(1230, "kwd"), "1.230 KWD"),
        (Money(5, "usd"), "0.05 USD"),
        (Money(-5, "usd"), "-0.05 USD"),
        (Money(100, "isk"), "1.00 ISK"),
    ],
)
def test_plain_text(money: Money, text: str) -> None:
    assert plain(money) == text
