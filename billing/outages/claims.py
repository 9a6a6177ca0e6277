"""Take a step, and commit an attempt: what happens in the database before anything leaves for Stripe."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from billing import circuits, gateway, rates
from billing.answers import Outcome
from billing.models import Payment, Refund
from billing.outages import bodies, freezing, funding, hindrances, notes, ramp, settlements, switch
from billing.outages.bodies import Dossier, Written
from billing.outages.models import Attempt, Grant, Run, Step
from billing.outages.steps import GIVES_NOTHING, Move, links_nothing, locked, may_follow, move, reserve
from billing.outages.waits import DAILY, KEY_LIFE, LATER, LEASE, SOON, TWICE_APART
from tenants.db import BY_INDEX, one_of, planned, prepared
from tenants.house import House
from tenants.models import Agency

ROOM = frozenset(["never_more_than_captured", "never_more_than_approved"])
WORKABLE = ("approved", "sent", "unknown", "pending")
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

    Of any agency that has some, by lot: one with very many does not make the others wait. Of one agency first what may
    have happened already and nobody knows, so that it does not stay unknown for as long as there is something new to
    send; then whichever has been due the longest. What was taken up `MOST_TRIES` times and never came to anything goes
    to a person.
    """
    found = None
    with planned(session, **BY_INDEX):
        for agency_id, may_begin in session.execute(_by_lot()).all():
            due = _first_due_of_agency if may_begin else _first_under_way_of_agency
            for first in (_first_unknown_of_agency, due):
                found = found or session.execute(first(), {"agency": agency_id}).first()
        found = found or session.execute((_first_due if session.scalar(_may_begin()) else _first_under_way)()).first()
        for daily in (_in_doubt, _disputed):
            found = found or session.execute(daily()).first()
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


@prepared
def _first_unknown_of_agency() -> sa.Select[Step, datetime]:
    # As below, in an order that no index has but theirs: what waits to be sent has nearly the same one.
    ordered = _first(one_of(Step.state, "sent", "unknown")).order_by(None)
    ordered = ordered.order_by(Step.agency_id, Step.due_at, Step.first_sent_at)
    return ordered.where(Step.agency_id == sa.bindparam("agency"))


@prepared
def _first_due_of_agency() -> sa.Select[Step, datetime]:
    return _due().where(Step.agency_id == sa.bindparam("agency"))


@prepared
def _first_under_way_of_agency() -> sa.Select[Step, datetime]:
    return _under_way().where(Step.agency_id == sa.bindparam("agency"))


@prepared
def _first_due() -> sa.Select[Step, datetime]:
    return _due()


@prepared
def _first_under_way() -> sa.Select[Step, datetime]:
    return _under_way()


def _under_way() -> sa.Select[Step, datetime]:
    # As above: those that wait may be very many.
    ordered = _due().order_by(None).order_by(Step.agency_id, Step.first_sent_at, Step.id)
    return ordered.where(_is_under_way())


def _is_under_way() -> sa.ColumnElement[bool]:
    """Of a Step that may be due: that it is not its grant's beginning.

    A run that may begin no other grant, halted or not opened further yet, has few such steps and very many others.
    """
    one: sa.ColumnElement[int] = sa.literal_column("1")  # said as the index says it
    further = sa.and_(one_of(Step.state, "approved"), sa.or_(Step.no > one, Step.first_sent_at.is_not(None)))
    return sa.or_(one_of(Step.state, "sent", "unknown", "pending"), further)


@prepared
def _by_lot() -> sa.Select[int, bool]:
    """Two agencies that have work, and whether either may begin a grant that waits.

    First those whose account has turns: where enough wait for them already, one more would be missing elsewhere.
    """
    working = sa.text(_WITH_WORK).columns(id=sa.BigInteger).subquery("working")
    called = "GET /v1/credit_notes/preview", "POST /v1/credit_notes", "POST /v1/refunds", "GET /v1/refunds/{id}"
    account = sa.func.coalesce(Agency.stripe_account, "")
    taken = rates.are_taken(account, gateway.Urgency.GRANT, *called).label("taken")
    of_agency = sa.select(working.c.id, taken).join(Agency, Agency.id == working.c.id)
    lot = of_agency.order_by(taken, sa.func.random()).limit(2).subquery("lot")
    has_room = _with_room().where(Run.agency_id == lot.c.id).correlate(lot)
    return sa.select(lot.c.id, has_room).order_by(lot.c.taken)


@prepared
def _may_begin() -> sa.Select[bool]:
    return sa.select(_with_room())


