"""Facts into the mirror, many at once and any number of times: the same facts a second time change nothing."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.batches import Batch, Reading, Remarks
from billing.counters import recount
from billing.facts import (
    CreditNoteFact,
    CustomerFact,
    DisputeFact,
    InvoiceFact,
    PaymentFact,
    PlanFact,
    RefundFact,
    SubscriptionFact,
)
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
)
from billing.owners import Homes, is_of, is_sold_in, move, owners_of_customers, owners_of_payments
from billing.rows import (
    balance_entry_row,
    credit_note_row,
    customer_row,
    line_rows,
    refund_row,
    row_of,
    step_of,
)
from billing.upserts import added, text_array, upsert
from billing.weighing import weigh_from_stripe

OUTSIDE_THE_SESSION: Final = {"synchronize_session": False}


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


F = TypeVar("F", bound=_Identified)


def record(
    session: Session, reading: Reading, batch: Batch, *, counting: bool = True, owner: int | None = None
) -> Remarks:
    """Write everything in `batch` that is not older than what the mirror has, in an order that its keys allow.

    `counting=False` leaves the payments' counters to a `recount_all` at the end of an import. `owner` is the agency of
    all that is in the batch where we made it ourselves: refunds with the note that made them, invoices, entries.
    """
    remarks = Remarks()
    homes = Homes(session, reading.account, owner)
    _plans(session, reading, homes, batch.plans, remarks)
    _customers(session, reading, homes, batch.customers, remarks)
    named = {fact.customer_id for fact in batch.subscriptions} | {fact.customer_id for fact in batch.invoices}
    named |= {fact.customer_id for fact in batch.balance_entries}
    owners = _owners(owner, named) or (owners_of_customers(session, reading.account, named) if named else {})
    record_subscriptions(session, reading, batch.subscriptions, owners)
    record_invoices(session, reading, batch.invoices, owners)
    _payments(session, batch.payments)
    if owner is None:
        _refunds(session, reading, homes, batch.refunds)
        new: set[str] = set()
    else:
        new = _own_refunds(session, reading, owner, batch)
    _credit_notes(session, reading, batch.credit_notes, owner)
    _disputes(session, reading, homes, batch.disputes)
    entries = [
        balance_entry_row(fact, reading.engine, agency_id=owners[fact.customer_id])
        for fact in batch.balance_entries
        if fact.customer_id in owners
    ]
    upsert(session, BalanceEntry, entries, cling=["step_id"])
    if counting:
        _recount(session, batch, new)
    return remarks


def record_subscriptions(
    session: Session, reading: Reading, facts: Sequence[SubscriptionFact], owners: dict[str, int]
) -> None:
    """`owners` says whose each customer is; who has none is left out."""
    facts = [fact for fact in _newer(session, Subscription, facts, reading.at) if fact.customer_id in owners]
    if not facts:
        return
    homes = {fact.id: owners[fact.customer_id] for fact in facts}
    upsert(
        session,
        Subscription,
        [row_of(Subscription, fact, agency_id=homes[fact.id], synced_at=reading.at) for fact in facts],
    )
    plans = _metered(session, reading.account, {item.plan_id for fact in facts for item in fact.items})
    items = [
        row_of(SubscriptionItem, item, agency_id=homes[fact.id], subscription_id=fact.id)
        for fact in facts
        for item in fact.items
        if item.plan_id in plans
    ]
    gone = SubscriptionItem.subscription_id == sa.any_(text_array(homes))
    _delete_others(session, SubscriptionItem, gone, items)
    upsert(session, SubscriptionItem, items)


def record_invoices(session: Session, reading: Reading, facts: Sequence[InvoiceFact], owners: dict[str, int]) -> None:
    """With lines, and with payments where Stripe listed them. `owners` says whose each customer is."""
    facts = [fact for fact in _newer(session, Invoice, facts, reading.at) if fact.customer_id in owners]
    if not facts:
        return
    homes = {fact.id: owners[fact.customer_id] for fact in facts}
    upsert(
        session,
        Invoice,
        [row_of(Invoice, fact, agency_id=homes[fact.id], synced_at=reading.at) for fact in facts],
    )
    plans = _metered(session, reading.account, {line.plan_id for fact in facts for line in fact.lines if line.plan_id})
    lines = [row for fact in facts for row in line_rows(fact, plans, agency_id=homes[fact.id])]
    gone = InvoiceLine.invoice_id == sa.any_(text_array(homes))
    _delete_others(session, InvoiceLine, gone, lines)
    upsert(session, InvoiceLine, lines)
    _payments(session, [payment for fact in facts for payment in fact.payments or ()])


def _plans(session: Session, reading: Reading, homes: Homes, facts: Sequence[PlanFact], remarks: Remarks) -> None:
    facts = _newer(session, Plan, facts, reading.at)
    if not facts:
        return
    named = Plan.id == sa.any_(text_array([fact.id for fact in facts]))
    held = dict(session.execute(sa.select(Plan.id, is_sold_in(reading.account)).where(named)).all())
    known = {id for id, is_here in held.items() if is_here}
    for id in sorted(held.keys() - known):
        remarks.sentences.add(
            f"The price {id} of {reading.account or 'the operator'} is left out, with what was billed for it: another"
            " Stripe account has one of this id. Move its customers to a new price there, and import again."
        )
    facts = [fact for fact in facts if fact.id not in held.keys() - known]
    home = None if homes.shared else homes.default
    upsert(session, Plan, [row_of(Plan, fact, agency_id=home, synced_at=reading.at) for fact in facts])
    remarks.sentences.update(weigh_from_stripe(session, facts, known))


def _customers(
    session: Session, reading: Reading, homes: Homes, facts: Sequence[CustomerFact], remarks: Remarks
) -> None:
    facts = _newer(session, Customer, facts, reading.at, is_of(Customer.agency_id, reading.account))
    if not facts:
        return
    owners = owners_of_customers(session, reading.account, [fact.id for fact in facts])
    for fact in facts:
        if homes.unknown(fact):
            remarks.unknown_agencies[fact.agency or ""] += 1
        wanted, has = homes.of(fact), owners.setdefault(fact.id, homes.of(fact))
        if fact.deleted or wanted == has:
            continue
        if move(session, fact.id, has, wanted):
            owners[fact.id] = wanted
        else:
            remarks.sentences.add(f"{fact.id} stays where it was: an incident has dealt with it under that agency.")
    alive = [
        customer_row(fact, agency_id=owners[fact.id], created_at=reading.at, synced_at=reading.at)
        for fact in facts
        if not fact.deleted
    ]
    upsert(session, Customer, alive)
    gone = [
        {"agency_id": owners[fact.id], "id": fact.id, "deleted": True, "created_at": reading.at}
        for fact in facts
        if fact.deleted
    ]
    _mark_deleted(session, gone)


def _mark_deleted(session: Session, rows: list[dict[str, Any]]) -> None:
    """A deleted customer keeps its name and address here: its invoices still have to be explained."""
    if rows:
        adding = insert(Customer).values(rows)
        session.execute(
            adding.on_conflict_do_update(
                index_elements=["id", "agency_id"], set_={"deleted": True}, where=~Customer.deleted
            )
        )


def _owners_of_invoices(session: Session, invoices: Collection[str]) -> dict[str, int]:
    found = session.execute(sa.select(Invoice.id, Invoice.agency_id).where(Invoice.id == sa.any_(text_array(invoices))))
    return dict(found.all())


def _payments(session: Session, facts: Sequence[PaymentFact]) -> None:
    """Of invoices in the mirror; what we ourselves reserved and refunded is not touched."""
    invoices = {fact.invoice_id for fact in facts}
    if not invoices:
        return
    homes = _owners_of_invoices(session, invoices)
    upsert(
        session,
        Payment,
        [row_of(Payment, fact, agency_id=homes[fact.invoice_id]) for fact in facts if fact.invoice_id in homes],
    )


def _owners(owner: int | None, ids: Iterable[str]) -> dict[str, int]:
    return {} if owner is None else dict.fromkeys(ids, owner)


def _refunds(session: Session, reading: Reading, homes: Homes, facts: Sequence[RefundFact]) -> None:
    facts = _newer(session, Refund, facts, reading.at)
    if not facts:
        return
    owners = _owners_of_money(session, reading.account, facts)
    rows = [
        refund_row(fact, reading.engine, agency_id=owners.get(fact.id, homes.default), synced_at=reading.at)
        for fact in facts
    ]
    upsert(session, Refund, rows, cling=["step_id"])


def _own_refunds(session: Session, reading: Reading, owner: int, batch: Batch) -> set[str]:
    """Refunds that we made, linked to the notes that made them. Returns those of which nobody had known before us: they
    were never anybody else's, so no counter of others has to be looked at."""
    facts = _newer(session, Refund, batch.refunds, reading.at)
    makers = {refund: note for note in batch.credit_notes for refund, _ in note.refunds}
    rows = []
    for fact in facts:
        row = refund_row(fact, reading.engine, agency_id=owner, synced_at=reading.at, credit_note_id=None)
        if note := makers.get(fact.id):
            row |= {"credit_note_id": note.id, "step_id": row["step_id"] or step_of(note.metadata, reading.engine)}
        rows.append(row)
    ours = {row["id"] for row in rows if row["step_id"] is not None}
    return ours & added(session, Refund, rows, cling=["step_id", "credit_note_id"])


