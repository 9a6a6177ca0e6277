"""One invoice's computation in plain words and as data: anybody with a pocket calculator can follow it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from billing.money import Money, exponent, plain
from billing.outages.loss import WHOLE, InvoiceGrant, LineGrant, Schedule, Step, within
from billing.windows import from_unix, iso


@dataclass(frozen=True)
class Arithmetic:
    """`data` for scripts (amounts in smallest units, fractions as "numerator/denominator"), `text` for people."""

    data: dict[str, Any]
    text: list[str]


def arithmetic(grant: InvoiceGrant, schedules: Mapping[str, Schedule]) -> Arithmetic:
    """How the grant of one invoice came about, out of the schedules that it was computed with."""
    currency = grant.invoice.currency
    text = [sentence for line in grant.lines for sentence in _line_text(line, _steps(line, schedules), currency)]
    return Arithmetic(
        {
            "invoice": grant.invoice.id,
            "currency": currency,
            "lines": [line_data(line, _steps(line, schedules)) for line in grant.lines],
            "base": fraction_text(grant.invoice.base),
            "owed": fraction_text(grant.owed),
            "exact": fraction_text(grant.exact),
            "rounded": grant.rounded,
            "granted_before": grant.invoice.granted_before,
            "amount": grant.amount,
            "rest": grant.rest,
        },
        text + _total_text(grant, currency),
    )


def line_data(line: LineGrant, steps: Schedule) -> dict[str, Any]:
    """One line as the preview and the explanation show it; `steps` is the schedule of the line's plan."""
    return {
        "line": line.line.id,
        "net": line.line.net,
        "tax": line.line.tax,
        "period": [iso(from_unix(moment)) for moment in line.line.period],
        "lost": [
            {"from": iso(from_unix(step.start)), "to": iso(from_unix(step.end)), "share": fraction_text(_share(step))}
            for step in within(steps, *line.line.period)
        ],
        "lost_seconds_weighted": decimal_text(Fraction(line.lost, WHOLE), 8),
        "owed": fraction_text(line.owed),
        "granted_before": line.line.granted_before,
        "amount": line.amount,
    }


def fraction_text(exact: Fraction) -> str:
    """`27/4`, and `7/1` for a whole number: one shape for every exact amount."""
    return f"{exact.numerator}/{exact.denominator}"


def decimal_text(exact: Fraction, places: int) -> str:
    """`1234.5`, with at most `places` decimals; `…` where there would be more of them."""
    units, rest = divmod(abs(exact) * 10**places, 1)
    whole, decimals = divmod(int(units), 10**places)
    digits = f"{decimals:0{places}d}" if places else ""
    tail = f"{digits}…" if rest else digits.rstrip("0")
    return f"{'-' if exact < 0 else ''}{whole}{'.' if tail.strip('…') else ''}{tail}"


def _steps(line: LineGrant, schedules: Mapping[str, Schedule]) -> Sequence[Step]:
    return () if line.line.metered else within(schedules.get(line.line.plan, ()), *line.line.period)


def _share(step: Step) -> Fraction:
    return Fraction(step.share, WHOLE)


def _when(seconds: int) -> str:
    moment = iso(from_unix(seconds)).removesuffix("Z").replace("T", " ")
    return moment.removesuffix(":00") if moment.endswith(":00") else moment


def _exactly(amount: Fraction, currency: str) -> str:
    return f"{decimal_text(amount / 10 ** exponent(currency), exponent(currency) + 4)} {currency.upper()}"


def _line_text(line: LineGrant, steps: Sequence[Step], currency: str) -> list[str]:
    start, end = line.line.period
    length = end - start
    name = line.line.name or line.line.plan or line.line.id or "This line"
    charged = plain(Money(line.line.net, currency))
    if line.line.tax:
        charged = f"({charged} + {plain(Money(line.line.tax, currency))} tax)"
    first = f"{name}: {charged} for {_when(start)} to {_when(end)} UTC, {max(length, 0):,} seconds."
    if line.line.metered:
        return [first, "  It is billed by use, so no time was paid for in advance: nothing is owed."]
    if not steps or length <= 0:
        return [first, "  Nothing of it was lost."]
    losses = [
        f"  {decimal_text(_share(step) * 100, 6)} % of it was lost from {_when(step.start)} to {_when(step.end)} UTC:"
        f" {step.end - step.start:,} seconds."
        for step in steps
    ]
    weighted = decimal_text(Fraction(line.lost, WHOLE), 8)
    return [first, *losses, f"  {charged} × {weighted} ÷ {length} = {_exactly(line.owed, currency)}."]


def _total_text(grant: InvoiceGrant, currency: str) -> list[str]:
    invoice = grant.invoice
    text: list[str] = []
    if invoice.base != 1:
        text.append(
            f"Of this invoice {invoice.base} still stands after what was given back otherwise, and the same part of"
            f" what was lost: {_exactly(grant.owed, currency)}."
        )
    if grant.owed < 0:
        text.append(
            f"It took back unused time of which {_exactly(-grant.owed, currency)} was lost, which lowers what the"
            " invoice paid before it gets back."
        )
    elif grant.exact != grant.owed:
        text.append(
            "Later invoices of the same subscription took back unused time, which lowers this one to"
            f" {_exactly(grant.exact, currency)}."
        )
    text.append(f"Owed in all: {_exactly(grant.exact, currency)}, rounded {plain(Money(grant.rounded, currency))}.")
    if invoice.granted_before:
        text.append(f"Given back before: {plain(Money(invoice.granted_before, currency))}.")
    text.append(f"Given back now: {plain(Money(grant.amount, currency))}.")
    if grant.rest:
        text.append(f"Still owed: {plain(Money(grant.rest, currency))}, which cannot go back this way now.")
    return text
