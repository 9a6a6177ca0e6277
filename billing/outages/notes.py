"""The bodies of what we send to Stripe for a grant: credit note, refund, balance entry. Pure.

Amounts are integers of the currency's smallest Stripe unit. The credit note is the one document that the customer and
the tax follow, so its lines say what came back of which line, and its total is the grant's to the cent.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from typing import Any

from billing.locales import Reader
from billing.money import Money, round_half_up, split

Body = dict[str, Any]
MEMO_LIMIT = 500
"""Characters that Stripe prints of a memo."""
OTHER_WAYS = ("credit", "reduce", "out_of_band")
ELSEWHERE = "Your billing pages show how it was computed."


@dataclass(frozen=True)
class NoteLine:
    """One invoice line and what is given back of it: `back` has the line's exclusive tax in it, as `net + tax` has.

    `amount` is before discounts and exclusive tax, `net` after discounts, `taxes` Stripe's split as the mirror has it.
    """

    id: str
    amount: int
    net: int
    tax: int
    taxes: Sequence[Mapping[str, Any]]
    back: int


@dataclass(frozen=True)
class Parts:
    """The ways back of one note: `reduce` lowers what is due, the rest is Stripe's post-payment amount.

    `links` are refunds that were made already, `(refund id, amount)`; `refund` is then 0.
    """

    reduce: int = 0
    refund: int = 0
    credit: int = 0
    out_of_band: int = 0
    links: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> int:
        return self.reduce + self.refund + self.credit + self.out_of_band + sum(amount for _, amount in self.links)


def less(parts: Parts, short: int) -> Parts | None:
    """The parts of a note that gives `short` less; None where that takes more than there is. What cards get gives way.

    Refunds that were made already stay what they are: a note that links nothing but them speaks of less of the last.
    """
    if short == 0:
        return parts
    way = "refund" if parts.refund else max(OTHER_WAYS, key=lambda name: int(getattr(parts, name)))
    left = getattr(parts, way) - short
    if left >= 0 and parts.total > short:
        return replace(parts, **{way: left})
    if not parts.links or parts.links[-1][1] <= short:
        return None
    *before, (refund, amount) = parts.links
    return replace(parts, links=(*before, (refund, amount - short)))


def settled_against(planned: Parts, remaining: int, *, by_balance: bool) -> Parts | None:
    """The planned parts on an invoice of which `remaining` is still due; None when it is not the invoice of the plan.

    Stripe lowers what is due first. A draft was planned before anybody knew what the customer's balance would pay of
    it: that much goes back to the balance, where nothing but that (`by_balance`) can have paid it.
    """
    reduced = min(planned.total, remaining)
    if reduced == planned.reduce:
        return planned
    if by_balance and reduced < planned.reduce:
        return replace(planned, reduce=reduced, credit=planned.credit + planned.reduce - reduced)
    return None


def needs_preview(lines: Sequence[NoteLine], *, automatic_tax: bool) -> bool:
    """Whether Stripe's own rounding of discounts or tax decides the total, so that it has to be asked first."""
    return automatic_tax or any(line.back and (line.amount != line.net or line.tax) for line in lines)


def credit_note(
    invoice_id: str,
    lines: Sequence[NoteLine],
    parts: Parts,
    *,
    memo: str,
    metadata: Mapping[str, str],
    automatic_tax: bool = False,
    as_billed: bool = False,
    nudge: int = 0,
) -> Body:
    """The note that gives back `parts.total`, line by line.

    `nudge` is added to the line where Stripe's rounding may differ from ours: what a preview's total fell short of.
    With automatic tax Stripe says that a line's amount is without any tax; `as_billed` is what it means should that not
    hold for tax that is inside a price.
    """
    backs = _backs(lines, parts.total)
    nudged = _where_rounding_decides(lines, backs, automatic_tax)
    body: Body = {
        "invoice": invoice_id,
        "lines": [
            _line(line, back, automatic_tax, as_billed, nudge if index == nudged else 0)
            for index, (line, back) in enumerate(zip(lines, backs, strict=True))
            if back
        ],
    }
    if parts.links:
        body["refunds"] = [{"refund": refund, "amount_refunded": amount} for refund, amount in parts.links]
    if parts.refund:
        body["refund_amount"] = parts.refund
    if parts.credit:
        body["credit_amount"] = parts.credit
    if parts.out_of_band:
        body["out_of_band_amount"] = parts.out_of_band
    # The customer hears from us, with the arithmetic; Stripe's own e-mail would come first and say less.
    return body | {
        "reason": "product_unsatisfactory",
        "email_type": "none",
        "memo": memo[:MEMO_LIMIT],
        "metadata": dict(metadata),
    }


