"""What a step sends: gathered from the rows, and written so that Stripe's total is ours to the cent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import gateway, mirror, readers
from billing.answers import Gone, LockedOut, ReadRefused, Unreachable
from billing.facts import InvoiceFact
from billing.gateway import Urgency
from billing.locales import Reader
from billing.models import Customer, Invoice, InvoiceLine, Payment, Platform, Refund
from billing.money import Money, plain, unit
from billing.outages import held, notes, reckoning, switch
from billing.outages.arithmetic import in_short
from billing.outages.models import Grant, GrantLine, Incident, Run, Step
from billing.outages.notes import NoteLine, Parts
from billing.outages.steps import Move
from billing.outages.waits import ask_again_after
from tenants.db import OPERATOR, prepared
from tenants.house import House
from tenants.models import Agency

MOST_PREVIEWS = 4
"""Previews of one total before it counts as one that no amounts of the lines come to."""
MOST_SHORT = 2
"""Smallest amounts that can be sent by which a note may stay below its grant where Stripe rounds the tax."""


class Unsendable(Exception):
    """The step cannot be sent as it was planned: where it goes instead."""

    def __init__(self, move: Move) -> None:
        super().__init__(move.reason)
        self.move = move


@dataclass(frozen=True)
class Rows:
    """What a step hangs on, read at once. `payment` is the one that it takes from, if it takes from any."""

    grant: Grant
    run: Run
    incident: Incident
    platform: str
    invoice: Invoice
    drafted: bool
    payment: Payment | None
    reader: Reader


@dataclass(frozen=True)
class Dossier:
    """Everything that a step's body is written from, as the rows had it when the step was claimed."""

    step: Step
    grant: Grant
    incident: Incident
    platform: str
    as_of: datetime
    invoice: Invoice
    payment: Payment | None
    payments: Sequence[Payment]
    """All that its money came from: the step's own, and for a credit each of its invoice."""
    lines: Sequence[NoteLine]
    links: tuple[tuple[str, int], ...]
    drafted: bool
    """The grant was planned when the invoice was a draft that our pause had made."""
    reader: Reader
    """The customer, whom the memo is written for."""
    short: str
    """The arithmetic in one sentence."""
    known_refunds: dict[str, str]
    """The refunds of these payments that the mirror has, by anybody, and their statuses."""


@dataclass(frozen=True)
class Written:
    """A body ready to be frozen. `kind` differs from the step's when a draft is voided instead of credited."""

    kind: str
    body: notes.Body
    short: int = 0
    """How much less than the step's amount it gives, because Stripe rounds the rest of it away: that stays owed."""


def rows_of(session: Session, step: Step) -> Rows:
    """In the caller's transaction."""
    found = session.execute(_rows(), {"agency": step.agency_id, "grant": step.grant_id, "payment": step.payment_id})
    grant, run, incident, platform, invoice, drafted, payment, own, agencys, zone = found.one()
    return Rows(
        grant, run, incident, platform, invoice, bool(drafted), payment, readers.reader(own, agencys, zone)
    )  # fmt: skip


def dossier(session: Session, step: Step, rows: Rows) -> Dossier:
    """Gather, in the caller's transaction."""
    grant, payments = rows.grant, payments_of(session, step)
    of_grant = {"agency": grant.agency_id, "grant": grant.fallback_of or grant.id}
    lines = [NoteLine(*line) for line in session.execute(_lines(), of_grant)]
    reckoned = reckoning.of(session, [grant], [rows.run])[grant.id]
    reader = reckoning.on_its_clock(rows.reader, reckoned.terms)
    return Dossier(
        step=step,
        grant=grant,
        incident=rows.incident,
        platform=rows.platform,
        as_of=rows.run.as_of,
        invoice=rows.invoice,
        payment=rows.payment,
        payments=payments,
        lines=lines,
        links=_links(session, step) if step.no > 1 else (),
        drafted=rows.drafted,
        reader=reader,
        short=in_short(reckoned.grant, reader),
        known_refunds=_known_refunds(session, payments),
    )


@prepared
def _rows() -> sa.Select[*tuple[Any, ...]]:
    of_run = sa.and_(Run.agency_id == Grant.agency_id, Run.id == Grant.run_id)
    of_customer = sa.and_(Customer.agency_id == Grant.agency_id, Customer.id == Grant.customer_id)
    return (
        sa.select(
            Grant, Run, Incident, Platform.name, Invoice, held.was_draft_of(Invoice), Payment, Customer.locale,
            Agency.locale, Agency.time_zone,
        )
        .select_from(Grant)
        .join(Run, of_run)
        .join(Incident, Incident.id == Grant.incident_id)
        .join(Platform, Platform.id == Incident.platform_id)
        .join(Invoice, sa.and_(Invoice.agency_id == Grant.agency_id, Invoice.id == Grant.invoice_id))
        .join(Agency, Agency.id == Grant.agency_id)
        .outerjoin(Customer, of_customer)
        .outerjoin(Payment, sa.and_(Payment.agency_id == Grant.agency_id, Payment.id == sa.bindparam("payment")))
        .where(Grant.agency_id == sa.bindparam("agency"), Grant.id == sa.bindparam("grant"))
    )  # fmt: skip


