"""One object as it is now, together with what it cannot stand without and what it changed."""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.answers import Gone
from billing.batches import Batch
from billing.facts import CreditNoteFact, InvoiceFact, RefundFact
from billing.gateway import engine
from billing.models import Customer, Invoice, Payment, Plan
from billing.owners import is_of, is_sold_in
from billing.reads import PAYMENT, Reads
from billing.rows import step_of
from billing.upserts import text_array
from tenants.db import OPERATOR
from tenants.house import House

Look = Callable[[House, Reads, str], tuple[Any, Batch]]


def completed(house: House, gateway: Reads, batch: Batch, *, invoices: bool = True) -> Batch:
    """The batch with every plan and customer (and invoice, unless an import leaves some out) that it names and that
    neither it nor the mirror has."""
    if invoices:
        named = {fact.invoice_id for fact in batch.credit_notes} | {fact.invoice_id for fact in batch.payments}
        missing = _unknown(house, Invoice, named - {fact.id for fact in batch.invoices})
        found = [whole_invoice(gateway, id) for id in missing]
        batch = replace(batch, invoices=[*batch.invoices, *found])
    plans = {item.plan_id for fact in batch.subscriptions for item in fact.items}
    plans |= {line.plan_id for fact in batch.invoices for line in fact.lines if line.plan_id}
    customers = {fact.customer_id for fact in batch.subscriptions} | {fact.customer_id for fact in batch.invoices}
    customers |= {fact.customer_id for fact in batch.balance_entries}
    plans -= {fact.id for fact in batch.plans}
    customers -= {fact.id for fact in batch.customers}
    new_plans, new_customers = [], []
    for id in _unknown(house, Plan, plans, is_sold_in(gateway.account)):
        with suppress(Gone):
            new_plans.append(gateway.plan(id))
    for id in _unknown(house, Customer, customers, is_of(Customer.agency_id, gateway.account)):
        new_customers.append(gateway.customer(id))
    return replace(batch, plans=[*batch.plans, *new_plans], customers=[*batch.customers, *new_customers])


def whole_invoice(gateway: Reads, id: str) -> InvoiceFact:
    """With its payments, however Stripe lists them."""
    invoice = gateway.invoice(id)
    return invoice if invoice.payments is not None else replace(invoice, payments=tuple(gateway.payments_of(id)))


def _plan(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    plan = gateway.plan(id)
    return plan, Batch(plans=[plan])


def _product(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    plans = gateway.plans_of(id)
    return plans, Batch(plans=plans)


def _customer(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    """With the entries of its balance, where that changed: they have no events of their own."""
    customer = gateway.customer(id)
    with house.database.work(OPERATOR) as session:
        of_account = is_of(Customer.agency_id, gateway.account)
        known = session.scalar(sa.select(Customer.balance).where(Customer.id == id, of_account))
    changed = not customer.deleted and customer.balance != (known or 0)
    return customer, Batch(customers=[customer], balance_entries=gateway.balance_entries(id) if changed else ())


def _subscription(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    subscription = gateway.subscription(id)
    return subscription, Batch(subscriptions=[subscription])


def _invoice(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    invoice = whole_invoice(gateway, id)
    return invoice, Batch(invoices=[invoice])


def _payment(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    payment = gateway.one(PAYMENT, id)
    return payment, Batch(invoices=[whole_invoice(gateway, payment.invoice_id)])


def _refund(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    """A refund that does not say whose it is may be a credit note's: then it is the note's step that made it."""
    refund = gateway.refund(id)
    notes: list[CreditNoteFact] = []
    if step_of(refund.metadata, engine(house)) is None:
        of_invoices = [
            note for invoice in _invoices_of(house, gateway, refund) for note in gateway.credit_notes(invoice)
        ]
        notes = [note for note in of_invoices if id in dict(note.refunds)]
    return refund, Batch(refunds=[refund], credit_notes=notes)


def _credit_note(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    """With the invoice that it changed, the refunds that it made, and the balance that it raised."""
    note = gateway.credit_note(id)
    refunds = [gateway.refund(refund) for refund, _ in note.refunds if refund.startswith(("re_", "pyr_"))]
    batch = Batch(invoices=[whole_invoice(gateway, note.invoice_id)], refunds=refunds, credit_notes=[note])
    if note.credited:
        customer = gateway.customer(note.customer_id)
        entries = () if customer.deleted else gateway.balance_entries(note.customer_id)
        batch = replace(batch, customers=[customer], balance_entries=entries)
    return note, batch


def _dispute(house: House, gateway: Reads, id: str) -> tuple[Any, Batch]:
    dispute = gateway.dispute(id)
    return dispute, Batch(disputes=[dispute])


LOOKS: Final[dict[str, Look]] = {
    "price": _plan,
    "product": _product,
    "customer": _customer,
    "subscription": _subscription,
    "invoice": _invoice,
    "invoice_payment": _payment,
    "refund": _refund,
    "credit_note": _credit_note,
    "dispute": _dispute,
}
"""By Stripe's word for the object: how to look at one.

Charges are not among them: they have only sums, and each refund and dispute that changes one has events of its own.
https://docs.stripe.com/api/events/types#event_types-charge.refunded
"""


def _invoices_of(house: House, gateway: Reads, refund: RefundFact) -> Iterable[str]:
    with house.database.work(OPERATOR) as session:
        same = (Payment.payment_intent == refund.payment_intent) | (Payment.charge == refund.charge)
        known = set(session.scalars(sa.select(Payment.invoice_id).where(same)))
    if known or refund.payment_intent is None:
        return known
    return {payment.invoice_id for payment in gateway.invoices_paid_by(refund.payment_intent)}


def _unknown(house: House, model: Any, ids: Collection[str], *among: sa.ColumnElement[bool]) -> list[str]:
    if not ids:
        return []

    def known(session: Session) -> set[str]:
        return set(session.scalars(sa.select(model.id).where(model.id == sa.any_(text_array(ids)), *among)))

    with house.database.work(OPERATOR) as session:
        return sorted(set(ids) - known(session))
