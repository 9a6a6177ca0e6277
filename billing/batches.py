"""Facts that are written into the mirror together: where and when they were read, and what could not be taken. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime

from billing.facts import (
    BalanceEntryFact,
    CreditNoteFact,
    CustomerFact,
    DisputeFact,
    InvoiceFact,
    PaymentFact,
    PlanFact,
    RefundFact,
    SubscriptionFact,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """Where and when facts were read. `at` is the database's time before Stripe was asked; `engine` names us there."""

    account: str
    engine: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts to be written together."""

    plans: Sequence[PlanFact] = ()
    customers: Sequence[CustomerFact] = ()
    subscriptions: Sequence[SubscriptionFact] = ()
    invoices: Sequence[InvoiceFact] = ()
    payments: Sequence[PaymentFact] = ()
    refunds: Sequence[RefundFact] = ()
    credit_notes: Sequence[CreditNoteFact] = ()
    disputes: Sequence[DisputeFact] = ()
    balance_entries: Sequence[BalanceEntryFact] = ()


def merged(batches: Iterable[Batch]) -> Batch:
    """All of it in one: of two facts about one object the later counts."""
    batches = list(batches)
    return Batch(
        **{
            field.name: list({fact.id: fact for batch in batches for fact in getattr(batch, field.name)}.values())
            for field in fields(Batch)
        }
    )


@dataclass(slots=True)
class Remarks:
    """What could not be taken as it stands in Stripe, for a person to read."""

    unknown_agencies: Counter[str] = field(default_factory=Counter)
    sentences: set[str] = field(default_factory=set)

    def add(self, other: "Remarks") -> None:
        self.unknown_agencies += other.unknown_agencies
        self.sentences |= other.sentences

    def lines(self) -> list[str]:
        named = [
            f"{count:,} {'customer names' if count == 1 else 'customers name'} the agency {slug!r}, which is not here: "
            "they are under the operator's. Make it with `flask agencies create` and import again."
            for slug, count in sorted(self.unknown_agencies.items())
        ]
        return named + sorted(self.sentences)