@prepared
def _lines() -> sa.Select[*tuple[Any, ...]]:
    line = InvoiceLine
    return (
        sa.select(line.id, line.amount, line.net, line.tax, line.taxes, GrantLine.amount)
        .select_from(GrantLine)
        .join(line, sa.and_(line.agency_id == GrantLine.agency_id, line.id == GrantLine.line_id))
        .where(GrantLine.agency_id == sa.bindparam("agency"), GrantLine.grant_id == sa.bindparam("grant"))
        .order_by(line.position)
    )


def _links(session: Session, step: Step) -> tuple[tuple[str, int], ...]:
    """The refunds that went out before the note that links them."""
    earlier = sa.select(Step.stripe_id, Step.amount).where(
        Step.grant_id == step.grant_id, Step.kind == "refund", Step.state == "succeeded"
    )
    return tuple((refund or "", amount) for refund, amount in session.execute(earlier.order_by(Step.no)))


def written(house: House, found: Dossier) -> Written:
    """The body of one step. Asks Stripe what became of the payment, and where its rounding decides.

    What the mirror had not heard of yet is recorded, for whoever compares it with the plan. Raises `Unsendable`.
    """
    metadata = {"step": str(found.step.id), "incident": found.incident.id, "engine": gateway.engine(house)}
    try:
        _look_at_payments(house, found.step.stripe_account, found.payments, found.known_refunds)
        if found.step.kind == "credit_note":
            return _note(house, found, metadata)
    except Gone as error:
        raise Unsendable(Move("needs_person", f"It is no longer in Stripe: {error}")) from error
    except ReadRefused as error:
        raise Unsendable(Move("needs_person", f"Stripe makes no such credit note: {error}")) from error
    except (Unreachable, LockedOut) as error:
        raise Unsendable(Move("approved", str(error), due_in=ask_again_after(1))) from error
    if found.step.kind == "refund":
        if found.payment is None:
            raise Unsendable(Move("needs_person", "The payment of this refund is not known."))
        return Written(
            "refund",
            notes.refund(
                payment_intent=found.payment.payment_intent,
                charge=found.payment.charge,
                amount=found.step.amount,
                metadata=metadata,
            ),
        )
    entry = notes.balance_entry(
        amount=found.step.amount,
        currency=found.step.currency,
        memo=_memo(found, Parts(credit=found.step.amount)),
        metadata=metadata,
    )
    return Written("balance", {"customer": found.grant.customer_id, **entry})


def payments_of(session: Session, step: Step) -> Sequence[Payment]:
    """What the money of a step came from: its own payment; for a credit, each of its invoice. None for a note about
    refunds that went out already."""
    if step.payment_id is not None:
        own = sa.select(Payment).where(Payment.agency_id == step.agency_id, Payment.id == step.payment_id)
        return session.scalars(own).all()
    if step.no > 1:
        return ()
    return session.scalars(_PAID, {"agency": step.agency_id, "grant": step.grant_id}).all()


_PAID: Final = (
    sa.select(Payment)
    .join(Grant, sa.and_(Grant.agency_id == Payment.agency_id, Grant.invoice_id == Payment.invoice_id))
    .where(Grant.agency_id == sa.bindparam("agency"), Grant.id == sa.bindparam("grant"))
    .order_by(Payment.id)
)


def _known_refunds(session: Session, payments: Sequence[Payment]) -> dict[str, str]:
    known: dict[str, str] = {}
    for payment in payments:
        if payment.payment_intent:
            found = session.execute(_BY_INTENT, {"intent": payment.payment_intent})
        else:
            found = session.execute(_BY_CHARGE, {"charge": payment.charge})
        known |= dict(found.all())
    return known


_BY_INTENT: Final = sa.select(Refund.id, Refund.status).where(Refund.payment_intent == sa.bindparam("intent"))
_BY_CHARGE: Final = sa.select(Refund.id, Refund.status).where(Refund.charge == sa.bindparam("charge"))


def look_again(house: House, step: Step) -> None:
    """Ask Stripe what became of a step's payments since it was written. Raises `Unsendable` where it does not say."""
    with house.database.work(OPERATOR) as session:
        payments = payments_of(session, step)
        known = _known_refunds(session, payments)
    try:
        _look_at_payments(house, step.stripe_account, payments, known)
    except (Gone, ReadRefused, Unreachable, LockedOut) as error:
        raise Unsendable(Move(step.state, str(error), due_in=ask_again_after(1))) from error


def _look_at_payments(house: House, account: str, payments: Sequence[Payment], known: dict[str, str]) -> None:
    connection = gateway.connect(house, account, Urgency.GRANT)
    for payment in payments:
        if payment.payment_intent:
            refunds = connection.refunds(payment_intent=payment.payment_intent)
        elif payment.charge:
            refunds = connection.refunds(charge=payment.charge)
        else:
            continue
        for refund in refunds:
            if known.get(refund.id) != refund.status:
                mirror.refresh(house, account, "refund", refund.id)


