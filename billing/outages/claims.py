"""Take a step, and commit an attempt: what happens in the database before anything leaves for Stripe."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from billing import gateway
from billing.answers import Outcome
from billing.models import Payment, Refund
from billing.outages import bodies, notes
from billing.outages.bodies import Dossier, Written
from billing.outages.models import Attempt, Control, Grant, Run, Step
from billing.outages.steps import GIVES_NOTHING, Move, locked, move, reserve
from billing.outages.waits import KEY_LIFE, LATER, LEASE, TWICE_APART
from tenants.house import House

ROOM = frozenset(["never_more_than_captured", "never_more_than_approved"])
WORKABLE = ("approved", "sent", "unknown", "pending")


@dataclass(frozen=True)
class Claim:
    """One step that this worker has to itself until `lease_until`, with what the rows say about its past."""

    step: Step
    grant: Grant
    payment: Payment | None
    lease_until: datetime
    dossier: Dossier | None
    doubtful: bool
    """An earlier attempt may have happened: look before anything is sent."""
    silences: int
    deaths: int
    key_is_dead: bool
    key_is_spent: bool
    """Stripe keeps repeating a stored failure under this key, and has done so for a while."""
    known_refunds: frozenset[str]


@dataclass(frozen=True)
class Sent:
    """One attempt that is committed and on its way."""

    claim: Claim
    step: Step
    no: int
    key: str


def claim(session: Session) -> Claim | None:
    now = sa.func.clock_timestamp()
    earlier = aliased(Step)
    waits_for_another = sa.exists().where(
        earlier.grant_id == Step.grant_id, earlier.no < Step.no, earlier.state.not_in(("succeeded", *GIVES_NOTHING))
    )
    step = session.scalar(
        sa.select(Step)
        .join(Grant, sa.and_(Grant.agency_id == Step.agency_id, Grant.id == Step.grant_id))
        .join(Run, sa.and_(Run.agency_id == Grant.agency_id, Run.id == Grant.run_id))
        .where(
            Step.state.in_(WORKABLE),
            Step.due_at <= now,
            sa.or_(Step.lease_until.is_(None), Step.lease_until < now),
            sa.or_(
                Step.state != "approved",
                sa.and_(Run.state.in_(("running", "done")), ~waits_for_another, ~_halted(Grant.incident_id)),
            ),
        )
        .order_by(Step.due_at, Step.id)
        .limit(1)
        .with_for_update(of=Step, skip_locked=True)
    )
    if step is None:
        return None
    step.lease_until = now + LEASE
    session.flush()
    session.refresh(step)
    return _history(session, step)


def _halted(incident_id: sa.ColumnElement[str] | InstrumentedAttribute[str] | str) -> sa.ColumnElement[bool]:
    off = sa.exists().where(Control.scope.in_(("", sa.literal("incident:").concat(incident_id))), ~Control.sending)
    account = sa.exists().where(Control.scope == sa.literal("account:").concat(Step.stripe_account), ~Control.sending)
    return sa.or_(off, account)


def _history(session: Session, step: Step) -> Claim:
    attempts = session.scalars(sa.select(Attempt).where(Attempt.step_id == step.id).order_by(Attempt.no)).all()
    now = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    silent = [one for one in attempts if one.outcome in (None, Outcome.UNKNOWN)]
    replayed = [one for one in silent if one.replayed and one.key.endswith(f":n{step.epoch}")]
    payment = session.scalar(sa.select(Payment).where(Payment.id == step.payment_id)) if step.payment_id else None
    return Claim(
        step=step,
        grant=session.scalars(sa.select(Grant).where(Grant.id == step.grant_id)).one(),
        payment=payment,
        lease_until=step.lease_until or now,
        dossier=bodies.dossier(session, step) if step.body is None else None,
        doubtful=bool(attempts) and step.state != "pending" and bool(silent),
        silences=len(silent),
        deaths=sum(one.outcome is None for one in attempts),
        key_is_dead=step.first_sent_at is not None and step.first_sent_at < now - KEY_LIFE,
        key_is_spent=any(one.sent_at < now - TWICE_APART for one in replayed[1:]),
        known_refunds=_known_refunds(session, step, payment),
    )


def _known_refunds(session: Session, step: Step, payment: Payment | None) -> frozenset[str]:
    """Refunds of the step's payment that the mirror knew before the step was first sent."""
    if payment is None or step.first_sent_at is None:
        return frozenset()
    of_payment = sa.select(Refund.id).where(Refund.payment_intent == payment.payment_intent)
    return frozenset(session.scalars(of_payment.where(Refund.synced_at < step.first_sent_at)))


