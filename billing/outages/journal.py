"""Journal entries of what an incident gave back: double entry, debits = credits in each entry. Pure.

Accounts carry the names that a chart of accounts gives them; whoever books them maps the names once. Amounts are
integers of the currency's smallest Stripe unit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final, Protocol

from billing.money import round_half_up

ALLOWANCES: Final = "Refunds and allowances"
"""Contra revenue: what had been charged for time that was not served, without its tax."""
TAX: Final = "Tax payable"
STRIPE: Final = "Stripe balance"
IN_TRANSIT: Final = "Refunds in transit"
CREDIT: Final = "Customer credit balances"
RECEIVABLE: Final = "Accounts receivable"
PAYABLE: Final = "Payable to customers"
"""What a person has to pay back: it was paid outside Stripe, or its refund came back from the bank."""
OUTSIDE: Final = "Paid outside Stripe"
"""Whatever account people pay from by hand."""

BOOKED: Final = ("succeeded", "pending", "needs_person", "failed")


class Given(Protocol):
    """What entries are made of: one grant with its documents, as `billing.outages.report.Document` describes it."""

    @property
    def agency(self) -> str: ...
    @property
    def customer(self) -> str: ...
    @property
    def invoice(self) -> str: ...
    @property
    def credit_note(self) -> str: ...
    @property
    def balance_entry(self) -> str: ...
    @property
    def currency(self) -> str: ...
    @property
    def amount(self) -> int: ...
    @property
    def refund(self) -> int: ...
    @property
    def credit(self) -> int: ...
    @property
    def reduce(self) -> int: ...
    @property
    def out_of_band(self) -> int: ...
    @property
    def tax(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def on(self) -> datetime | None: ...
    @property
    def returned(self) -> int: ...
    @property
    def returned_on(self) -> datetime | None: ...
    @property
    def let_go(self) -> int: ...
    @property
    def let_go_on(self) -> datetime | None: ...
    @property
    def stands_in(self) -> int: ...
    @property
    def by_hand(self) -> int: ...
    @property
    def paid_on(self) -> datetime | None: ...


@dataclass(frozen=True)
class Posting:
    """One line of one entry: either `debit` or `credit` is 0, neither is negative."""

    entry: int
    on: datetime
    agency: str
    document: str
    account: str
    debit: int
    credit: int
    currency: str
    memo: str


Side = tuple[str, int, int]
"""Account, debit, credit."""


def postings(given: Iterable[Given], incident: str) -> Iterator[Posting]:
    """The entries of what Stripe has a document for, or a person has paid, numbered from 1; the rest is not booked.

    A refund that came back is booked twice: as it went out, and back, when it is owed to the customer again. Whatever
    stands in for it settles that, and is no allowance of its own. Where that was called off, what takes its place is
    one, and what came back is none any more.
    """
    number = 0
    for one in given:
        if one.state not in BOOKED:
            continue
        for on, sides in _entries(one):
            moved = [side for side in sides if side[1] or side[2]]
            number += bool(moved)
            for account, debit, credit in moved:
                yield Posting(
                    number, on, one.agency, one.credit_note or one.balance_entry or one.invoice, account, debit, credit,
                    one.currency, f"{incident}: invoice {one.invoice} of {one.customer}",
                )  # fmt: skip


def _entries(one: Given) -> Iterator[tuple[datetime, list[Side]]]:
    on = one.on or one.paid_on
    if on is None:
        return
    stands = one.state != "failed"
    allowed = stands * one.amount + one.returned - one.stands_in
    tax = round_half_up(Fraction(one.tax * allowed, one.amount))
    settled = one.stands_in - stands * one.out_of_band
    given: list[Side] = [
        (ALLOWANCES, allowed - tax, 0),
        (TAX, tax, 0),
        (PAYABLE, max(0, settled), max(0, -settled)),
        (IN_TRANSIT if one.state == "pending" else STRIPE, 0, stands * one.refund + one.returned),
        (CREDIT, 0, one.credit),
        (RECEIVABLE, 0, one.reduce),
    ]
    yield on, given
    if one.returned and one.returned_on:
        yield max(on, one.returned_on), [(STRIPE, one.returned, 0), (PAYABLE, 0, one.returned)]
    if one.let_go and one.let_go_on:
        tax = round_half_up(Fraction(one.tax * one.let_go, one.amount))
        yield max(on, one.let_go_on), [(PAYABLE, one.let_go, 0), (ALLOWANCES, 0, one.let_go - tax), (TAX, 0, tax)]
    if one.by_hand and one.paid_on:
        yield one.paid_on, [(PAYABLE, one.by_hand, 0), (OUTSIDE, 0, one.by_hand)]
