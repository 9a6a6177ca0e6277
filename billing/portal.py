"""`/portal`: a customer's own invoices, what came back of them, and the one sentence that says why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from flask import Blueprint, current_app, render_template, request
from sqlalchemy.orm import Session

from billing import formats, readers
from billing.errors import NotFound
from billing.models import (
    BalanceEntry,
    CreditNote,
    Customer,
    Invoice,
    InvoiceLine,
    Payment,
    Refund,
    Subscription,
)
from tenants import access
from tenants.db import Scope
from tenants.models import Agency

blueprint = Blueprint(
    "portal", __name__, template_folder="templates", static_folder="static", static_url_path="/static"
)
formats.written_on(blueprint)

PER_PAGE: Final = 25
ARITHMETIC: Final = "billing.arithmetic"
"""Under this name the app keeps who can tell how an invoice's money back was computed: `Arithmetic`. Billing knows of
no outages, so whoever does puts it there."""

CHOOSABLE: Final = "billing.choosable"
"""And under this one who knows whether a customer has anything to choose: `Choosable`."""

Choosable = Callable[[Session, datetime, int, str], Sequence[object]]
"""(session, now, agency, customer) -> what there is to choose; /portal/choices shows it."""

Arithmetic = Callable[[Session, int, str], Sequence[str]]
"""(session, agency, invoice) -> lines of text, none where nothing came back."""

INVOICE_STATES: Final = {
    "draft": ("In preparation", ""),
    "open": ("Due", "wait"),
    "paid": ("Paid", "good"),
    "void": ("Cancelled", ""),
    "uncollectible": ("Not collected", ""),
}
REFUND_STATES: Final = {
    "pending": ("On its way", "wait"),
    "requires_action": ("Waiting for you", "wait"),
    "succeeded": ("Sent", "good"),
    "failed": ("Returned by the bank", "bad"),
    "canceled": ("Cancelled", "bad"),
}


@dataclass(frozen=True)
class WayBack:
    """One credit note and the refunds that it made or links."""

    note: CreditNote
    refunds: Sequence[Refund]

    @property
    def why(self) -> str:
        return self.note.memo or "This amount was credited to you."


@blueprint.get("/portal")
@access.customer
def overview() -> str:
    """Everything of one customer on one page, newest first."""
    who = access.person()
    agency_id, customer_id = who.agency_id or 0, who.customer_id or ""
    choosable: Choosable | None = current_app.extensions.get(CHOOSABLE)
    now = access.house().clock.now()
    with access.house().database.work(Scope(agency_id)) as session:
        customer = _customer(session, customer_id)
        invoices = _invoices(session, customer_id, before=request.args.get("before"))
        return render_template(
            "billing/portal.html",
            customer=customer,
            person_name=customer.name,
            agency=session.get_one(Agency, agency_id),
            invoices=invoices[:PER_PAGE],
            older=invoices[PER_PAGE - 1][0].id if len(invoices) > PER_PAGE else None,
            first_page="before" not in request.args,
            ways_back=_ways_back(session, CreditNote.customer_id == customer_id),
            numbers=_numbers(session, customer_id),
            to_balance=_to_balance(session, customer_id),
            other_refunds=_other_refunds(session, customer_id),
            paused=_paused(session, customer_id),
            to_choose=choosable(session, now, agency_id, customer_id) if choosable else (),
            invoice_states=INVOICE_STATES,
            refund_states=REFUND_STATES,
            **formats.for_reader(readers.reader_of(session, agency_id, customer_id)),
        )


@blueprint.get("/portal/invoices/<invoice_id>")
@access.customer
def invoice(invoice_id: str) -> str:
    """One invoice: its lines, what was paid, what came back, and the arithmetic."""
    who = access.person()
    agency_id, customer_id = who.agency_id or 0, who.customer_id or ""
    arithmetic: Arithmetic | None = current_app.extensions.get(ARITHMETIC)
    with access.house().database.work(Scope(agency_id)) as session:
        customer = _customer(session, customer_id)
        found = session.scalar(sa.select(Invoice).where(Invoice.id == invoice_id, Invoice.customer_id == customer_id))
        if found is None:
            raise NotFound("There is no such invoice of yours.")
        payments = session.scalars(
            sa.select(Payment).where(Payment.invoice_id == found.id).order_by(Payment.paid_at.nulls_last(), Payment.id)
        ).all()
        ways_back = _ways_back(session, CreditNote.invoice_id == found.id)
        return render_template(
            "billing/invoice.html",
            customer=customer,
            person_name=customer.name,
            agency=session.get_one(Agency, agency_id),
            invoice=found,
            lines=session.scalars(
                sa.select(InvoiceLine).where(InvoiceLine.invoice_id == found.id).order_by(InvoiceLine.position)
            ).all(),
            payments=[payment for payment in payments if payment.captured],
            ways_back=ways_back,
            given_back=sum(way.note.total for way in ways_back if way.note.status == "issued"),
            other_refunds=_other_refunds(session, customer_id, found.id),
            arithmetic=arithmetic(session, agency_id, found.id) if arithmetic else [],
            invoice_states=INVOICE_STATES,
            refund_states=REFUND_STATES,
            **formats.for_reader(readers.reader_of(session, agency_id, customer_id)),
        )


def _customer(session: Session, customer_id: str) -> Customer:
    customer = session.scalar(sa.select(Customer).where(Customer.id == customer_id))
    if customer is None:
        raise NotFound("Your account is not here any more.")
    return customer


def _invoices(session: Session, customer_id: str, before: str | None) -> Sequence[tuple[Invoice, int]]:
    """Up to one more than a page, newest first, each with what credit notes gave back of it."""
    given_back = (
        sa.select(sa.func.coalesce(sa.func.sum(CreditNote.total), 0))
        .where(
            CreditNote.agency_id == Invoice.agency_id,
            CreditNote.invoice_id == Invoice.id,
            CreditNote.status == "issued",
        )
        .scalar_subquery()
    )
    wanted = sa.select(Invoice, given_back).where(Invoice.customer_id == customer_id)
    if before:
        last = session.scalar(sa.select(Invoice).where(Invoice.id == before, Invoice.customer_id == customer_id))
        if last is None:
            raise NotFound("There is no such invoice of yours.")
        wanted = wanted.where(sa.tuple_(Invoice.created_at, Invoice.id) < sa.tuple_(last.created_at, last.id))
    rows = session.execute(wanted.order_by(Invoice.created_at.desc(), Invoice.id.desc()).limit(PER_PAGE + 1))
    return [(row[0], int(row[1])) for row in rows]


def _ways_back(session: Session, which: sa.ColumnElement[bool]) -> list[WayBack]:
    """Credit notes, newest first. One that was taken back is shown only for the refunds that it made."""
    notes = session.scalars(sa.select(CreditNote).where(which).order_by(CreditNote.created_at.desc(), CreditNote.id))
    found = list(notes)
    refunds: dict[str, list[Refund]] = {note.id: [] for note in found}
    for refund in session.scalars(sa.select(Refund).where(Refund.credit_note_id.in_(refunds)).order_by(Refund.id)):
        refunds[refund.credit_note_id or ""].append(refund)
    return [WayBack(note, refunds[note.id]) for note in found if note.status == "issued" or refunds[note.id]]


def _numbers(session: Session, customer_id: str) -> dict[str, str]:
    """What each invoice is called: its number, or its id while it has none."""
    rows = session.execute(sa.select(Invoice.id, Invoice.number).where(Invoice.customer_id == customer_id))
    return {row.id: row.number or row.id for row in rows}


def _to_balance(session: Session, customer_id: str) -> Sequence[BalanceEntry]:
    """What we put on the balance without a credit note: refunds that a bank would not take."""
    return session.scalars(
        sa.select(BalanceEntry)
        .where(
            BalanceEntry.customer_id == customer_id,
            BalanceEntry.step_id.is_not(None),
            BalanceEntry.credit_note_id.is_(None),
        )
        .order_by(BalanceEntry.created_at.desc())
    ).all()


def _other_refunds(session: Session, customer_id: str, invoice_id: str | None = None) -> Sequence[Refund]:
    """Refunds of this customer's payments that no credit note speaks of."""
    paid = sa.select(Payment.payment_intent, Payment.charge).join(
        Invoice, sa.and_(Invoice.agency_id == Payment.agency_id, Invoice.id == Payment.invoice_id)
    )
    paid = paid.where(Invoice.customer_id == customer_id)
    if invoice_id is not None:
        paid = paid.where(Invoice.id == invoice_id)
    of = paid.subquery()
    return session.scalars(
        sa.select(Refund)
        .where(
            Refund.credit_note_id.is_(None),
            sa.or_(
                Refund.payment_intent.in_(sa.select(of.c.payment_intent)), Refund.charge.in_(sa.select(of.c.charge))
            ),
        )
        .order_by(Refund.created_at.desc())
    ).all()


def _paused(session: Session, customer_id: str) -> int:
    """How many subscriptions are on hold because of an outage."""
    return session.scalars(
        sa.select(sa.func.count())
        .select_from(Subscription)
        .where(
            Subscription.customer_id == customer_id,
            Subscription.pause_behavior.is_not(None),
            Subscription.pause_incident.is_not(None),
        )
    ).one()