def _credit_notes(session: Session, reading: Reading, facts: Sequence[CreditNoteFact], owner: int | None) -> None:
    """Of invoices in the mirror."""
    facts = _newer(session, CreditNote, facts, reading.at)
    invoices = {fact.invoice_id for fact in facts}
    if not facts:
        return
    homes = _owners(owner, invoices) or _owners_of_invoices(session, invoices)
    rows = [
        credit_note_row(fact, reading.engine, agency_id=homes[fact.invoice_id], synced_at=reading.at)
        for fact in facts
        if fact.invoice_id in homes
    ]
    upsert(session, CreditNote, rows, cling=["step_id"])


def _disputes(session: Session, reading: Reading, homes: Homes, facts: Sequence[DisputeFact]) -> None:
    facts = _newer(session, Dispute, facts, reading.at)
    if not facts:
        return
    owners = _owners_of_money(session, reading.account, facts)
    rows = [row_of(Dispute, fact, agency_id=owners.get(fact.id, homes.default), synced_at=reading.at) for fact in facts]
    upsert(session, Dispute, rows)


def _owners_of_money(
    session: Session, account: str, facts: Sequence[RefundFact] | Sequence[DisputeFact]
) -> dict[str, int]:
    """By the invoice that was paid with it, else by its customer; what is neither's is left out."""
    of_payments = owners_of_payments(session, facts)
    customers = {getattr(fact, "customer_id", None) or "" for fact in facts}
    of_customers = owners_of_customers(session, account, customers)
    found: dict[str, int] = {}
    for fact in facts:
        for id, owners in (
            (getattr(fact, "customer_id", None), of_customers),
            (fact.charge, of_payments),
            (fact.payment_intent, of_payments),
        ):
            if id in owners:
                found[fact.id] = owners[id]
    return found


