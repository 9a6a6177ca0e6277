"""How a step moves: its state, the counters that keep money in bounds, the evidence, its grant and its run.

Every function works inside the caller's transaction, on a step whose row the caller has locked.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from billing.answers import Outcome
from billing.models import Subscription
from billing.money import Money, plain
from billing.outages import ungiven
from billing.outages.decisions import Retirement
from billing.outages.elsewhere import by_others
from billing.outages.models import STEP_NEXT, Attempt, Grant, GrantLine, HandPayment, Incident, Run, Step, StepEvent
from tenants import audit
from tenants.db import after_commit, one_of, prepared
from tenants.models import Agency

AT_WORK = ("planned", "approved", "sent", "unknown")
"""A run with a grant in one of these is not done. A refund that is pending for days, or blocked by a dispute, does not
hold up the release of what was paused."""
GIVES_NOTHING = frozenset({"failed", "cancelled", "given_elsewhere"})
"""Ends in which nothing of the step is with the customer through us: its counters are back."""
_WORST_FIRST = (
    "needs_person", "blocked", "unknown", "sent", "approved", "planned", "pending", "failed", "given_elsewhere",
    "cancelled", "succeeded",
)  # fmt: skip
ALIVE = ("active", "trialing", "past_due", "unpaid")


@dataclass(frozen=True)
class Move:
    """Where a step goes, and what was seen that says so."""

    to: str
    reason: str | None = None
    stripe_id: str | None = None
    refund_id: str | None = None
    due_in: timedelta | None = None
    evidence: dict[str, Any] | None = None
    by_hand: bool = False
    """A person paid what it does not give: it stays in its grant."""


def locked(session: Session, step_id: int) -> Step | None:
    return session.scalar(_LOCKED, {"step": step_id})


def may_follow(step: Step, to: str) -> bool:
    return to == step.state or to in STEP_NEXT[step.state]


def reserve(session: Session, step: Step) -> Grant:
    """Before the first attempt: take the step's room on its payment and in its run, or fail on their constraints.

    Returns the grant, whose row is locked.
    """
    grant = _grant(session, step)
    _count(session, step, grant, reserved=step.refund, refunded=0, sent=_share(session, step, grant))
    return grant


def move(
    session: Session, step: Step, to: Move, actor: str = "engine", *, now: datetime | None = None,
    lease: timedelta | None = None, grant: Grant | None = None,
) -> None:  # fmt: skip
    """Write one transition with its evidence, move the counters with it, and bring its grant up to it.

    The step is leased for as long as `lease` says. `now` is the database's time, and `grant` the step's with its row
    locked, where the caller has them already.
    """
    grant = grant or _grant(session, step)
    before, was_counted = step.state, step.first_sent_at is not None and step.state not in GIVES_NOTHING
    step.state = to.to
    step.reason = to.reason
    step.stripe_id = to.stripe_id or step.stripe_id
    step.refund_id = to.refund_id or step.refund_id
    of_database = now or sa.func.clock_timestamp()
    step.due_at = of_database + (to.due_in or timedelta(0))
    step.lease_until = of_database + lease if lease else None
    step.tries = 0
    with session.no_autoflush:  # else the step and its grant are written one after the other
        if was_counted:
            _move_counters(session, step, grant, before)
        _witness(session, step, before, actor, to.evidence)
    if to.to in GIVES_NOTHING:
        session.flush()
        _take_off(session, step, grant, to)
    judge(session, grant)


def judge(session: Session, grant: Grant) -> None:
    """A grant is in the worst of its steps' states."""
    # The grant's row is locked, and whoever moves a step locks it first: its steps hold still.
    with session.no_autoflush:  # what this session has moved is what it has in its hands
        steps = session.scalars(_OF_GRANT, {"grant": grant.id}).all()
    ended = [step.state for step in steps if step.state in GIVES_NOTHING]
    # A part that came back has left the grant, with its amount, for the fallback or the next run: see _take_off.
    standing = [
        step
        for step in steps
        if step.state not in GIVES_NOTHING
        and not _waits_for_a_bank(step, steps)
        and not _links_nothing(step, grant, steps)
    ]
    states = [step.state for step in standing] or (["succeeded"] if _rest_stands(grant, steps) else ended)
    grant.state = min(states, key=_WORST_FIRST.index)
    troubled = next((step for step in steps if step.state == grant.state and step.reason), None)
    grant.reason = troubled.reason if troubled else None
    if grant.state == "succeeded" and grant.out_of_band and session.get(HandPayment, _key(grant)) is None:
        grant.state = "needs_person"
        money = plain(Money(grant.out_of_band, grant.currency))
        grant.reason = f"{money} of this invoice was paid outside Stripe: pay it back the way it came."
    grant.settled_at = sa.func.now() if grant.state not in AT_WORK else None
    session.flush()


