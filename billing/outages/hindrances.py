"""What keeps a step from being sent, as the rows have it at this moment: the switch, a freeze, others' money."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from billing.models import BalanceEntry, CreditNote, Payment, Refund
from billing.outages import freezing, ramp, switch
from billing.outages.elsewhere import by_others
from billing.outages.models import Grant, HandPayment, Incident, Run, Step
from billing.outages.steps import Move
from billing.outages.verdicts import DISPUTE_GOES_ON
from billing.outages.waits import DAILY
from tenants.db import prepared

THERE_ALREADY: Final = (
    "Stripe has made this already, and no attempt of ours is known: this database is older than what it sent. Nothing"
    " is sent; run `flask incidents reconcile`, and compare with Stripe."
)


def of(session: Session, step_id: int) -> sa.Row[*tuple[Any, ...]]:
    """Of one step: `stopped`, it may not be sent now; `frozen`, its invoice is; `begun`, its grant has; `there`, its
    object is in the mirror; and what time it is for the database, `now`."""
    return session.execute(_of(), {"step": step_id}).one()


@prepared
def _of() -> sa.Select[*tuple[Any, ...]]:
    halted = sa.exists().where(Run.agency_id == Grant.agency_id, Run.id == Grant.run_id, Run.state == "halted")
    retracted = sa.exists().where(
        Incident.id == Grant.incident_id, Incident.state == "retracted", Grant.fallback_of.is_(None), ~is_paper()
    )
    return (
        sa.select(
            sa.or_(switch.is_off(Grant.incident_id, Step.stripe_account), halted, retracted).label("stopped"),
            freezing.is_frozen(Grant.invoice_id).label("frozen"),
            ramp.has_begun().label("begun"),
            sa.or_(
                *(
                    sa.exists().where(made.agency_id == Step.agency_id, made.step_id == Step.id)
                    for made in (Refund, CreditNote, BalanceEntry)
                )
            ).label("there"),
            sa.func.clock_timestamp().label("now"),
        )
        .select_from(Step)
        .join(Grant, sa.and_(Grant.agency_id == Step.agency_id, Grant.id == Step.grant_id))
        .where(Step.id == sa.bindparam("step"))
    )


def is_paper() -> sa.ColumnElement[bool]:
    """Of a Step: that it is a note about refunds that went out already, and about what a person paid by hand. It gives
    nothing itself, and is owed to the books."""
    earlier = aliased(Step)
    linked = sa.select(sa.func.coalesce(sa.func.sum(earlier.amount), 0)).where(
        earlier.agency_id == Step.agency_id, earlier.grant_id == Step.grant_id, earlier.kind == "refund",
        earlier.state == "succeeded",
    )  # fmt: skip
    paid = sa.select(sa.func.coalesce(sa.func.sum(HandPayment.amount), 0)).where(
        HandPayment.agency_id == Step.agency_id, HandPayment.grant_id == Step.grant_id
    )
    given = linked.scalar_subquery() + paid.scalar_subquery()
    return sa.and_(Step.kind == "credit_note", Step.amount <= given)


def changed(session: Session, step: Step) -> Move | None:
    """Where a step goes whose invoice or payment is no longer the one of the plan: somebody else took of it, or
    disputes it. None: it may be sent. The step's payment is locked from here on."""
    payment = _locked_payment(session, step)
    invoice = session.execute(_of_invoice(), {"agency": step.agency_id, "grant": step.grant_id}).one()
    disputed = payment.dispute_open if payment is not None else step.no == 1 and invoice.disputed
    if disputed:
        return Move("blocked", DISPUTE_GOES_ON, due_in=DAILY)
    if payment is not None:
        left = payment.captured - payment.elsewhere - payment.disputed
        own = step.refund if step.first_sent_at is None else 0  # once it was sent its room is among what is reserved
        if step.available not in (None, left) or payment.reserved + payment.refunded + own > left:
            return _ended(step, f"{left} of this payment is left where the plan had seen {step.available}.")
    if step.no == 1 and invoice.planned not in (None, invoice.elsewhere):
        why = f"others gave back {invoice.elsewhere} of this invoice where the plan had seen {invoice.planned}."
        return _ended(step, why)
    return None


def _ended(step: Step, why: str) -> Move:
    return Move("cancelled" if step.no == 1 else "needs_person", f"plan_changed: {why}")


def _locked_payment(session: Session, step: Step) -> Payment | None:
    if step.payment_id is None:
        return None
    return session.scalars(_ITS_PAYMENT, {"agency": step.agency_id, "payment": step.payment_id}).one()


_ITS_PAYMENT: Final = (
    sa.select(Payment)
    .where(Payment.agency_id == sa.bindparam("agency"), Payment.id == sa.bindparam("payment"))
    .with_for_update()
)


@prepared
def _of_invoice() -> sa.Select[*tuple[Any, ...]]:
    disputed = sa.exists().where(
        Payment.agency_id == Grant.agency_id, Payment.invoice_id == Grant.invoice_id, Payment.dispute_open
    )
    return sa.select(
        disputed.label("disputed"), Grant.elsewhere.label("planned"), by_others().label("elsewhere")
    ).where(Grant.agency_id == sa.bindparam("agency"), Grant.id == sa.bindparam("grant"))


def waits_for_a_dispute() -> sa.ColumnElement[bool]:
    """Of a Step: that it is blocked until its customer's bank has decided. Each day Stripe is asked whether it has."""
    blocked: sa.ColumnElement[str] = sa.literal_column("'blocked'")  # said as the index says it
    return sa.and_(Step.state == blocked, Step.reason == DISPUTE_GOES_ON)
