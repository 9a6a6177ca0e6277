"""Take a step, and commit an attempt: what happens in the database before anything leaves for Stripe."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing import gateway
from billing.answers import Outcome
from billing.models import Payment, Refund
from billing.outages import bodies, freezing, hindrances, notes, ramp, settlements, upcoming
from billing.outages.bodies import Dossier, Written
from billing.outages.models import Attempt, Grant, Step
from billing.outages.steps import Move, links_nothing, locked, may_follow, move, recall, reserve
from billing.outages.waits import DAILY, KEY_LIFE, LATER, LEASE, SOON, TWICE_APART
from tenants.house import House

ROOM = frozenset(["never_more_than_captured", "never_more_than_approved"])
MOST_TRIES = 5


@dataclass(frozen=True)
class Claim:
    """One step that this worker has to itself from `claimed_at` to `lease_until`, with what the rows say of it."""

    step: Step
    grant: Grant
    payment: Payment | None
    claimed_at: datetime
    dossier: Dossier | None
    doubtful: bool
    """An earlier attempt may have happened: look before anything is sent."""
    silences: int
    deaths: int
    """Workers that ended over it without a word, since a person last let it be tried again."""
    key_is_dead: bool
    key_is_spent: bool
    """Stripe keeps repeating a stored failure under this key, and has done so for a while."""
    known_refunds: frozenset[str]
    rested: bool
    """Its last attempt surely never arrived, a while ago: somebody may have given its payment back since."""
    called_off: bool
    """Its incident was retracted: what may have been sent is looked for, and nothing is sent any more. What goes to
    the balance in place of a refund that came back is not called off: the customer had that."""
    moot: bool
    """It is a note that is to be sent again, and all refunds that it links came back since: nobody needs it. One that
    may be there already is looked for all the same."""

    @property
    def lease_until(self) -> datetime:
        return self.claimed_at + LEASE


@dataclass(frozen=True)
class Sent:
    """One attempt that is committed and on its way."""

    claim: Claim
    step: Step
    no: int
    key: str
    seen_on: float
    """When (time.monotonic()) the switch was last seen to be on."""


def claim(session: Session) -> Claim | None:
    """A step that is due, leased to the caller; None where none is.

    What was taken up `MOST_TRIES` times and never came to anything goes to a person.
    """
    found = upcoming.first(session)
    if found is None:
        return None
    step, now = found
    if step.tries >= MOST_TRIES and may_follow(step, "needs_person"):
        why = f"{step.tries} times something went wrong before anything was sent: see the log."
        move(session, step, Move("needs_person", why, due_in=DAILY))
        return claim(session)
    step.tries += 1
    step.lease_until = now + LEASE
    session.flush()
    return _history(session, step, now)


def _history(session: Session, step: Step, now: datetime) -> Claim:
    rows = bodies.rows_of(session, step)
    attempts = _attempts(session, step) if step.attempt_no else []
    silent = [one for one in attempts if one.outcome in (None, Outcome.UNKNOWN)]
    # Whoever used our key for something else may have made what this step is for.
    misused = any(one.outcome == Outcome.KEY_MISUSED for one in attempts)
    under_key = [one for one in attempts if one.key.endswith(f":n{step.epoch}")]
    replayed = [one for one in under_key if one.replayed and (one.http_status or 0) >= 500]
    doubtful = step.state != "pending" and (bool(silent) or misused)
    retracted = rows.incident.state == "retracted" and rows.grant.fallback_of is None
    return Claim(
        step=step,
        grant=rows.grant,
        payment=rows.payment,
        claimed_at=now,
        dossier=bodies.dossier(session, step, rows) if step.body is None else None,
        doubtful=doubtful,
        silences=len(silent),
        deaths=sum(one.outcome is None for one in under_key),
        key_is_dead=any(one.sent_at < now - KEY_LIFE for one in under_key),
        key_is_spent=any(one.sent_at < now - TWICE_APART for one in replayed[1:]),
        known_refunds=_known_refunds(session, step, rows.payment),
        rested=bool(attempts) and not doubtful and attempts[-1].sent_at < now - TWICE_APART,
        moot=step.state in ("approved", "sent") and links_nothing(session, step, rows.grant),
        called_off=retracted and not session.scalar(sa.select(hindrances.is_paper()).where(Step.id == step.id)),
    )


def _attempts(session: Session, step: Step) -> Sequence[Attempt]:
    return session.scalars(sa.select(Attempt).where(Attempt.step_id == step.id).order_by(Attempt.no)).all()


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
    if step.state == "approved" and step.first_sent_at is not None and not may_follow(step, decided.to):
        move(session, step, Move("sent", evidence={"attempt": step.attempt_no}))  # an earlier attempt is what was found
    step.tries = 0
    if decided.to == step.state:  # nothing new but the time at which to look again
        step.lease_until, step.reason = None, decided.reason
        step.due_at = sa.func.clock_timestamp() + (decided.due_in or timedelta(0))
    else:
        turn_away(session, step, decided, recalled=claim.called_off)


def turn_away(session: Session, step: Step, decided: Move, *, refused: bool = False, recalled: bool = False) -> None:
    """Move a step that nothing was made of. One that ends, as the plan was changed, is planned again.

    Where other steps of its grant went out, what is left over of it is for a person, not for the next run, unless it is
    `recalled` with its incident. Nothing is left over of a note, `refused` or not sent, of which all refunds came back
    meanwhile: it ends.
    """
    ends = decided.to == "cancelled"
    if ends and recalled and step.no > 1 and recall(session, step, decided):
        return
    if (ends or (refused and decided.to != "unknown")) and links_nothing(session, step):
        for to in ("needs_person", "cancelled"):
            move(session, step, replace(decided, to=to, due_in=None))
        return
    if ends and (step.no > 1 or step.state == "sent"):
        move(session, step, Move("needs_person", decided.reason, evidence=decided.evidence))
        if step.no > 1:
            return
    move(session, step, decided)
    if ends:
        incident = sa.select(Grant.incident_id).where(Grant.agency_id == step.agency_id, Grant.id == step.grant_id)
        settlements.at_once(session, step.agency_id, session.scalars(incident).one())


def begin(session: Session, house: House, claim: Claim, written: Written | None) -> Sent | None:
    """Commit one attempt: the frozen body, its key, the room that it takes. None: it is not to be sent now."""
    seen_on = time.monotonic()
    grant: Grant | None = None
    step = locked(session, claim.step.id)
    if step is None or step.lease_until != claim.lease_until or step.state != claim.step.state:
        return None
    stands = hindrances.of(session, step.id)
    if stands.stopped or (stands.frozen and claim.doubtful):
        step.lease_until, step.due_at, step.tries = None, sa.func.clock_timestamp() + LATER, 0
        return None
    if not claim.doubtful:
        hindered = Move("blocked", freezing.WAITS) if stands.frozen else hindrances.changed(session, step)
        if step.first_sent_at is None and stands.there:
            hindered = Move("needs_person", hindrances.THERE_ALREADY)
        if hindered is not None:
            turn_away(session, step, hindered)
            return None
    if step.first_sent_at is None:
        if written is None or step.amount != claim.step.amount:
            step.lease_until = None
            return None
        _lower(session, step, written.short)
        try:
            grant = reserve(session, step)
        except IntegrityError as error:
            _without_room(session, claim, error)
            return None
        if not (stands.begun or ramp.begin(session, step.agency_id, grant.run_id)):
            session.rollback()
            _give_back(session, claim)
            return None
        step.kind = written.kind
        step.body = notes.frozen(written.body)
        step.body_sha256 = hashlib.sha256(step.body.encode()).hexdigest()
        step.stripe_version = gateway.API_VERSION
        step.first_sent_at = stands.now
    elif claim.key_is_spent and claim.doubtful:
        step.epoch += 1
    step.attempt_no += 1
    key = f"e{gateway.engine(house)}:a{step.agency_id}:s{step.id}:n{step.epoch}"
    session.add(Attempt(agency_id=step.agency_id, step_id=step.id, no=step.attempt_no, key=key))
    attempt = {"attempt": step.attempt_no}
    move(session, step, Move("sent", due_in=LEASE, evidence=attempt), now=stands.now, lease=LEASE, grant=grant)
    return Sent(claim, step, step.attempt_no, key, seen_on)


def _give_back(session: Session, claim: Claim) -> None:
    step = locked(session, claim.step.id)
    if step is not None and step.lease_until == claim.lease_until:
        step.lease_until, step.due_at, step.tries = None, sa.func.clock_timestamp() + SOON, 0


def may_leave(session: Session, sent: Sent) -> bool:
    """Whether the attempt may begin now: its process was held up since it was committed.

    Not once its lease is over: whoever has taken the step up since looks for what this attempt did before it sends.
    """
    step = session.execute(_STILL_SENT, {"step": sent.step.id}).one()
    return step.attempt_no == sent.no and step.leased and not hindrances.of(session, sent.step.id).stopped


_STILL_SENT: Final = sa.select(
    Step.attempt_no,
    sa.and_(Step.state == "sent", Step.lease_until > sa.func.clock_timestamp()).label("leased"),
).where(Step.id == sa.bindparam("step"))


def _lower(session: Session, step: Step, short: int) -> None:
    """Stripe makes no paper of exactly this amount: the rest of it stays owed, for the next run to find.

    Refunds that went out already are with the customer. Then the paper alone speaks of less.
    """
    if not short:
        return
    step.amount -= short
    grant = session.scalars(sa.select(Grant).where(Grant.id == step.grant_id).with_for_update()).one()
    way = "refund" if step.refund else max(notes.OTHER_WAYS, key=lambda name: int(getattr(grant, name)))
    if getattr(grant, way) >= short:
        setattr(grant, way, getattr(grant, way) - short)
        step.refund -= short if way == "refund" else 0
        grant.amount -= short
        grant.short += short
    session.flush()


def _without_room(session: Session, claim: Claim, error: IntegrityError) -> None:
    """A constraint has ended the transaction: in another one, whoever still has the step says why it is not sent."""
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    if constraint not in ROOM:
        raise error
    session.rollback()
    step = locked(session, claim.step.id)
    if step is not None and step.lease_until == claim.lease_until:
        turn_away(session, step, Move("cancelled", f"plan_changed: {constraint}."))
