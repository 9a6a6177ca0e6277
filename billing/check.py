"""The mirror held against Stripe, object by object: every difference is shown, none is hidden, nothing is changed."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import reads, rows
from billing.answers import Gone
from billing.counters import miscounted
from billing.errors import BadRequest
from billing.facts import CreditNoteFact, CustomerFact, InvoiceFact, PlanFact, SubscriptionFact
from billing.gateway import connect, engine
from billing.models import (
    BalanceEntry,
    CreditNote,
    Customer,
    Dispute,
    Invoice,
    InvoiceLine,
    Payment,
    Plan,
    Refund,
    Subscription,
    SubscriptionItem,
    SyncCursor,
)
from billing.owners import Homes, is_sold_in
from billing.reads import Kind
from billing.upserts import text_array
from billing.walks import AHEAD, BEGINNING, Walk
from billing.weighing import platforms_known, weights_in, weights_of
from tenants.db import OPERATOR
from tenants.house import House

MISSING: Final = "missing"


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing about one object that is not the same; `what` is a column's name, or `missing` on one side."""

    kind: str
    id: str
    what: str
    here: str
    there: str

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "id": self.id, "what": self.what, "here": self.here, "there": self.there}

    def __str__(self) -> str:
        if self.what == MISSING:
            is_in, is_not = ("Stripe", "here") if self.here == MISSING else ("the mirror", "in Stripe")
            return f"{self.kind} {self.id} is in {is_in} and not {is_not}."
        return f"{self.kind} {self.id}: {self.what} is {self.here} here and {self.there} in Stripe."


def check(house: House, account: str, since: datetime = BEGINNING) -> list[Difference]:
    """Every difference between the mirror of one Stripe account and Stripe as it is now, in order; [] when they agree.

    Invoices that the import left out are left out here, and so is of what was billed and given back whatever was made
    before `since`. While customers are being billed, an object may change between the mirror's last look and this one.
    """
    found = _Found(house, account, since)
    until = house.clock.now() + AHEAD
    for kind, model, compare, start in (
        (reads.PLAN, Plan, _plans, BEGINNING),
        (reads.CUSTOMER, Customer, _customers, BEGINNING),
        (reads.SUBSCRIPTION, Subscription, _subscriptions, BEGINNING),
        (reads.INVOICE, Invoice, _invoices, max(found.since, since)),
        (reads.REFUND, Refund, _refunds, since),
        (reads.CREDIT_NOTE, CreditNote, _credit_notes, max(found.since, since)),
        (reads.DISPUTE, Dispute, _disputes, since),
    ):
        found.walk(kind, model, compare, start, until)
    found.balances()
    with house.database.work(OPERATOR) as session:
        for payment, counter, here, there in miscounted(session, found.agencies):
            found.differences.add(Difference("payment", payment, counter, _shown(here), _shown(there)))
    return sorted(found.differences)


@dataclass(slots=True)
class _Found:
    house: House
    account: str
    recent: datetime = BEGINNING
    engine: str = ""
    agencies: list[int] = field(default_factory=list)
    homes: Homes = field(init=False)
    since: datetime = BEGINNING
    differences: set[Difference] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.engine = engine(self.house)
        with self.house.database.work(OPERATOR) as session:
            self.homes = Homes(session, self.account)
            cursor = session.get(SyncCursor, self.account)
            self.since = (cursor and cursor.invoices_since) or BEGINNING
        self.agencies = [self.homes.default, *self.homes.by_slug.values()]

    def walk(self, kind: Kind[Any], model: Any, compare: "Compare", start: datetime, until: datetime) -> None:
        """Compare every object of one kind, then name those of the mirror that Stripe did not show."""
        seen: set[str] = set()
        lock = threading.Lock()

        def take(_at: datetime, facts: Sequence[Any]) -> None:
            with self.house.database.work(OPERATOR) as session:
                differences = set(compare(session, self, facts))
            with lock:
                seen.update(fact.id for fact in facts)
                self.differences |= differences

        Walk(self.house, self.account, kind, take, remember=False).over(start, until, lambda done, total: None)
        with self.house.database.work(OPERATOR) as session:
            here = set(session.scalars(sa.select(model.id).where(self._listed(model))))
        name = _name(model)
        self.differences |= {Difference(name, id, MISSING, "there", "missing") for id in here - seen}

    def balances(self) -> None:
        """The entries of every customer that has any here, or a balance in Stripe."""
        with self.house.database.work(OPERATOR) as session:
            having = (
                sa.select(Customer.id).where(
                    Customer.balance != 0, Customer.agency_id.in_(self.agencies), ~Customer.deleted
                ),
                sa.select(BalanceEntry.customer_id).where(BalanceEntry.agency_id.in_(self.agencies)),
            )
            customers = sorted(session.scalars(sa.union(*having)))
        for customer in customers:
            try:
                entries = connect(self.house, self.account).balance_entries(customer)
            except Gone:
                continue
            wanted = {entry.id: rows.balance_entry_row(entry, self.engine) for entry in entries}
            with self.house.database.work(OPERATOR) as session:
                within = (BalanceEntry.customer_id == customer) & BalanceEntry.agency_id.in_(self.agencies)
                self.differences |= set(_held(session, BalanceEntry, wanted, within))

    def _listed(self, model: Any) -> sa.ColumnElement[bool]:
        """Which rows of the mirror Stripe's list should show."""
        if model is Plan:
            return Plan.agency_id.is_(None) if self.homes.shared else Plan.agency_id == self.homes.default
        ours: sa.ColumnElement[bool] = model.agency_id.in_(self.agencies)
        if model is Customer:
            return ours & ~Customer.deleted
        if model is Invoice:
            return ours & (Invoice.status != "deleted") & (Invoice.created_at >= max(self.since, self.recent))
        if model is CreditNote:
            return ours & (CreditNote.created_at >= max(self.since, self.recent))
        if model in (Refund, Dispute):
            ours &= model.created_at >= self.recent
        return ours


