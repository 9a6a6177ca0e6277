"""How amounts and times are written on pages: with their currency, and with their zone."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from babel.numbers import format_currency, get_currency_precision, get_currency_symbol
from flask import Blueprint
from flask.blueprints import BlueprintSetupState
from markupsafe import Markup

from billing.locales import Reader
from billing.money import exponent
from billing.windows import iso, lasting, parse_time

LOCALE: Final = "en_US"


def money(amount: int, currency: str) -> str:
    """`$1,012.34`, `¥1,234`, `KWD 1.230`: an amount of Stripe's smallest unit, never rounded by being shown."""
    places = exponent(currency)
    shown = get_currency_precision(currency.upper())
    if places > shown and amount % 10 ** (places - shown):
        shown = places
    apart = "\N{NO-BREAK SPACE}" if get_currency_symbol(currency.upper(), LOCALE)[-1].isalpha() else ""
    pattern = f"¤{apart}#,##0{'.' + '0' * shown if shown else ''}"
    text = format_currency(
        Decimal(amount).scaleb(-places), currency.upper(), pattern, locale=LOCALE, currency_digits=False
    )
    return text.replace("-", "−")


def moment(at: datetime | str | None, zone: str = "UTC") -> Markup:
    """`26 Aug 2019, 14:00 UTC`, and beside it what the clock says in `zone` where that is another one."""
    if at is None:
        return Markup("")
    at = _read(at)
    text = f"{_clock(at)} UTC"
    if zone != "UTC":
        there = at.astimezone(ZoneInfo(zone))
        text += f" ({_clock(there) if there.date() != at.date() else f'{there:%H:%M}'} {there.tzname()})"
    return Markup('<time datetime="{}">{}</time>').format(iso(at), text)


def day(at: datetime | str | None) -> Markup:
    """`26 Aug 2019`, in UTC."""
    if at is None:
        return Markup("")
    at = _read(at)
    return Markup('<time datetime="{}">{}</time>').format(iso(at), f"{at.day} {at:%b %Y}")


def count(number: int, one: str, many: str = "") -> str:
    """`1 customer`, `2,345 customers`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def percent(basis_points: int) -> str:
    """`100 %` for 10,000, `12.5 %` for 1,250."""
    return f"{basis_points / 100:g} %"


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "money": money,
    "moment": moment,
    "day": day,
    "count": count,
    "percent": percent,
    "lasting": lasting,
}


def for_reader(reader: Reader) -> dict[str, Callable[..., Any]]:
    """The same for a customer's own pages, written as that customer reads it: `money(…)`, `when(…)`, `date(…)`."""

    def when(at: datetime | None) -> Markup:
        return _in_time(at, reader.moment)

    def date(at: datetime | None) -> Markup:
        return _in_time(at, reader.date)

    return {"money": reader.money, "when": when, "date": date, "number": reader.number}


def written_on(blueprint: Blueprint) -> None:
    """Give the blueprint's templates these filters."""

    def register(state: BlueprintSetupState) -> None:
        state.app.jinja_env.filters.update(FILTERS)

    blueprint.record(register)


def _in_time(at: datetime | None, write: Callable[[datetime], str]) -> Markup:
    return Markup('<time datetime="{}">{}</time>').format(iso(at), write(at)) if at else Markup("")


def _read(at: datetime | str) -> datetime:
    return parse_time(at) if isinstance(at, str) else at.astimezone(UTC)


def _clock(at: datetime) -> str:
    return f"{at.day} {at:%b %Y, %H:%M}" + (f":{at:%S}" if at.second else "")
