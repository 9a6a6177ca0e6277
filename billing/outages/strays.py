"""Objects in Stripe that say they are ours and are not what we asked for: nothing is believed of them, and the invoices
that they touch are frozen until a person has looked."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.facts import CreditNoteFact, DisputeFact, RefundFact
from billing.models import Invoice, Payment
from billing.money import Money, plain
from billing.outages import freezing
from billing.outages.models import Grant, Step
from billing.rows import step_of
from tenants.models import OPERATOR_AGENCY


def frozen(session: Session, account: str, seen: RefundFact | CreditNoteFact, engine: str) -> str | None:
    """Why `seen` is a stray, None where it is not; a stray's invoices are frozen. Safe to repeat."""
    if seen.metadata.get("engine") != engine:
        return None
    step = session.scalar(sa.select(Step).where(Step.id == (step_of(seen.metadata, engine) or 0)))
    grant = _grant_of(session, step) if step else None
    why = _why(session, account, seen, step, grant)
    if why is None:
        return None
    invoices = invoices_of(session, seen)
    if step is not None and grant is not None and step.stripe_account == account:
        invoices.add((grant.agency_id, grant.invoice_id))
    freezing.freeze(session, ((agency_id, invoice_id, f"{seen.id}: {why}") for agency_id, invoice_id in invoices))
    return why


def _why(
    session: Session, account: str, seen: RefundFact | CreditNoteFact, step: Step | None, grant: Grant | None
) -> str | None:
    if step is None or grant is None:
        return f"It says it is of our step {seen.metadata.get('step', '')[:40]!r}, and there is none."
    if step.stripe_account != account:
        return f"It says it is of our step {step.id}, which is of another Stripe account."
    if isinstance(seen, CreditNoteFact):
        if step.kind != "credit_note" or seen.invoice_id != grant.invoice_id:
            return f"It says it is of our step {step.id}, which makes no credit note of {seen.invoice_id}."
        return _other(step, seen.id, step.stripe_id) or _amount(step, step.amount, seen.total, seen.currency)
    payment = session.scalar(
        sa.select(Payment).where(Payment.agency_id == step.agency_id, Payment.id == step.payment_id)
    )
    if payment is None or not _is_of(seen, payment):
        return f"It says it is of our step {step.id}, which takes nothing from this payment."
    has = step.stripe_id if step.kind == "refund" else step.refund_id
    return _other(step, seen.id, has) or _amount(step, step.refund, seen.amount, seen.currency)


def _other(step: Step, id: str, has: str | None) -> str | None:
    return None if has in (None, id) else f"It says it is of our step {step.id}, which has made {has}."


def _amount(step: Step, asked: int, amount: int, currency: str) -> str | None:
    if (amount, currency) == (asked, step.currency):
        return None
    ours, theirs = plain(Money(asked, step.currency)), plain(Money(amount, currency))
    return f"It is over {theirs} where our step {step.id} asked for {ours}."


def _is_of(refund: RefundFact, payment: Payment) -> bool:
    if payment.payment_intent and refund.payment_intent:
        return payment.payment_intent == refund.payment_intent
    return payment.charge is not None and payment.charge == refund.charge


def _grant_of(session: Session, step: Step) -> Grant | None:
    return session.scalar(sa.select(Grant).where(Grant.agency_id == step.agency_id, Grant.id == step.grant_id))


def invoices_of(session: Session, seen: RefundFact | CreditNoteFact | DisputeFact) -> set[tuple[int, str]]:
    """(agency, invoice) of what the object touches, as far as the mirror knows."""
    if isinstance(seen, CreditNoteFact):
        owner = session.scalar(sa.select(Invoice.agency_id).where(Invoice.id == seen.invoice_id))
        return {(owner or OPERATOR_AGENCY, seen.invoice_id)}
    same = sa.or_(
        sa.and_(Payment.payment_intent.is_not(None), Payment.payment_intent == seen.payment_intent),
        sa.and_(Payment.charge.is_not(None), Payment.charge == seen.charge),
    )
    found = session.execute(sa.select(Payment.agency_id, Payment.invoice_id).where(same))
    return {(agency_id, invoice_id) for agency_id, invoice_id in found}