Compare = Callable[[Session, _Found, Sequence[Any]], Iterable[Difference]]


def _plans(session: Session, found: _Found, facts: Sequence[PlanFact]) -> Iterator[Difference]:
    wanted = {fact.id: rows.row_of(Plan, fact) for fact in facts}
    here = is_sold_in(found.account) & (Plan.id == sa.any_(text_array(wanted)))
    yield from _held(session, Plan, wanted, here)
    weights = weights_of(session, session.scalars(sa.select(Plan.id).where(here)).all())
    known = platforms_known(session)
    for fact in facts:
        try:
            there = weights_in(fact, known)
        except BadRequest:  # the import said so, and left the plan's weights as they were
            continue
        if fact.id in weights and weights[fact.id] != there:
            yield Difference("plan", fact.id, "weights", _weights(weights[fact.id]), _weights(there))


def _customers(session: Session, found: _Found, facts: Sequence[CustomerFact]) -> Iterator[Difference]:
    wanted = {fact.id: rows.customer_row(fact, agency_id=found.homes.of(fact)) for fact in facts}
    within = Customer.agency_id.in_(found.agencies) & (Customer.id == sa.any_(text_array(wanted)))
    yield from _held(session, Customer, wanted, within)


def _subscriptions(session: Session, found: _Found, facts: Sequence[SubscriptionFact]) -> Iterator[Difference]:
    yield from _held(session, Subscription, {fact.id: rows.row_of(Subscription, fact) for fact in facts})
    items = {
        item.id: rows.row_of(SubscriptionItem, item, subscription_id=fact.id) for fact in facts for item in fact.items
    }
    within = SubscriptionItem.subscription_id == sa.any_(text_array([fact.id for fact in facts]))
    yield from _held(session, SubscriptionItem, items, within)


def _invoices(session: Session, found: _Found, facts: Sequence[InvoiceFact]) -> Iterator[Difference]:
    yield from _held(session, Invoice, {fact.id: rows.row_of(Invoice, fact) for fact in facts})
    metered = dict(session.execute(sa.select(Plan.id, Plan.metered).where(is_sold_in(found.account))).all())
    lines = {row["id"]: row for fact in facts for row in rows.line_rows(fact, metered)}
    ids = text_array([fact.id for fact in facts])
    yield from _held(session, InvoiceLine, lines, InvoiceLine.invoice_id == sa.any_(ids))
    listed = [fact for fact in facts if fact.payments is not None]
    payments = {payment.id: rows.row_of(Payment, payment) for fact in listed for payment in fact.payments or ()}
    within = Payment.invoice_id == sa.any_(text_array([fact.id for fact in listed]))
    yield from _held(session, Payment, payments, within)


def _refunds(session: Session, found: _Found, facts: Sequence[Any]) -> Iterator[Difference]:
    yield from _held(session, Refund, {fact.id: _stepped(rows.refund_row(fact, found.engine)) for fact in facts})


def _credit_notes(session: Session, found: _Found, facts: Sequence[CreditNoteFact]) -> Iterator[Difference]:
    if found.since != BEGINNING:
        invoices = sa.select(Invoice.id).where(Invoice.id == sa.any_(text_array([fact.invoice_id for fact in facts])))
        kept = set(session.scalars(invoices))
        facts = [fact for fact in facts if fact.invoice_id in kept]
    wanted = {fact.id: _stepped(rows.credit_note_row(fact, found.engine)) for fact in facts}
    yield from _held(session, CreditNote, wanted)


def _disputes(session: Session, found: _Found, facts: Sequence[Any]) -> Iterator[Difference]:
    yield from _held(session, Dispute, {fact.id: rows.row_of(Dispute, fact) for fact in facts})


def _held(
    session: Session,
    model: Any,
    wanted: Mapping[str, Mapping[str, Any]],
    within: sa.ColumnElement[bool] | None = None,
) -> Iterator[Difference]:
    """What is not the same between rows as they should be and the table; `within`: all that should be there."""
    table, name = model.__table__, _name(model)
    which = table.c.id == sa.any_(text_array(wanted)) if within is None else within
    here = {row["id"]: row for row in session.execute(sa.select(table).where(which)).mappings()}
    for id in here.keys() - wanted.keys():
        yield Difference(name, id, MISSING, "there", "missing")
    for id, row in wanted.items():
        if id not in here:
            yield Difference(name, id, MISSING, "missing", "there")
            continue
        for column, value in row.items():
            if here[id][column] != value:
                yield Difference(name, id, column, _shown(here[id][column]), _shown(value))


def _stepped(row: dict[str, Any]) -> dict[str, Any]:
    """A refund without metadata may be our step's all the same, through the note that made it."""
    if row["step_id"] is None:
        del row["step_id"]
    return row


def _name(model: Any) -> str:
    """`invoice_lines` is `invoice line`, `balance_entries` `balance entry`."""
    words: str = model.__table__.name.replace("_", " ")
    return words[:-3] + "y" if words.endswith("ies") else words.removesuffix("s")


def _weights(weights: Mapping[str, int]) -> str:
    return ",".join(f"{slug}={weight}" for slug, weight in sorted(weights.items())) or "none"


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return "none" if value is None else str(value)
