"""Whom a plan reaches, each once, the renewals that its pause holds, and the plans whose weights were refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.money import Money, plain
from billing.outages.planning_sql import sums
from billing.windows import iso

AHEAD: Final = timedelta(days=30)
"""How far renewals are looked for: a monthly one comes once within it, as a rule."""


@dataclass(frozen=True)
class Reach:
    """Customers, subscriptions and invoices that get something back or are paused, each counted once.

    `renewals`, one entry per currency, are what the pause keeps from being collected: drafts and open invoices that
    exist (`existing`), with what is still due, and the next renewal of each subscription that has one until `until`,
    at the list price of what is billed ahead, before discounts and tax. `unpriced` of them have an item whose price
    only usage or a tier will tell. A subscription that ends with its period, or that somebody else paused, has none.
    """

    customers: int
    subscriptions: int
    invoices: int
    until: datetime
    renewals: Sequence[Mapping[str, Any]]
    given_elsewhere: Sequence[Mapping[str, Any]]
    """Per currency, by how much the grants of how many invoices are smaller, down to nothing, as others gave back a
    part of them, or a bank did."""
    weights_refused: Sequence[Mapping[str, Any]]
    """The plans that these agencies sell, or have sold for this time, whose weights in Stripe were not taken."""

    def to_json(self) -> dict[str, Any]:
        return {
            "customers": self.customers, "subscriptions": self.subscriptions, "invoices": self.invoices,
            "renewals": self.renewals, "renewals_until": iso(self.until),
            "given_elsewhere": self.given_elsewhere, "weights_refused": self.weights_refused,
        }  # fmt: skip

    def in_words(self) -> list[str]:
        counts = f"{self.customers:,} customers, {self.subscriptions:,} subscriptions and {self.invoices:,} invoices"
        said = [f"  {counts} are affected."]
        for one in self.renewals:
            existing = f", {one['existing']:,} of them billed already" if one["existing"] else ""
            unpriced = f", {one['unpriced']:,} with usage that is not known yet" if one["unpriced"] else ""
            amount = plain(Money(one["amount"], one["currency"]))
            said.append(
                f"  {one['renewals']:,} renewals until {iso(self.until)} are held: {amount}{existing}{unpriced}."
            )
        for one in self.given_elsewhere:
            amount = plain(Money(one["amount"], one["currency"]))
            said.append(f"  Less {amount} for what others gave back of {one['invoices']:,} invoices.")
        if self.weights_refused:
            plans = ", ".join(f"{one['name']} ({one['plan']})" for one in self.weights_refused)
            said.append(
                f"  The weights of {plans} in Stripe were refused, so that those of before count, or none: correct"
                " platform_weights there and import again, or set them with `flask plans weigh`."
            )
        return said


def of(session: Session, as_of: datetime) -> Reach:
    """The reach of the plan that this transaction made last."""
    until = as_of + AHEAD
    reached = session.execute(sa.text(sums.REACH)).one()
    renewals = [dict(row) for row in session.execute(sa.text(sums.RENEWALS), {"until": until}).mappings()]
    by_others = [dict(row) for row in session.execute(sa.text(sums.BY_OTHERS)).mappings()]
    refused = [dict(row) for row in session.execute(sa.text(sums.WEIGHTS_REFUSED)).mappings()]
    return Reach(reached.customers, reached.subscriptions, reached.invoices, until, renewals, by_others, refused)