def _key(grant: Grant) -> dict[str, int]:
    return {"grant_id": grant.id, "agency_id": grant.agency_id}


def over() -> sa.ColumnElement[bool]:
    """Of a Run: that it is running, and none of its grants is at work any more."""
    at_work = sa.exists().where(Grant.agency_id == Run.agency_id, Grant.run_id == Run.id, one_of(Grant.state, *AT_WORK))
    return sa.and_(Run.state == "running", ~at_work)


def finish(session: Session, agency_id: int | None = None, run_id: str | None = None) -> None:
    """Mark runs that are over (or only that one) as done, and ring for what waited for them.

    Not in the transaction that ends a grant: two that end at once would each see the other still at work.
    """
    only = _finish() if run_id is None else _finish().where(Run.agency_id == agency_id, Run.id == run_id)
    done = session.execute(only).all()
    for owner, ended, incident_id in sorted(done):
        audit.record(session, "engine", "worker", "run.done", ended, agency_id=owner)
        after_commit(session, "outages.release", incident_id)


@prepared
def _finish() -> ReturningUpdate[int, str, str]:
    return (
        sa.update(Run)
        .where(over())
        .values(state="done", finished_at=sa.func.now())
        .returning(Run.agency_id, Run.id, Run.incident_id)
        .execution_options(synchronize_session=False)
    )


def _waits_for_a_bank(step: Step, steps: Sequence[Step]) -> bool:
    """Whether it is the paper about several refunds of which one is on its way still: nobody can do anything for it."""
    return (
        step.kind == "credit_note"
        and step.state == "approved"
        and any(other.state == "pending" and other.no < step.no for other in steps)
    )


def links_nothing(session: Session, step: Step, grant: Grant | None = None) -> bool:
    """Whether it is a note that was sent once, about refunds alone that have all come back since.

    The step's grant is locked, unless it is given as it was read.
    """
    if step.kind != "credit_note" or step.no == 1 or step.first_sent_at is None:
        return False
    grant = grant or _grant(session, step)
    return _links_nothing(step, grant, session.scalars(_OF_GRANT, {"grant": step.grant_id}).all())


def _links_nothing(step: Step, grant: Grant, steps: Sequence[Step]) -> bool:
    """Whether it is a note about refunds alone of which none stands any more: it is only a document, whether it is
    made already or its answer is still to come."""
    return (
        step.kind == "credit_note"
        and step.no > 1
        and grant.refund == grant.amount
        and all(other.state in GIVES_NOTHING for other in steps if other.kind == "refund")
    )


def recall(session: Session, step: Step, ended: Move) -> bool:
    """Give nothing more of a grant of which other steps went out: its incident was retracted.

    A note is for what went out, and for what a person paid by hand: it stays due. False: it was sent once with more in
    it, which only a person can tell.
    """
    if step.kind == "credit_note" and step.body is not None:
        return False
    grant = _grant(session, step)
    paid = session.get(HandPayment, _key(grant))
    given = step.amount - _share(session, step, grant) + (paid.amount if paid else 0)
    if step.kind != "credit_note" or not given:
        for to in ("needs_person", "cancelled") if step.state == "sent" else ("cancelled",):
            move(session, step, replace(ended, to=to, due_in=None), grant=grant)
        return True
    part, step.amount = step.amount - given, given
    grant.amount, grant.credit, grant.reduce = grant.amount - part, 0, 0
    grant.out_of_band = paid.amount if paid else 0
    grant.channel = _channel(grant)
    step.lease_until, step.due_at, step.reason = None, sa.func.clock_timestamp(), None
    session.flush()
    ungiven.take_out(session, grant, part)
    judge(session, grant)
    return True