def refund(*, payment_intent: str | None, charge: str | None, amount: int, metadata: Mapping[str, str]) -> Body:
    """A refund of one payment, where an invoice has several; its credit note follows and links it."""
    of = {"payment_intent": payment_intent} if payment_intent else {"charge": charge}
    return {**of, "amount": amount, "metadata": dict(metadata)}


def balance_entry(*, amount: int, currency: str, memo: str, metadata: Mapping[str, str]) -> Body:
    """A credit of `amount` on the customer's balance, which Stripe writes as a negative entry."""
    return {
        "amount": -amount,
        "currency": currency,
        "description": memo[:MEMO_LIMIT],
        "metadata": dict(metadata),
    }


def frozen(body: Body) -> str:
    """The body as ordered JSON text: jsonb would reorder the keys, and with the order the bytes that were sent."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def why(
    platform: str, started_at: datetime, until: datetime, *, impact_bp: int, ongoing: bool, amount: Money, way: str,
    reader: Reader, for_good: bool = False, arithmetic: str = "",
) -> str:  # fmt: skip
    """Why money came back, in one sentence, and how it was computed as far as there is room for that.

    `until` is the end, or how far an ongoing outage is counted; `arithmetic` is a sentence.
    """
    state = "unavailable" if impact_bp == 10_000 else "impaired"
    money, start, end = reader.money(amount.amount, amount.currency), reader.moment(started_at), reader.moment(until)
    if for_good:
        text = (
            f"{platform} has been {state} since {start} and does not come back: for the rest of the time that was paid"
            f" for, {money} of this invoice {way}."
        )
    elif ongoing:
        text = f"{platform} has been {state} since {start}: for the time until {end}, {money} of this invoice {way}."
    else:
        text = f"{platform} was {state} from {start} to {end}: for that time, {money} of this invoice {way}."
    for more in (arithmetic, ELSEWHERE):
        if more and len(text) + 1 + len(more) <= MEMO_LIMIT:
            return f"{text} {more}"
    return text


def way_back(parts: Parts) -> str:
    """The end of that sentence: which way the money goes."""
    ways = []
    if parts.refund or parts.links:
        ways.append("goes back to how you paid")
    if parts.credit:
        ways.append("is credited to your balance")
    if parts.reduce:
        ways.append("is taken off what is due")
    if parts.out_of_band:
        ways.append("is paid back to you directly")
    return " and ".join(ways) if len(ways) < 3 else f"{', '.join(ways[:-1])} and {ways[-1]}"


def _backs(lines: Sequence[NoteLine], total: int) -> list[int]:
    """What each line gives back, adding up to `total` even where a ceiling made the grant less than its lines."""
    backs = [line.back for line in lines]
    return backs if sum(backs) == total else split(total, backs)


def _where_rounding_decides(lines: Sequence[NoteLine], backs: Sequence[int], automatic_tax: bool) -> int | None:
    open_to_it = [
        index
        for index, line in enumerate(lines)
        if backs[index] and (automatic_tax or line.amount != line.net or line.tax)
    ]
    return max(open_to_it, key=lambda index: abs(backs[index]), default=None)


def _line(line: NoteLine, back: int, automatic_tax: bool, as_billed: bool, nudge: int) -> Body:
    exclusive = [tax for tax in line.taxes if not tax["inclusive"] and tax["amount"]]
    inside = has_tax_inside(line) if automatic_tax and not as_billed else 0
    before_tax = back
    if line.tax or inside:
        before_tax = round_half_up(Fraction(back * (line.net - inside), line.net + line.tax))
    body: Body = {
        "type": "invoice_line_item",
        "invoice_line_item": line.id,
        "amount": _before_discounts(before_tax, line) + nudge,
    }
    if exclusive and not automatic_tax:
        shares = split(back - before_tax, [tax["amount"] for tax in exclusive])
        body["tax_amounts"] = [
            {"amount": share, "tax_rate": tax["tax_rate"], "taxable_amount": before_tax}
            for share, tax in zip(shares, exclusive, strict=True)
        ]
    return body


def has_tax_inside(line: NoteLine) -> int:
    """How much of the line's net is tax."""
    return sum(int(tax["amount"]) for tax in line.taxes if tax["inclusive"])


def _before_discounts(after: int, line: NoteLine) -> int:
    """The amount of the line that leaves `after` once its discount is taken off in proportion, rounded half up."""
    if line.amount == line.net or line.net == 0:
        return after
    off = Fraction(line.amount - line.net, line.amount)
    gross = round_half_up(Fraction(after * line.amount, line.net))
    while gross - round_half_up(gross * off) > after:
        gross -= 1
    while gross - round_half_up(gross * off) < after:
        gross += 1
    return gross
