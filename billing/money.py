"""Money: integers of the currency's smallest Stripe unit, always beside their currency, never floats."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Final, TypeAlias

# https://docs.stripe.com/currencies
_ZERO_DECIMAL = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
_THREE_DECIMAL = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
UNITS: Final = dict.fromkeys(["isk", "ugx"], 100) | dict.fromkeys(_THREE_DECIMAL, 10)
"""Currencies whose amounts must be multiples of more than one smallest unit when they are sent to Stripe."""

Json: TypeAlias = dict[str, str | int]


@dataclass(frozen=True)
class Money:
    """`amount` is in the smallest Stripe unit of `currency` (three lower-case letters, as Stripe writes them)."""

    amount: int
    currency: str

    def __post_init__(self) -> None:
        if type(self.amount) is not int:
            raise TypeError(f"An amount is an int of the smallest unit, not {self.amount!r}.")
        if not (
            len(self.currency) == 3 and self.currency.isascii() and self.currency.isalpha() and self.currency.islower()
        ):
            raise ValueError(f"A currency is three lower-case letters such as 'usd', not {self.currency!r}.")

    def __add__(self, other: "Money") -> "Money":
        return Money(self.amount + self._same(other).amount, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.amount - self._same(other).amount, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.amount, self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.amount < self._same(other).amount

    def __le__(self, other: "Money") -> bool:
        return self.amount <= self._same(other).amount

    def __bool__(self) -> bool:
        return self.amount != 0

    def _same(self, other: "Money") -> "Money":
        if self.currency != other.currency:
            raise TypeError(f"{self.currency} and {other.currency} are different currencies and never mix.")
        return other


class Totals:
    """One sum per currency, since different currencies are never added, with counts beside it where they are given.

    `totals.add(Money(900, "usd"), grants=1)`; iterating gives Money, in the order of the currencies' names.
    """

    def __init__(self, *amounts: Money) -> None:
        self._entries: dict[str, dict[str, int]] = {}
        for amount in amounts:
            self.add(amount)

    def add(self, money: Money, **counts: int) -> None:
        entry = self._entries.setdefault(money.currency, {"amount": 0})
        for name, value in {"amount": money.amount, **counts}.items():
            entry[name] = entry.get(name, 0) + value

    def __add__(self, other: "Totals") -> "Totals":
        both = Totals()
        for totals in (self, other):
            for currency, entry in totals._entries.items():
                counts = {name: value for name, value in entry.items() if name != "amount"}
                both.add(Money(entry["amount"], currency), **counts)
        return both

    def __iter__(self) -> Iterator[Money]:
        return (Money(entry["amount"], currency) for currency, entry in sorted(self._entries.items()))

    def __getitem__(self, currency: str) -> Money:
        """The sum in that currency, 0 where there is none."""
        return Money(self._entries.get(currency, {}).get("amount", 0), currency)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Totals) and self._entries == other._entries

    def to_json(self) -> list[Json]:
        """`[{"currency": "eur", "amount": 900, …counts}, …]`, in the order of the currencies' names."""
        return [{"currency": currency, **entry} for currency, entry in sorted(self._entries.items())]


def round_half_up(exact: Fraction | int) -> int:
    """The nearest integer, a half towards positive infinity."""
    return floor(exact + Fraction(1, 2))


def apportion(total: int, exact: Sequence[Fraction | int]) -> list[int]:
    """Whole parts of `total`, each of them its exact part rounded down or up: the largest remainders go up, ties the
    earlier. `total` must be the sum of the exact parts, rounded in either direction; else ValueError."""
    parts = [floor(part) for part in exact]
    remainders = [part - whole for part, whole in zip(exact, parts, strict=True)]
    left = total - sum(parts)
    upwards = sorted((i for i, rest in enumerate(remainders) if rest), key=lambda i: (-remainders[i], i))
    if not 0 <= left <= len(upwards):
        raise ValueError(f"{total} is not what {[str(part) for part in exact]} add up to.")
    for i in upwards[:left]:
        parts[i] += 1
    return parts


def split(total: int, weights: Sequence[Fraction | int]) -> list[int]:
    """`total` in proportion to the signed weights, by largest remainder (ties: the earlier); adds up to `total`.

    Raises ValueError where there is something to split and the weights add up to nothing.
    """
    if total == 0:
        return [0] * len(weights)
    if total < 0:
        return [-part for part in split(-total, weights)]
    whole = sum(weights, Fraction(0))
    if whole == 0:
        raise ValueError(f"{total} cannot be split over weights that add up to nothing.")
    return apportion(total, [Fraction(total * weight) / whole for weight in weights])


def exponent(currency: str) -> int:
    """How many decimals Stripe's smallest unit has: 0 for jpy, 2 for usd (and isk, ugx), 3 for kwd."""
    if currency in _ZERO_DECIMAL:
        return 0
    return 3 if currency in _THREE_DECIMAL else 2


def unit(currency: str) -> int:
    """Amounts that are sent to Stripe must be multiples of this many smallest units."""
    return UNITS.get(currency, 1)


def sendable(amount: int, currency: str) -> int:
    """A non-negative amount rounded down to what Stripe takes in that currency; the rest stays owed."""
    return amount - amount % unit(currency)


def plain(money: Money) -> str:
    """`1,012.34 USD`, `1,234 JPY`: unmistakable rather than local."""
    places = exponent(money.currency)
    whole, rest = divmod(abs(money.amount), 10**places)
    digits = f"{whole:,}.{rest:0{places}d}" if places else f"{whole:,}"
    return f"{'-' if money.amount < 0 else ''}{digits} {money.currency.upper()}"