def _recount(session: Session, batch: Batch, new: Collection[str]) -> None:
    paid = [*batch.payments, *(payment for invoice in batch.invoices for payment in invoice.payments or ())]
    refunds = [refund for refund in batch.refunds if refund.id not in new]
    named: list[PaymentFact | RefundFact | DisputeFact] = [*paid, *refunds, *batch.disputes]
    intents = {fact.payment_intent for fact in named if fact.payment_intent}
    charges = {fact.charge for fact in named if fact.charge}
    known = {refund.id for refund in batch.refunds}
    linking = [note for note in batch.credit_notes if not known.issuperset(id for id, _ in note.refunds)]
    if linking:
        of = Payment.invoice_id == sa.any_(text_array({note.invoice_id for note in linking}))
        for intent, charge in session.execute(sa.select(Payment.payment_intent, Payment.charge).where(of)):
            intents |= {intent} if intent else set()
            charges |= {charge} if charge else set()
    recount(session, intents, charges)


def _newer(session: Session, model: Any, facts: Iterable[F], at: datetime, *among: sa.ColumnElement[bool]) -> list[F]:
    """The facts that are not older than what the mirror read later on; their rows are locked, always in one order."""
    facts = list(facts)
    if not facts:
        return facts
    ids = text_array([fact.id for fact in facts])
    found = sa.select(model.id, model.synced_at).where(model.id == sa.any_(ids), *among).order_by(model.id)
    rows = found.with_for_update(of=model, key_share=True)
    later = {id for id, read_at in session.execute(rows) if read_at > at}
    return [fact for fact in facts if fact.id not in later]


def _metered(session: Session, account: str, plans: Collection[str]) -> dict[str, bool]:
    """Whether each plan that is known in this account is usage-based."""
    known = sa.select(Plan.id, Plan.metered).where(Plan.id == sa.any_(text_array(plans)), is_sold_in(account))
    return dict(session.execute(known).all())


def _delete_others(
    session: Session, model: Any, within: sa.ColumnElement[bool], rows: Sequence[dict[str, Any]]
) -> None:
    kept = text_array([row["id"] for row in rows])
    session.execute(
        sa.delete(model).where(within, model.id != sa.all_(kept)), execution_options={"synchronize_session": False}
    )
