"""What really happened in the sandbox, and what should have: what the demo holds against the product's own word."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

from sandbox.calls import Api
from sandbox.cases import OUTAGE, Parts, World

PLATFORM: Final = "facebook"
WHOLE: Final = 10_000
"""Basis points."""
GOOD: Final = ("succeeded", "pending")
"""States of a refund whose money is with the customer, or on its way."""
GIVING: Final = ("adjustment", "credit_note")
"""Entries of a customer's balance that give something, as against those that spend it."""


@dataclass(frozen=True)
class Ledger:
    """`/_sandbox/ledger` at one moment, by customer."""

    given: Mapping[str, Parts]
    """Customer -> what went back so far, by channel, whoever gave it."""
    currency: Mapping[str, str]
    """Customer -> currency."""
    charges: Mapping[str, dict[str, Any]]
    pauses: Mapping[str, dict[str, Any] | None]
    """Subscription -> its `pause_collection`."""
    unbalanced: list[dict[str, Any]] = field(default_factory=list)
    """Sums that do not add up: a bug of the sandbox."""
    twice: list[str] = field(default_factory=list)
    """Steps of the product that are in Stripe more than once."""
    beyond: list[str] = field(default_factory=list)
    """Charges of which more was taken back than came in."""


def ledger(api: Api) -> Ledger:
    """Read the truth."""
    books = api.control("ledger")
    given: dict[str, Counter[str]] = defaultdict(Counter)
    currency: dict[str, str] = {}
    made: Counter[tuple[str, str]] = Counter()
    for charge in books["charges"]:
        currency[charge["customer"]] = charge["currency"]
        for refund in charge["refunds"]:
            if refund["status"] in GOOD:
                given[charge["customer"]]["refund"] += refund["amount"]
            made["refund", refund["metadata"].get("step", "")] += 1
    for note in books["credit_notes"]:
        currency[note["customer"]] = note["currency"]
        given[note["customer"]]["reduce"] += note["pre_payment_amount"]
        given[note["customer"]]["out_of_band"] += note["out_of_band_amount"] or 0
        made["credit note", note["metadata"].get("step", "")] += 1
    for entry in books["balance_transactions"]:
        currency[entry["customer"]] = entry["currency"]
        if entry["type"] in GIVING:
            given[entry["customer"]]["credit"] -= entry["amount"]
        if entry["type"] == "adjustment":
            made["balance entry", entry["metadata"].get("step", "")] += 1
    return Ledger(
        given={customer: _only_some(parts) for customer, parts in given.items()},
        currency=currency,
        charges={charge["charge"]: charge for charge in books["charges"]},
        pauses={one["id"]: one["pause_collection"] for one in books["subscriptions"]},
        unbalanced=[sums for sums in books["sums"] if sums["difference"]],
        twice=[f"{kind} of step {step}" for (kind, step), times in made.items() if step and times > 1],
        beyond=[one["charge"] for one in books["charges"] if one["refunded"] + one["disputed"] > one["captured"]],
    )


def between(before: Ledger, after: Ledger) -> dict[str, Parts]:
    """Customer -> what went back between two moments, by channel."""
    found = {}
    for customer, parts in after.given.items():
        more = Counter(parts)
        more.subtract(before.given.get(customer, {}))
        found[customer] = _only_some(more)
    return {customer: parts for customer, parts in found.items() if parts}


def per_currency(given: Mapping[str, Parts], currency: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Currency -> sums by channel. Amounts of different currencies are never added."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for customer, parts in given.items():
        sums[currency[customer]].update(parts)
    return dict(sorted(sums.items()))


def owed(world: World, invoices: Iterable[Mapping[str, Any]], until: datetime) -> Counter[str]:
    """Customer -> what the outage from its beginning to `until` took from these invoices; each is rounded half up.

    Worked out from Stripe's invoices alone, one by one and exactly: a second opinion on the product's plan. Right for
    customers to whom nothing else happened, as in the story's crowd.
    """
    found: Counter[str] = Counter()
    for invoice in invoices:
        if invoice["status"] in ("paid", "open", "draft"):
            whole = sum((_lost(world, line, until) for line in invoice["lines"]["data"]), Fraction(0))
            found[invoice["customer"]] += int(whole + Fraction(1, 2))
    return +found


def _lost(world: World, line: Mapping[str, Any], until: datetime) -> Fraction:
    paid = line["amount"] - sum(one["amount"] for one in line["discount_amounts"] or ())
    paid += sum(tax["amount"] for tax in line["taxes"] or () if tax["tax_behavior"] == "exclusive")
    weight = world.weights[line["pricing"]["price_details"]["price"]].get(PLATFORM, 0)
    start, end = line["period"]["start"], line["period"]["end"]
    without = max(0, min(end, int(until.timestamp())) - max(start, int(OUTAGE.timestamp())))
    return Fraction(paid * weight * without, WHOLE * (end - start)) if without else Fraction(0)


def _only_some(parts: Mapping[str, int]) -> Parts:
    return {channel: amount for channel, amount in parts.items() if amount}