def decide(session: Session, claim: Claim, decided: Move) -> None:
    step = locked(session, claim.step.id)
    if step is None or step.lease_until != claim.lease_until:
        return
    if decided.to == step.state:  # nothing new but the time at which to look again
        step.lease_until, step.reason = None, decided.reason
        step.due_at = sa.func.clock_timestamp() + (decided.due_in or timedelta(0))
    elif decided.to == "cancelled" and step.no > 1:
        # Other steps of this grant went out: what is left over of it is for a person, not for the next run.
        move(session, step, Move("needs_person", decided.reason, evidence=decided.evidence))
    else:
        move(session, step, decided)


def begin(session: Session, house: House, claim: Claim, written: Written | None) -> Sent | None:
    """Commit one attempt: the frozen body, its key, the room that it takes. None: it is not to be sent now."""
    step = locked(session, claim.step.id)
    if step is None or step.lease_until != claim.lease_until or step.state != claim.step.state:
        return None
    if session.scalar(sa.select(_halted(claim.grant.incident_id)).where(Step.id == step.id)):
        step.lease_until, step.due_at = None, sa.func.clock_timestamp() + LATER
        return None
    if step.first_sent_at is None:
        if written is None or step.amount != claim.step.amount:
            step.lease_until = None
            return None
        changed = _changed(session, step) or _without_room(session, step)
        if changed is not None:
            move(session, step, changed)
            return None
        step.kind = written.kind
        step.body = notes.frozen(written.body)
        step.body_sha256 = hashlib.sha256(step.body.encode()).hexdigest()
        step.stripe_version = gateway.API_VERSION
        step.first_sent_at = sa.func.clock_timestamp()
    elif claim.key_is_spent and claim.doubtful:
        step.epoch += 1
    step.attempt_no += 1
    move(session, step, Move("sent", due_in=LEASE, evidence={"attempt": step.attempt_no}))
    step.lease_until = sa.func.clock_timestamp() + LEASE
    key = f"e{gateway.engine(house)}:a{step.agency_id}:s{step.id}:n{step.epoch}"
    session.add(Attempt(agency_id=step.agency_id, step_id=step.id, no=step.attempt_no, key=key))
    session.flush()
    session.refresh(step)
    return Sent(claim, step, step.attempt_no, key)


def _changed(session: Session, step: Step) -> Move | None:
    """Whether the payment is no longer the one of the plan: somebody else took of it, or disputes it."""
    if step.payment_id is None:
        return None
    payment = session.scalars(sa.select(Payment).where(Payment.id == step.payment_id).with_for_update()).one()
    if payment.dispute_open:
        return Move("blocked", "The customer's bank disputes this payment: it waits for the end.")
    left = payment.captured - payment.elsewhere - payment.disputed
    if step.available not in (None, left) or payment.reserved + payment.refunded + step.refund > left:
        return Move(
            "cancelled" if step.no == 1 else "needs_person",
            f"plan_changed: {left} of this payment is left where the plan had seen {step.available}.",
        )
    return None


def _without_room(session: Session, step: Step) -> Move | None:
    try:
        with session.begin_nested():
            reserve(session, step)
    except IntegrityError as error:
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        if constraint not in ROOM:
            raise
        return Move("cancelled" if step.no == 1 else "needs_person", f"plan_changed: {constraint}.")
    return None