def _rest_stands(grant: Grant, steps: Any) -> bool:
    """Whether a note stands although its refund came back: its other parts are with the customer."""
    return any(step.state == "failed" and step.kind == "credit_note" for step in steps) and grant.refund == 0


def _grant(session: Session, step: Step) -> Grant:
    return session.scalars(_ITS_GRANT, {"agency": step.agency_id, "grant": step.grant_id}).one()


def _share(session: Session, step: Step, grant: Grant) -> int:
    """What this step sends of its run's total: a note that links refunds sends only what they did not.

    Once it is written that is what its body says, whatever became of these refunds since.
    """
    if step.kind != "credit_note" or step.no == 1:
        return step.amount
    if step.body is not None:
        links = json.loads(step.body).get("refunds", ())
        return max(0, step.amount - sum(int(link["amount_refunded"]) for link in links))
    linked = sa.select(sa.func.coalesce(sa.func.sum(Step.amount), 0)).where(
        Step.grant_id == grant.id, Step.kind == "refund", Step.state.not_in(GIVES_NOTHING)
    )
    return max(0, step.amount - int(session.scalar(linked) or 0))


def _came_back(step: Step, to: str, share: int) -> int:
    """Of what the step sent, what ended: a failed note stands as a document, and only its refund came back."""
    return step.refund if to == "failed" and step.kind == "credit_note" and step.stripe_id else share


def _move_counters(session: Session, step: Step, grant: Grant, before: str) -> None:
    if step.state in GIVES_NOTHING:
        back = _came_back(step, step.state, _share(session, step, grant))
        if before == "succeeded":
            _count(session, step, grant, reserved=0, refunded=-step.refund, sent=-back)
        else:
            _count(session, step, grant, reserved=-step.refund, refunded=0, sent=-back)
    elif step.state == "succeeded" and before != "succeeded":
        _count(session, step, grant, reserved=-step.refund, refunded=step.refund, sent=0)


def _count(session: Session, step: Step, grant: Grant, *, reserved: int, refunded: int, sent: int) -> None:
    if step.payment_id is not None and (reserved or refunded):
        taken = {"agency": step.agency_id, "payment": step.payment_id, "reserved": reserved, "refunded": refunded}
        session.execute(_TAKE_OF_PAYMENT, taken)
    if sent:
        taken = {"agency": step.agency_id, "run": grant.run_id, "currency": step.currency, "sent": sent}
        session.execute(_TAKE_OF_RUN, taken)


def _witness(session: Session, step: Step, before: str, actor: str, evidence: dict[str, Any] | None) -> None:
    seen = {"agency": step.agency_id, "step": step.id, "before": before, "after": step.state, "actor": actor}
    session.execute(_WITNESS, seen | {"evidence": evidence})


def _take_off(session: Session, step: Step, grant: Grant, ended: Move) -> None:
    """What a step does not give leaves its grant, so that grants add up to what customers have; and falls back.

    A grant of which nothing else stands keeps its amount and says how it ended. A part that others gave back already,
    or that a person paid, stays counted: it is with the customer.
    """
    part = _came_back(step, step.state, _share(session, step, grant))
    if not part:
        return
    if ended.to == "given_elsewhere":
        _shrink_note(session, step, part, ended)
        return
    if ended.by_hand:
        grant.refund -= part
        grant.out_of_band += part
        grant.channel = _channel(grant)
        return
    whole = part == grant.amount
    if not whole:
        grant.amount -= part
        grant.refund -= part if step.kind != "balance" else 0
        grant.credit -= part if step.kind == "balance" else 0
        grant.channel = _channel(grant)
        _shrink_note(session, step, part, ended)
    else:
        _call_off(session, step, ended)
    session.flush()
    if ended.to == "failed":
        other = _fall_back(session, step, grant, part, ended.reason or "")
        if whole:
            _hand_over_lines(session, grant, other)
    else:
        ungiven.take_out(session, grant, part)


