"""Journal entries of what an incident gave back: double entry, debits = credits in each entry. Pure.

Accounts carry the names that a chart of accounts gives them; whoever books them maps the names once. Amounts are
integers of the currency's smallest Stripe unit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

ALLOWANCES: Final = "Refunds and allowances"
"""Contra revenue: what had been charged for time that was not served, without its tax."""
TAX: Final = "Tax payable"
STRIPE: Final = "Stripe balance"
IN_TRANSIT: Final = "Refunds in transit"
CREDIT: Final = "Customer credit balances"
RECEIVABLE: Final = "Accounts receivable"
PAYABLE: Final = "Payable to customers"
"""What was paid outside Stripe, and a person has to pay back."""

BOOKED: Final = ("succeeded", "pending", "needs_person")


class Given(Protocol):
    """What an entry is made of: one grant with its document. `tax` is the tax in `amount`."""

    @property
    def agency(self) -> str: ...
    @property
    def customer(self) -> str: ...
    @property
    def invoice(self) -> str: ...
    @property
    def credit_note(self) -> str: ...
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


def postings(given: Iterable[Given], incident: str) -> Iterator[Posting]:
    """The entries of what Stripe has a document for, numbered from 1; what is still to be given is not booked."""
    number = 0
    for one in given:
        if one.on is None or one.state not in BOOKED:
            continue
        number += 1
        sides = [
            (ALLOWANCES, one.amount - one.tax, 0),
            (TAX, one.tax, 0),
            (IN_TRANSIT if one.state == "pending" else STRIPE, 0, one.refund),
            (CREDIT, 0, one.credit),
            (RECEIVABLE, 0, one.reduce),
            (PAYABLE, 0, one.out_of_band),
        ]
        for account, debit, credit in sides:
            if debit or credit:
                yield Posting(
                    number, one.on, one.agency, one.credit_note or one.invoice, account, debit, credit, one.currency,
                    f"{incident}: invoice {one.invoice} of {one.customer}",
                )  # fmt: skip