def _with_room() -> sa.Exists:
    """A run that may begin one of its grants. Accounts that are halted are looked at for each step."""
    waiting = sa.exists().where(
        Grant.agency_id == Run.agency_id, Grant.run_id == Run.id, one_of(Grant.state, "approved")
    )
    return sa.exists().where(
        Run.state.in_(("running", "done")), ramp.is_open(), ~switch.is_off(Run.incident_id), waiting
    )


@prepared
def _in_doubt() -> sa.Select[Step, datetime]:
    return (
        sa.select(Step, sa.func.clock_timestamp())
        .where(is_in_doubt(), *_free())
        .limit(1)
        .with_for_update(skip_locked=True)
    )


@prepared
def _disputed() -> sa.Select[Step, datetime]:
    return (
        sa.select(Step, sa.func.clock_timestamp())
        .where(hindrances.waits_for_a_dispute(), *_free())
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _due() -> sa.Select[Step, datetime]:
    # Not joined: one look at the first in the order of the index, however many there are, and never a sort of them all.
    may_begin = (
        sa.exists()
        .where(
            Grant.agency_id == Step.agency_id,
            Grant.id == Step.grant_id,
            Run.agency_id == Grant.agency_id,
            Run.id == Grant.run_id,
            Run.state.in_(("running", "done")),
            ~switch.is_off(Grant.incident_id, Step.stripe_account),
            ramp.has_room(),
        )
        .correlate(Step)
    )
    new = sa.and_(~waits_its_turn(), ~funding.waits(), may_begin)
    return _first(one_of(Step.state, *WORKABLE)).where(sa.or_(Step.state != "approved", new))


def _first(states: sa.ColumnElement[bool]) -> sa.Select[Step, datetime]:
    return (
        sa.select(Step, sa.func.clock_timestamp())
        .where(states, *_free(), ~circuits.is_open(Step.stripe_account))
        .order_by(Step.due_at, Step.id)
        .limit(1)
        .with_for_update(of=Step, skip_locked=True)
    )


def waits_its_turn() -> sa.ColumnElement[bool]:
    """Of a Step: that an earlier one of its grant has not ended, since there is one call at a time for an invoice.

    A refund that its bank keeps for days is no call any more, and no end either: the paper about it waits, the refund
    of another payment does not.
    """
    earlier = aliased(Step)  # not shared: see `ramp.has_room`
    return (
        sa.exists()
        .where(
            earlier.grant_id == Step.grant_id,
            earlier.no < Step.no,
            earlier.state.not_in(("succeeded", *GIVES_NOTHING)),
            sa.or_(earlier.state != "pending", Step.kind != "refund"),
        )
        .correlate_except(earlier)
    )


def is_in_doubt() -> sa.ColumnElement[bool]:
    """Of a Step: that a person has it although it may be in Stripe. Each day it is looked for once more."""
    unanswered = sa.or_(Attempt.outcome.is_(None), Attempt.outcome == Outcome.UNKNOWN)
    # Fenced: else the planner may begin with the attempts, of which there are very many.
    silent = sa.exists(sa.select(Attempt.no).where(Attempt.step_id == Step.id, unanswered).offset(0).correlate(Step))
    waits = one_of(Step.state, "needs_person")
    nameless = sa.func.coalesce(Step.stripe_id, "") == ""  # IS NULL would lead through all that were never sent
    return sa.and_(waits, nameless, Step.first_sent_at.is_not(None), silent)


def _free() -> tuple[sa.ColumnElement[bool], ...]:
    now = sa.func.clock_timestamp()
    return Step.due_at <= now, sa.or_(Step.lease_until.is_(None), Step.lease_until < now)


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
        turn_away(session, step, decided)


def turn_away(session: Session, step: Step, decided: Move, *, refused: bool = False) -> None:
    """Move a step that nothing was made of. One that ends, as the plan was changed, is planned again.

    Where other steps of its grant went out, what is left over of it is for a person, not for the next run. Nothing is
    left over of a note, `refused` or not sent, of which all refunds came back meanwhile: it ends.
    """
    ends = decided.to == "cancelled"
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


# One look into the index for each agency that has work, however many steps each has.
_WITH_WORK: Final = """
    WITH RECURSIVE agency(id) AS (
        (SELECT agency_id FROM steps WHERE state IN ('approved', 'sent', 'unknown', 'pending')
         ORDER BY agency_id LIMIT 1)
        UNION ALL
        SELECT (SELECT agency_id FROM steps
                WHERE state IN ('approved', 'sent', 'unknown', 'pending') AND agency_id > agency.id
                ORDER BY agency_id LIMIT 1)
        FROM agency WHERE agency.id IS NOT NULL
    )
    SELECT id FROM agency WHERE id IS NOT NULL
    """