def _channel(grant: Grant) -> str:
    parts = {"refund": grant.refund, "credit": grant.credit, "reduce": grant.reduce, "manual": grant.out_of_band}
    return max(parts, key=lambda name: parts[name])


def _shrink_note(session: Session, step: Step, part: int, ended: Move) -> None:
    """The note that will link several refunds is for those that went through; of nothing there is none."""
    notes = sa.select(Step).where(
        Step.grant_id == step.grant_id,
        Step.id != step.id,
        Step.kind == "credit_note",
        Step.state == "approved",
        Step.body.is_(None),
    )
    for note in session.scalars(notes.with_for_update()).all():
        if note.amount > part:
            note.amount -= part
        else:
            _call_off(session, step, ended)


def gave_way(session: Session, step: Step, grant: Grant, actor: str) -> bool:
    """Let a note that Stripe refused give way to another: about what stands, where refunds that it links came back
    since, or about what is out, where its incident was retracted.

    Returns whether it did: not where nothing stands, or all does; nor any other step, nor a note whose answer stayed
    away, as it may be in Stripe. What came back has left the grant, and went its own way then.
    """
    if step.kind != "credit_note" or step.no == 1 or step.body is None or step.stripe_id is not None:
        return False
    steps = session.scalars(_OF_GRANT, {"grant": grant.id}).all()
    linked = {link["refund"] for link in json.loads(step.body).get("refunds", ())}
    refunds = [other for other in steps if other.kind == "refund" and other.state not in GIVES_NOTHING]
    out = sum(other.amount for other in refunds)
    left = out + grant.credit + grant.reduce + grant.out_of_band
    came_back = not linked <= {other.stripe_id for other in refunds}
    retracted = session.get_one(Incident, grant.incident_id).state == "retracted" and out < left
    if not left or not (came_back or retracted) or session.scalar(_MAY_BE_THERE, {"step": step.id}):
        return False
    _count(session, step, grant, reserved=0, refunded=0, sent=-_share(session, step, grant))
    before, step.state, step.lease_until = step.state, "cancelled", None
    since = "Refunds that it links came back" if came_back else "Its incident was retracted"
    step.reason = f"{since}: another note is about what is left."
    _witness(session, step, before, actor, None)
    note = Step(
        agency_id=step.agency_id, grant_id=grant.id, no=1 + max(other.no for other in steps), kind="credit_note",
        currency=step.currency, amount=left, state="approved", stripe_account=step.stripe_account,
    )  # fmt: skip
    session.add(note)
    session.flush()
    judge(session, grant)
    return True


def _call_off(session: Session, step: Step, ended: Move) -> None:
    """Steps that had waited for this one have nothing left to do. One that was sent once may be in Stripe: its answer
    is still taken in."""
    waiting = sa.select(Step).where(
        Step.grant_id == step.grant_id, Step.id != step.id, Step.first_sent_at.is_(None),
        Step.state.in_(("planned", "approved", "blocked", "needs_person")),
    )  # fmt: skip
    for other in session.scalars(waiting.with_for_update()).all():
        before, other.state, other.reason = other.state, "cancelled", ended.reason
        _witness(session, other, before, "engine", None)