def _note(house: House, found: Dossier, metadata: dict[str, str]) -> Written:
    planned = _planned(found)
    remaining, paid = 0, False
    if found.grant.reduce:
        invoice = _finalized(house, found)
        remaining = invoice.amount_remaining
        if invoice.status == "void":
            raise Unsendable(Move("cancelled", "plan_changed: the invoice was voided since."))
        paid = bool(invoice.amount_paid or invoice.paid_off_stripe)  # by anything but the balance
        whole = planned.total == invoice.total and planned.reduce == planned.total
        if invoice.status == "open" and whole and not paid:
            return Written("void", {"invoice": invoice.id, "metadata": metadata})
    parts = notes.settled_against(planned, remaining, by_balance=found.drafted and not paid)
    if parts is None:
        raise Unsendable(Move("cancelled", "plan_changed: the invoice was paid or credited since."))
    return _to_the_cent(house, found, parts, metadata)


def _planned(found: Dossier) -> Parts:
    grant = found.grant
    if found.step.no > 1:  # the refunds were steps of their own: none of them is made again, whatever became of them
        return Parts(reduce=grant.reduce, credit=grant.credit, out_of_band=grant.out_of_band, links=found.links)
    return Parts(grant.reduce, grant.refund, grant.credit, grant.out_of_band)


def _finalized(house: House, found: Dossier) -> InvoiceFact:
    """As it is now. A draft that our pause made is finalized first, because only then it can be credited."""
    step, account = found.step, found.step.stripe_account
    may_send = partial(switch.may_send, house, found.incident.id, account)
    attempt = f"{step.attempt_no + step.epoch}:s{step.id}"  # Stripe keeps a refusal under its key: nobody shares one
    return held.finalized(house, account, step.agency_id, found.invoice.id, attempt, may_send)


def _to_the_cent(house: House, found: Dossier, parts: Parts, metadata: dict[str, str]) -> Written:
    """The note of exactly this total; with automatic tax, where no line amounts come to it, the next one below."""
    automatic = found.invoice.automatic_tax
    if not notes.needs_preview(found.lines, automatic_tax=automatic):
        return Written("credit_note", _body(found, parts, metadata))
    refusal = None
    for times in range(MOST_SHORT + 1 if automatic else 1):
        short = times * unit(found.grant.currency)
        smaller = notes.less(parts, short)
        if smaller is None:
            break
        body, said = _agreed(house, found, smaller, metadata)
        if body is not None:
            return Written("credit_note", body, short)
        refusal = refusal or said
    if refusal is not None:
        raise refusal
    money = plain(Money(parts.total, found.grant.currency))
    raise Unsendable(Move("needs_person", f"No credit note of exactly {money} can be made: Stripe rounds it away."))


def _agreed(
    house: House, found: Dossier, parts: Parts, metadata: dict[str, str]
) -> tuple[notes.Body | None, ReadRefused | None]:
    """A body of which Stripe says that it comes to this total, or why it says nothing of the kind.

    A preview whose parts do not add up to what Stripe makes of the lines is refused, or answered with that total: the
    one is a no, the other says how far off it is.
    """
    connection = gateway.connect(house, found.step.stripe_account, Urgency.GRANT)
    refusal: ReadRefused | None = None
    inside = found.invoice.automatic_tax and any(notes.has_tax_inside(line) for line in found.lines)
    for as_billed in (False, True) if inside else (False,):
        tried: set[int] = set()
        ahead = [0] if as_billed or not found.invoice.automatic_tax else [0, 1, -1]
        while ahead and len(tried) < MOST_PREVIEWS:
            nudge = ahead.pop(0)
            if nudge in tried:
                continue
            tried.add(nudge)
            body = _body(found, parts, metadata, as_billed=as_billed, nudge=nudge)
            try:
                total = connection.preview_credit_note(body).total
            except ReadRefused as error:
                refusal = refusal or error
                continue
            if total == parts.total:
                return body, None
            ahead = [nudge + parts.total - total]
    return None, refusal


def _body(
    found: Dossier, parts: Parts, metadata: dict[str, str], *, as_billed: bool = False, nudge: int = 0
) -> notes.Body:
    return notes.credit_note(
        found.invoice.id,
        found.lines,
        parts,
        memo=_memo(found, parts),
        metadata=metadata,
        automatic_tax=found.invoice.automatic_tax,
        as_billed=as_billed,
        nudge=nudge,
    )


def _memo(found: Dossier, parts: Parts) -> str:
    incident = found.incident
    return notes.why(
        found.platform,
        incident.started_at,
        incident.ended_at or found.as_of,
        impact_bp=incident.impact_bp,
        ongoing=incident.ended_at is None,
        amount=Money(parts.total, found.grant.currency),
        way=notes.way_back(parts),
        reader=found.reader,
        for_good=incident.state == "retired",
        arithmetic=found.short,
    )
