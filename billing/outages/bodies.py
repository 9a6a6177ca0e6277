"""What a step sends: gathered from the rows, and written so that Stripe's total is ours to the cent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import gateway, mirror
from billing.answers import Gone, LockedOut, ReadRefused, Unreachable
from billing.facts import InvoiceFact
from billing.models import Invoice, InvoiceLine, Payment, Platform, Refund
from billing.money import Money, plain
from billing.outages import held, notes
from billing.outages.models import Grant, GrantLine, Incident, Run, Step
from billing.outages.notes import NoteLine, Parts
from billing.outages.steps import Move
from billing.outages.waits import ask_again_after
from tenants.house import House

MOST_PREVIEWS = 4


class Unsendable(Exception):
    """The step cannot be sent as it was planned: where it goes instead."""

    def __init__(self, move: Move) -> None:
        super().__init__(move.reason)
        self.move = move


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
    lines: Sequence[NoteLine]
    links: tuple[tuple[str, int], ...]
    drafted: bool
    """The grant was planned when the invoice was a draft that our pause had made."""
    known_refunds: dict[str, str]
    """The refunds of the step's payment that the mirror has, by anybody, and their statuses."""


@dataclass(frozen=True)
class Written:
    """A body ready to be frozen. `kind` differs from the step's when a draft is voided instead of credited."""

    kind: str
    body: notes.Body


def dossier(session: Session, step: Step) -> Dossier:
    """Gather, in the caller's transaction."""
    grant = session.scalars(sa.select(Grant).where(Grant.id == step.grant_id)).one()
    incident = session.get_one(Incident, grant.incident_id)
    payment = session.scalar(sa.select(Payment).where(Payment.id == step.payment_id)) if step.payment_id else None
    lines = session.execute(
        sa.select(GrantLine, InvoiceLine)
        .join(InvoiceLine, sa.and_(InvoiceLine.agency_id == GrantLine.agency_id, InvoiceLine.id == GrantLine.line_id))
        .where(GrantLine.agency_id == grant.agency_id, GrantLine.grant_id == (grant.fallback_of or grant.id))
        .order_by(InvoiceLine.position)
    ).all()
    refunds = session.scalars(
        sa.select(Step)
        .where(Step.grant_id == grant.id, Step.kind == "refund", Step.state == "succeeded")
        .order_by(Step.no)
    ).all()
    return Dossier(
        step=step,
        grant=grant,
        incident=incident,
        platform=session.get_one(Platform, incident.platform_id).name,
        as_of=session.scalars(sa.select(Run.as_of).where(Run.id == grant.run_id)).one(),
        invoice=session.scalars(sa.select(Invoice).where(Invoice.id == grant.invoice_id)).one(),
        payment=payment,
        lines=[NoteLine(line.id, line.amount, line.net, line.tax, line.taxes, given.amount) for given, line in lines],
        links=tuple((one.stripe_id or "", one.amount) for one in refunds),
        drafted=held.was_draft(session, grant.invoice_id),
        known_refunds=_known_refunds(session, payment),
    )


def written(house: House, found: Dossier) -> Written:
    """The body of one step. Asks Stripe what became of the payment, and where its rounding decides.

    What the mirror had not heard of yet is recorded, for whoever compares it with the plan. Raises `Unsendable`.
    """
    metadata = {"step": str(found.step.id), "incident": found.incident.id, "engine": gateway.engine(house)}
    try:
        _look_at_payment(house, found)
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


def _known_refunds(session: Session, payment: Payment | None) -> dict[str, str]:
    if payment is None:
        return {}
    same = (
        (Refund.payment_intent == payment.payment_intent) if payment.payment_intent else Refund.charge == payment.charge
    )
    return dict(session.execute(sa.select(Refund.id, Refund.status).where(same)).all())


def _look_at_payment(house: House, found: Dossier) -> None:
    payment, account = found.payment, found.step.stripe_account
    if payment is None:
        return
    connection = gateway.connect(house, account)
    if payment.payment_intent:
        refunds = connection.refunds(payment_intent=payment.payment_intent)
    else:
        refunds = connection.refunds(charge=payment.charge)
    for refund in refunds:
        if found.known_refunds.get(refund.id) != refund.status:
            mirror.refresh(house, account, "refund", refund.id)


def _note(house: House, found: Dossier, metadata: dict[str, str]) -> Written:
    planned = _planned(found)
    remaining = 0
    if found.grant.reduce:
        invoice = _finalized(house, found)
        remaining = invoice.amount_remaining
        if invoice.status == "open" and planned.total == invoice.total and planned.reduce == planned.total:
            return Written("void", {"invoice": invoice.id, "metadata": metadata})
    parts = notes.settled_against(planned, remaining, drafted=found.drafted)
    if parts is None:
        raise Unsendable(Move("cancelled", "plan_changed: the invoice was paid or credited since."))
    return Written("credit_note", _to_the_cent(house, found, parts, metadata))


def _planned(found: Dossier) -> Parts:
    grant = found.grant
    if found.links:
        return Parts(reduce=grant.reduce, credit=grant.credit, out_of_band=grant.out_of_band, links=found.links)
    return Parts(grant.reduce, grant.refund, grant.credit, grant.out_of_band)


def _finalized(house: House, found: Dossier) -> InvoiceFact:
    """As it is now. A draft that our pause made is finalized first, because only then it can be credited."""
    step = found.step
    return held.finalized(house, step.stripe_account, step.agency_id, found.invoice.id, step.attempt_no)


def _to_the_cent(house: House, found: Dossier, parts: Parts, metadata: dict[str, str]) -> notes.Body:
    automatic_tax = found.invoice.automatic_tax
    memo = _memo(found, parts)
    nudge = 0
    for _ in range(MOST_PREVIEWS):
        body = notes.credit_note(
            found.invoice.id,
            found.lines,
            parts,
            memo=memo,
            metadata=metadata,
            automatic_tax=automatic_tax,
            nudge=nudge,
        )
        if not notes.needs_preview(found.lines, automatic_tax=automatic_tax):
            return body
        total = gateway.connect(house, found.step.stripe_account).preview_credit_note(body).total
        if total == parts.total:
            return body
        nudge += parts.total - total
    money = plain(Money(parts.total, found.grant.currency))
    raise Unsendable(Move("needs_person", f"No credit note of exactly {money} can be made: Stripe rounds it away."))


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
    )