def _fall_back(session: Session, step: Step, grant: Grant, part: int, reason: str) -> Grant:
    """The refund came back: it goes to the customer's balance where that is of use to them, else to a person; and so
    does what cannot go to the balance."""
    agency = session.get_one(Agency, step.agency_id)
    by_credit = step.kind != "balance" and agency.fall_back_to_credit and _goes_on(session, grant)
    other = Grant(
        agency_id=grant.agency_id,
        run_id=grant.run_id,
        incident_id=grant.incident_id,
        invoice_id=grant.invoice_id,
        customer_id=grant.customer_id,
        subscription_id=grant.subscription_id,
        channel="credit" if by_credit else "manual",
        currency=grant.currency,
        amount=part,
        credit=part if by_credit else 0,
        out_of_band=0 if by_credit else part,
        owed=grant.owed,
        granted_before=grant.granted_before,
        basis_seq=grant.basis_seq,
        state="approved" if by_credit else "needs_person",
        reason=f"{reason} " + ("It goes to the customer's balance." if by_credit else "Pay it back another way."),
        fallback_of=grant.fallback_of or grant.id,  # what could not go to the balance stands in for the refund as well
    )
    session.add(other)
    session.flush()
    # From now on, as a plan would: what others gave back before it came back was in the plan, or was taken off since.
    session.execute(sa.update(Grant).where(Grant.id == other.id).values(elsewhere=by_others()))
    if by_credit:
        session.add(
            Step(
                agency_id=grant.agency_id,
                grant_id=other.id,
                no=1,
                kind="balance",
                currency=grant.currency,
                amount=part,
                state="approved",
                stripe_account=step.stripe_account,
            )
        )
        session.flush()
    audit.record(
        session, "engine", "worker", "grant.fell_back", str(grant.id), agency_id=grant.agency_id,
        after={"grant": other.id, "channel": other.channel, "amount": part, "currency": grant.currency},
    )  # fmt: skip
    after_commit(session, "outages.send", grant.incident_id)
    return other


def _goes_on(session: Session, grant: Grant) -> bool:
    """Whether its subscription is billed again, so that what is on the customer's balance is of use to them."""
    ends = sa.exists().where(
        Retirement.agency_id == Subscription.agency_id, Retirement.subscription_id == Subscription.id,
        Retirement.kind == "cancel", Retirement.state != "done",
    )  # fmt: skip
    of_grant = sa.and_(Subscription.agency_id == grant.agency_id, Subscription.id == grant.subscription_id)
    goes_on = sa.and_(Subscription.status.in_(ALIVE), ~Subscription.cancel_at_period_end, ~ends)
    return bool(session.scalar(sa.select(sa.exists().where(of_grant, goes_on))))


def _hand_over_lines(session: Session, grant: Grant, other: Grant) -> None:
    """The arithmetic goes with the whole amount: a failed grant no longer counts for the lines that it was for."""
    columns = [column for column in GrantLine.__table__.columns if column.name != "grant_id"]
    of_grant = sa.select(sa.literal(other.id), *columns).where(GrantLine.grant_id == grant.id)
    session.execute(sa.insert(GrantLine).from_select(["grant_id", *(column.name for column in columns)], of_grant))


_LOCKED: Final = sa.select(Step).where(Step.id == sa.bindparam("step")).with_for_update()
_OF_GRANT: Final = sa.select(Step).where(Step.grant_id == sa.bindparam("grant"))
_MAY_BE_THERE: Final = sa.select(
    sa.exists().where(
        Attempt.step_id == sa.bindparam("step"),
        sa.or_(Attempt.outcome.is_(None), Attempt.outcome.in_((Outcome.UNKNOWN, Outcome.KEY_MISUSED))),
    )
)
_ITS_GRANT: Final = (
    sa.select(Grant)
    .where(Grant.agency_id == sa.bindparam("agency"), Grant.id == sa.bindparam("grant"))
    .with_for_update()
)
_TAKE_OF_PAYMENT: Final = sa.text(
    "UPDATE payments SET reserved = reserved + :reserved, refunded = refunded + :refunded"
    " WHERE agency_id = :agency AND id = :payment"
)
_TAKE_OF_RUN: Final = sa.text(
    "UPDATE run_totals SET sent = sent + :sent WHERE agency_id = :agency AND run_id = :run AND currency = :currency"
)
_WITNESS: Final = sa.text(
    """
    INSERT INTO step_events (agency_id, step_id, seq, from_state, to_state, actor, evidence)
    SELECT :agency, :step, coalesce(max(seq), 0) + 1, :before, :after, :actor, :evidence
    FROM step_events WHERE step_id = :step
    """
).bindparams(sa.bindparam("evidence", type_=StepEvent.evidence.type))
