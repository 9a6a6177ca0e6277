"""Discounts and taxes of an invoice, line by line. Pure; amounts in the currency's smallest unit.

Each discount and each tax rate is rounded once, on its exact total, and split over its lines by largest remainder, so
the lines always add up to the totals. Discounts come first, one after the other; taxes are on what they leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from sandbox.stripe.proration import rounded, split


@dataclass(frozen=True)
class Rate:
    """A tax rate: `percentage` exact, inside the price or on top of it."""

    id: str
    percentage: Fraction
    inclusive: bool
    reason: str = "not_available"
    """Why it is so much: what Stripe calls `taxability_reason`."""


@dataclass(frozen=True)
class Off:
    """A discount: `percent` of the discountable lines, or an `amount` spread over them in proportion."""

    id: str
    percent: Fraction | None
    amount: int | None


@dataclass(frozen=True)
class Line:
    amount: int
    """Before discounts and exclusive tax; with inclusive tax in it."""
    rates: tuple[Rate, ...] = ()
    discountable: bool = True


@dataclass(frozen=True)
class TaxShare:
    rate: Rate
    amount: int
    taxable: int


@dataclass
class Worked:
    """What became of one line."""

    amount: int
    net: int = 0
    """After discounts; inclusive tax is still in it."""
    discounts: list[tuple[str, int]] = field(default_factory=list)
    taxes: list[TaxShare] = field(default_factory=list)

    @property
    def excluding_tax(self) -> int:
        return self.net - sum(tax.amount for tax in self.taxes if tax.rate.inclusive)

    @property
    def total(self) -> int:
        """What the customer pays for it."""
        return self.net + sum(tax.amount for tax in self.taxes if not tax.rate.inclusive)


def worked_out(lines: Sequence[Line], offs: Sequence[Off]) -> list[Worked]:
    """Every line with its discounts and taxes."""
    found = [Worked(line.amount, line.amount) for line in lines]
    for off in offs:
        _discount(lines, found, off)
    for rate in _inclusive_first(lines):
        _tax(lines, found, rate)
    return found


def excluding_inclusive(lines: Sequence[Line]) -> int:
    """The subtotal before discounts, without the tax that is inside the prices."""
    return rounded(sum((_base(Fraction(line.amount), line.rates) for line in lines), Fraction(0)))


def _discount(lines: Sequence[Line], found: list[Worked], off: Off) -> None:
    eligible = [worked for line, worked in zip(lines, found, strict=True) if line.discountable]
    whole = sum(worked.net for worked in eligible)
    if off.percent is not None:
        exact = [worked.net * off.percent / 100 for worked in eligible]
    else:
        amount = min(off.amount or 0, max(whole, 0))
        exact = [Fraction(amount * worked.net, whole) if whole else Fraction(0) for worked in eligible]
    for worked, share in zip(eligible, split(rounded(sum(exact, Fraction(0))), exact), strict=True):
        worked.net -= share
        worked.discounts.append((off.id, share))


def _inclusive_first(lines: Sequence[Line]) -> list[Rate]:
    rates = {rate.id: rate for line in lines for rate in line.rates}
    return sorted(rates.values(), key=lambda rate: not rate.inclusive)


def _tax(lines: Sequence[Line], found: list[Worked], rate: Rate) -> None:
    taxed = [(line, worked) for line, worked in zip(lines, found, strict=True) if rate in line.rates]
    exact = [_base(Fraction(worked.net), line.rates) * rate.percentage / 100 for line, worked in taxed]
    amounts = split(rounded(sum(exact, Fraction(0))), exact)
    for (_line, worked), amount in zip(taxed, amounts, strict=True):
        inside = sum(tax.amount for tax in worked.taxes if tax.rate.inclusive)
        taxable = worked.net - inside - (amount if rate.inclusive else 0)
        worked.taxes.append(TaxShare(rate, amount, taxable))


def _base(amount: Fraction, rates: Sequence[Rate]) -> Fraction:
    """The amount without the taxes that are inside it."""
    return amount / (1 + sum((rate.percentage for rate in rates if rate.inclusive), Fraction(0)) / 100)
