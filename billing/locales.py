"""How a customer reads amounts and times: in the customer's locale, on the clock of the agency's time zone. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time
from babel.numbers import format_currency, format_decimal

from billing.money import exponent

DEFAULT: Final = "en-US"
LONGEST: Final = 35
"""Characters of a language tag that everybody has to keep (RFC 5646, section 4.4.1)."""
_LETTER_BEFORE_DIGIT: Final = re.compile(r"(?<=[^\W\d_])(?=\d)")
_FURTHER: Final = 4
"""Decimals of an exact amount beyond those of its currency."""


def known(tag: str | None) -> str | None:
    """The tag as it is used here, such as `de-AT`; None for one that means nothing."""
    found = _parsed(tag) if tag and len(tag) <= LONGEST else None
    return str(found).replace("_", "-") if found else None


def money(amount: int, currency: str, tag: str) -> str:
    """`$1,012.34`, `1.012,34 €`, `KWD 1.230`: an amount of Stripe's smallest unit, never rounded by being shown."""
    return _written(Decimal(amount).scaleb(-exponent(currency)), currency, tag)


@lru_cache(maxsize=4_096)  # the same few moments stand in every customer's arithmetic
def moment(at: datetime, tag: str, zone: str) -> str:
    """`Aug 22, 2019, 8:00 PM UTC`, `22.08.2019, 22:00 CEST`: what the clock in `zone` shows, and the zone's name."""
    there, locale = at.astimezone(ZoneInfo(zone)), _locale(tag)
    clock = format_time(there, "medium" if there.second else "short", locale=locale)
    return f"{format_date(there, 'medium', locale=locale)}, {clock} {there.tzname()}"


def day(at: datetime, tag: str, zone: str) -> str:
    """`August 26, 2019`, `26. August 2019`."""
    return format_date(at.astimezone(ZoneInfo(zone)).date(), "long", locale=_locale(tag))


def date(at: datetime, tag: str, zone: str) -> str:
    """`Aug 26, 2019`, `26.08.2019`: as short as it stands in a table."""
    return format_date(at.astimezone(ZoneInfo(zone)).date(), "medium", locale=_locale(tag))


def number(value: int | Decimal, tag: str) -> str:
    """`324,000`, `324.000`; never rounded."""
    return format_decimal(value, locale=_locale(tag), decimal_quantization=False)


def decimal(exact: Fraction, places: int, tag: str) -> str:
    """`1,234.5` with at most `places` decimals; `…` where there would be more of them."""
    units, rest = divmod(abs(exact) * 10**places, 1)
    shown = Decimal(int(units)).scaleb(-places)
    return number(-shown if exact < 0 else shown, tag) + ("…" if rest else "")


def exactly(amount: Fraction, currency: str, tag: str) -> str:
    """An amount before it is rounded: `$7.425`, `$1.7741…`, four decimals further than the currency goes."""
    units, rest = divmod(abs(amount) * 10**_FURTHER, 1)
    shown = Decimal(int(units)).scaleb(-_FURTHER - exponent(currency))
    return _written(-shown if amount < 0 else shown, currency, tag) + ("…" if rest else "")


@dataclass(frozen=True)
class Reader:
    """Whom something is written for: a language tag, and the zone of the clock."""

    tag: str = DEFAULT
    zone: str = "UTC"

    def money(self, amount: int, currency: str) -> str:
        return money(amount, currency, self.tag)

    def exactly(self, amount: Fraction, currency: str) -> str:
        return exactly(amount, currency, self.tag)

    def decimal(self, exact: Fraction, places: int) -> str:
        return decimal(exact, places, self.tag)

    def number(self, value: int) -> str:
        return number(value, self.tag)

    def moment(self, at: datetime) -> str:
        return moment(at, self.tag, self.zone)

    def date(self, at: datetime) -> str:
        return date(at, self.tag, self.zone)


def _written(amount: Decimal, currency: str, tag: str) -> str:
    """Letters that stand for a currency are set apart from its digits, as CLDR's `currencySpacing` wants it."""
    text = format_currency(amount, currency.upper(), locale=_locale(tag), decimal_quantization=False)
    return _LETTER_BEFORE_DIGIT.sub("\N{NO-BREAK SPACE}", text)


def _locale(tag: str) -> Locale:
    return _parsed(tag) or _parsed(DEFAULT) or Locale("en")


@lru_cache(maxsize=256)
def _parsed(tag: str) -> Locale | None:
    try:
        return Locale.parse(tag.replace("-", "_"))
    except (UnknownLocaleError, ValueError, TypeError):
        return None
