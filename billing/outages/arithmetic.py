"""One invoice's computation as data and in words: anybody with a pocket calculator can follow it. Pure.

The words are for one reader: amounts and numbers in that language's way, times on that zone's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from billing.locales import Reader
from billing.outages.loss import WHOLE, InvoiceGrant, LineGrant, Schedule, Step, within
from billing.windows import from_unix, iso


@dataclass(frozen=True)
class Arithmetic:
    """`data` for scripts (amounts in smallest units, fractions as "numerator/denominator"), `text` for people."""

    data: dict[str, Any]
    text: list[str]


def arithmetic(grant: InvoiceGrant, schedules: Mapping[str, Schedule], reader: Reader) -> Arithmetic:
    """How the grant of one invoice came about, out of the schedules that it was computed with."""
    whole = grant.invoice.whole
    told = _Teller(reader, grant.invoice.currency)
    text = [sentence for line in grant.lines for sentence in told.line(line, _steps(line, schedules), whole)]
    return Arithmetic(
        {
            "invoice": grant.invoice.id,
            "currency": grant.invoice.currency,
            "lines": [line_data(line, _steps(line, schedules)) for line in grant.lines],
            "base": fraction_text(grant.invoice.base),
            "whole": fraction_text(grant.invoice.whole),
            "owed": fraction_text(grant.owed),
            "exact": fraction_text(grant.exact),
            "rounded": grant.rounded,
            "granted_before": grant.invoice.granted_before,
            "waived": grant.waived,
            "amount": grant.amount,
            "rest": grant.rest,
        },
        text + told.total(grant),
    )


def in_short(grant: InvoiceGrant, reader: Reader) -> str:
    """The same in one sentence, for where there is little room: `… $31.00 × 324,000 ÷ 2,678,400 = $3.75.`"""
    told = _Teller(reader, grant.invoice.currency)
    terms = [
        f"{told.charged(line)} × {told.share(line, grant.invoice.whole)} = {told.exactly(line.owed)}"
        for line in grant.lines
        if line.owed
    ]
    text = f"In seconds lost, of those paid for: {'; '.join(terms)}"
    if grant.exact != sum((line.owed for line in grant.lines), Fraction(0)):
        text += f"; what is left of that for this invoice is {told.exactly(grant.exact)}"
    elif len(terms) > 1:
        text += f"; together {told.exactly(grant.exact)}"
    if grant.exact != grant.rounded:
        text += f", rounded {told.money(grant.rounded)}"
    if grant.invoice.granted_before:
        text += f", less {told.money(grant.invoice.granted_before)} given back before"
    return f"{text}."


def line_data(line: LineGrant, steps: Schedule) -> dict[str, Any]:
    """One line as the preview and the explanation show it; `steps` is the schedule of the line's plan."""
    return {
        "line": line.line.id,
        "net": line.line.net,
        "tax": line.line.tax,
        **period_data(within(steps, *line.line.period), line.line.period, line.lost),
        "owed": fraction_text(line.owed),
        "granted_before": line.line.granted_before,
        "amount": line.amount,
    }


def period_data(steps: Schedule, period: tuple[int, int], lost: int) -> dict[str, Any]:
    """A period, what was lost within it and when; `lost` is in 10^-8 seconds."""
    return {
        "period": [iso(from_unix(moment)) for moment in period],
        "lost": [
            {"from": iso(from_unix(step.start)), "to": iso(from_unix(step.end)), "share": fraction_text(_share(step))}
            for step in steps
        ],
        "lost_seconds_weighted": decimal_text(Fraction(lost, WHOLE), 8),
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


@dataclass(frozen=True)
class _Teller:
    """Writes one invoice's computation for one reader."""

    reader: Reader
    currency: str

    def money(self, amount: int) -> str:
        return self.reader.money(amount, self.currency)

    def exactly(self, amount: Fraction) -> str:
        return self.reader.exactly(amount, self.currency)

    def when(self, seconds: int) -> str:
        return self.reader.moment(from_unix(seconds))

    def charged(self, line: LineGrant) -> str:
        net = self.money(line.line.net)
        return f"({net} + {self.money(line.line.tax)} tax)" if line.line.tax else net

    def share(self, line: LineGrant, whole: Fraction) -> str:
        """`324,000 ÷ 2,678,400`: seconds lost, of seconds paid for."""
        start, end = line.line.period
        share = f"{self.reader.decimal(Fraction(line.lost, WHOLE), 8)} ÷ {self.reader.number(max(end - start, 0))}"
        if not line.lost:
            return str(whole)
        return f"({whole} + {1 - whole} × {share})" if whole else share

    def line(self, line: LineGrant, steps: Sequence[Step], whole: Fraction) -> list[str]:
        start, end = line.line.period
        length = end - start
        name = line.line.name or line.line.plan or line.line.id or "This line"
        charged, owed = self.charged(line), self.exactly(line.owed)
        seconds = self.reader.number(max(length, 0))
        first = f"{name}: {charged} for {self.when(start)} to {self.when(end)}, {seconds} seconds."
        if line.line.metered:
            return [first, "  It is billed by use, so no time was paid for in advance: nothing is owed."]
        if whole == 1:
            return [first, f"  It was paid while the outage went on, so all of it goes back: {owed}."]
        meanwhile = [f"  {whole} of it was paid while the outage went on, and goes back whole."] if whole else []
        if not steps or length <= 0:
            left = [f"  {charged} × {whole} = {owed}."] if whole else []
            return [first, *meanwhile, "  Nothing of it was lost.", *left]
        losses = [
            f"  {self.reader.decimal(_share(step) * 100, 6)} % of it was lost from {self.when(step.start)} to"
            f" {self.when(step.end)}: {self.reader.number(step.end - step.start)} seconds."
            for step in steps
        ]
        return [first, *meanwhile, *losses, f"  {charged} × {self.share(line, whole)} = {owed}."]

    def total(self, grant: InvoiceGrant) -> list[str]:
        invoice = grant.invoice
        text: list[str] = []
        if invoice.base != 1:
            text.append(
                f"Of this invoice {invoice.base} still stands after what was given back otherwise, and the same part of"
                f" what was lost: {self.exactly(grant.owed)}."
            )
        if grant.owed < 0:
            text.append(
                f"It took back unused time of which {self.exactly(-grant.owed)} was lost, which lowers what the"
                " invoice paid before it gets back."
            )
        elif grant.exact != grant.owed:
            text.append(
                "Later invoices of the same subscription took back unused time, which lowers this one to"
                f" {self.exactly(grant.exact)}."
            )
        text.append(f"Owed in all: {self.exactly(grant.exact)}, rounded {self.money(grant.rounded)}.")
        if invoice.granted_before:
            text.append(f"Given back before: {self.money(invoice.granted_before)}.")
        if grant.waived:
            text.append(f"Waived: {self.money(grant.waived)}.")
        text.append(f"Given back now: {self.money(grant.amount)}.")
        if grant.rest:
            text.append(f"Still owed: {self.money(grant.rest)}, which cannot go back this way now.")
        return text
