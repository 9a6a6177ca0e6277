"""Hold and release: the engine's pause on a subscription's billing, one row per incident, mirrored in Stripe.

A subscription is paused in Stripe while any open incident holds it. What somebody else had paused is left as it was.
Where holds of one subscription want its renewals held differently, as its agency said otherwise between two incidents,
the one that has stood the longest decides, and when it lets go hands over to the next. Each call to Stripe stands
between two transactions: the first takes the pause for a while, the second writes what came.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from billing import circuits, gateway, mirror, rates
from billing.answers import Answer, Gone, LockedOut, Outcome, ReadRefused, Unreachable
from billing.facts import SubscriptionFact
from billing.gateway import Urgency
from billing.models import Subscription
from billing.outages import held, holds, stopping, switch
from billing.outages.decisions import Retirement
from billing.outages.models import Grant, GrantLine, Incident, Pause, Run
from billing.outages.waits import DAILY, LATER, LEASE, SOON, look_again_after
from billing.windows import unix
from tenants import audit
from tenants.db import BY_INDEX, OPERATOR, after_commit, one_of, planned, prepared
from tenants.house import House
from tenants.models import Agency

LIVE = ("planned", "held")
UNFINISHED = ("waiting", "running", "halted")
ENDED = ("canceled", "incomplete_expired", "incomplete")


@dataclass(frozen=True)
class Claim:
    """One pause that this worker has to itself until the lease ends."""

    pause: Pause
    account: str
    ours: frozenset[str]
    """Every incident that may have paused this subscription for us."""
    others_hold: bool
    follows: bool
    """Another stands already: how renewals are held is as that one has it."""
    heir: Pause | None
    """The one that has stood the longest of the others, where it holds renewals in another way than this one."""
    found_so_far: dict[str, Any] | None
    given_back_until: datetime | None


@dataclass(frozen=True)
class Ending:
    state: str
    reason: str | None = None
    due_in: timedelta = timedelta(0)
    found: dict[str, Any] | None = None
    fact: SubscriptionFact | None = None


def hold_due(house: House, limit: int) -> int:
    """Pause what is planned to be, the soonest renewal first. Safe to run anywhere, any number of times at once.

    Returns how many pauses were worked on; fewer than `limit` means that none is due.
    """
    return _each_due(house, "planned", limit, _hold)


def release_due(house: House, limit: int) -> int:
    """Lift what is to be released, and hand over the drafts that were made meanwhile. Safe to run as `hold_due` is."""
    with house.database.work(OPERATOR) as session:
        release_settled(session)
    return _each_due(house, "releasing", limit, _release)


def release_settled(session: Session) -> int:
    """Start the release of every pause whose incident is resolved and whose agency's run for that is done.

    What nobody has begun to pause is simply cancelled. What waits for a person is looked at again: whatever they did in
    Stripe, the drafts that were made meanwhile are still to be handed over.
    """
    changed = session.execute(_release_settled()).all()
    for agency_id, incident_id in sorted(set(changed)):
        count = changed.count((agency_id, incident_id))
        audit.record(
            session, "engine", "worker", "pauses.releasing", incident_id, agency_id=agency_id, after={"count": count}
        )
        after_commit(session, "outages.release", incident_id)
    return len(changed)


@prepared
def _release_settled() -> ReturningUpdate[int, str]:
    settled = (
        sa.select(Pause.id)
        .where(is_to_end(), ends_at() <= sa.func.clock_timestamp())
        .with_for_update(of=Pause, skip_locked=True)
    )
    return (
        sa.update(Pause)
        .where(Pause.id.in_(settled))
        .values(state=sa.case((_UNTOUCHED, "cancelled"), else_="releasing"), due_at=sa.func.clock_timestamp())
        .returning(Pause.agency_id, Pause.incident_id)
        .execution_options(synchronize_session=False)
    )


def ends_at() -> sa.ColumnElement[datetime]:
    """Of a Pause that is to end: when. Each day it is looked whether a person has seen to one that waits for them."""
    at_once = sa.func.least(Pause.due_at, sa.func.clock_timestamp())
    return sa.case((Pause.state == "needs_person", Pause.due_at), else_=at_once)


def is_to_end() -> sa.ColumnElement[bool]:
    """Of a Pause: that its incident is over and its agency's run for that is done.

    Of one that was retracted nothing more is sent: it waits for no answer about what was, each invoice does.
    """
    over = sa.exists().where(Incident.id == Pause.incident_id, Incident.state.in_(("resolved", "retracted", "retired")))
    unfinished = sa.exists().where(
        Run.agency_id == Pause.agency_id, Run.incident_id == Pause.incident_id, Run.state.in_(UNFINISHED),
        Incident.id == Pause.incident_id, Incident.state != "retracted",
    )  # fmt: skip
    # Whoever is to be cancelled, or to have another plan, must not be billed for the old one once more.
    retiring = sa.exists().where(
        Retirement.agency_id == Pause.agency_id,
        Retirement.incident_id == Pause.incident_id,
        Retirement.subscription_id == Pause.subscription_id,
        Retirement.state != "done",
    )
    return sa.and_(Pause.state.in_((*LIVE, "needs_person")), over, ~unfinished, ~retiring)


_UNTOUCHED: Final = sa.literal_column(holds.UNTOUCHED, sa.Boolean())


def confirm(session: Session, subscription: SubscriptionFact, seen_at: datetime) -> None:
    """Read our pause back: `subscription` is as Stripe showed it at `seen_at` or later, on the database's clock.

    Where somebody lifted it in Stripe, it is theirs now: we do not pause again behind their back, a person is told.
    """
    holding = sa.select(Pause).where(
        Pause.subscription_id == subscription.id, Pause.state == "held", Pause.held_at < seen_at
    )
    for pause in session.scalars(holding.with_for_update()).all():
        if subscription.pause_behavior is not None:
            pause.read_back_at = seen_at
        elif subscription.status not in ENDED:
            pause.state = "needs_person"
            pause.reason = "Somebody lifted this pause in Stripe: its renewals are charged again."
            audit.record(
                session, "engine", "stripe", "pause.lifted_by_others", subscription.id, agency_id=pause.agency_id
            )


def is_halted() -> sa.ColumnElement[bool]:
    """Of a Pause: that nothing of its incident, or on its account, may be sent now."""
    return switch.is_off(Pause.incident_id, switch.account_of(Pause.agency_id))


def _is_left_alone() -> sa.ColumnElement[bool]:
    return circuits.is_open(switch.account_of(Pause.agency_id))


def _each_due(house: House, state: str, limit: int, work: Any) -> int:
    worked = 0
    while worked < limit and not stopping.asked():
        with house.database.work(OPERATOR) as session, planned(session, **BY_INDEX):
            found = next((one for next_of in _NEXT[state] if (one := session.execute(next_of()).first())), None)
            claim = _claim(session, *found) if found is not None else None
        if found is None:
            break
        worked += 1
        if claim is not None:
            ending = work(house, claim)
            house.database.retried(OPERATOR, lambda session: _end(session, claim, ending))  # noqa: B023
    return worked


@prepared
def _next_to_hold() -> sa.Select[*tuple[Any, ...]]:
    return _next("planned")


@prepared
def _first_to_hold() -> sa.Select[*tuple[Any, ...]]:
    return _next("planned").where(~_turns_are_taken())


@prepared
def _next_to_release() -> sa.Select[*tuple[Any, ...]]:
    return _next("releasing")


@prepared
def _first_to_release() -> sa.Select[*tuple[Any, ...]]:
    return _next("releasing").where(~_turns_are_taken())


def _turns_are_taken() -> sa.ColumnElement[bool]:
    """Of a Pause: that its account keeps enough of us waiting. Others come first; with none, one waits with them."""
    called = ("GET /v1/subscriptions/{id}", "POST /v1/subscriptions/{id}")
    account = sa.func.coalesce(Agency.stripe_account, "")
    return Pause.agency_id.in_(sa.select(Agency.id).where(rates.are_taken(account, Urgency.PAUSE, *called)))


_NEXT: Final = {"planned": (_first_to_hold, _next_to_hold), "releasing": (_first_to_release, _next_to_release)}


def _next(state: str) -> sa.Select[*tuple[Any, ...]]:
    free = sa.or_(Pause.lease_until.is_(None), Pause.lease_until < sa.func.clock_timestamp())
    return (
        sa.select(Pause, switch.account_of(Pause.agency_id), sa.func.clock_timestamp())
        .select_from(Pause)
        .join(
            Subscription,
            sa.and_(Subscription.agency_id == Pause.agency_id, Subscription.id == Pause.subscription_id),
        )
        .where(
            one_of(Pause.state, state), Pause.due_at <= sa.func.clock_timestamp(), free, ~is_halted(), ~_is_left_alone()
        )
        .order_by(Pause.renews_at, Pause.id)
        .limit(1)
        .with_for_update(of=(Pause, Subscription), skip_locked=True)
    )


def _claim(session: Session, pause: Pause, account: str, now: datetime) -> Claim | None:
    """Take the pause, unless another incident's pause of the same subscription is under way right now."""
    others = session.scalars(_OTHERS, {"subscription": pause.subscription_id, "pause": pause.id}).all()
    if any(one.lease_until is not None and one.lease_until > now for one in others):
        pause.due_at = now + SOON
        return None
    pause.attempt_no += 1
    pause.lease_until = now + LEASE
    held_by = [one for one in others if one.state == "held"]
    heir = min(held_by, key=lambda one: (one.held_at or now, one.id), default=pause)
    return Claim(
        pause=pause,
        account=account,
        ours=frozenset([pause.incident_id, *(one.incident_id for one in others if one.attempt_no)]),
        others_hold=any(one.state in LIVE for one in others),
        follows=bool(held_by),
        heir=heir if heir.behavior != pause.behavior else None,
        found_so_far=pause.found,
        given_back_until=_given_back_until(session, pause.subscription_id) if pause.state == "releasing" else None,
    )


_OTHERS: Final = sa.select(Pause).where(
    Pause.subscription_id == sa.bindparam("subscription"), Pause.id != sa.bindparam("pause")
)


def _hold(house: House, claim: Claim) -> Ending:
    connection = gateway.connect(house, claim.account, Urgency.PAUSE, partial(_may_leave, house, claim))
    try:
        subscription = connection.subscription(claim.pause.subscription_id)
    except Gone:
        return Ending("left", "The subscription is no longer there.")
    except ReadRefused as error:
        return Ending("needs_person", str(error), DAILY)
    except (Unreachable, LockedOut) as error:
        return Ending("planned", str(error), look_again_after(claim.pause.attempt_no))
    if subscription.status in ENDED:
        return Ending("left", "The subscription had ended.", fact=subscription)
    if subscription.pause_behavior is not None:
        found = claim.found_so_far or _as_found(subscription)
        if subscription.pause_incident not in claim.ours:
            return Ending("left", "It had been paused before by somebody else.", found=found, fact=subscription)
        if claim.follows or subscription.pause_behavior == claim.pause.behavior:
            return Ending("held", found=claim.found_so_far or {"pause_collection": None}, fact=subscription)
    answer = connection.pause(
        subscription.id, claim.pause.behavior, claim.pause.incident_id, key=_key(house, claim, "hold")
    )
    if answer.outcome is Outcome.DONE:
        return Ending("held", found={"pause_collection": None}, fact=answer.fact)
    return _not_done(answer, "planned", claim)


def _release(house: House, claim: Claim) -> Ending:
    goes_on = Ending("released", "Another incident goes on holding it.")
    if claim.others_hold and claim.heir is None:  # one that is only planned looks by itself how renewals are held
        return goes_on
    connection = gateway.connect(house, claim.account, Urgency.PAUSE, partial(_may_leave, house, claim))
    try:
        subscription = connection.subscription(claim.pause.subscription_id)
        if claim.heir is not None:
            if _is_ours(subscription, claim) and subscription.pause_behavior != claim.heir.behavior:
                key = _key(house, claim, "handover")
                answer = connection.pause(subscription.id, claim.heir.behavior, claim.heir.incident_id, key=key)
                if answer.fact is None:
                    return _not_done(answer, "releasing", claim)
                subscription = answer.fact
            return replace(goes_on, fact=subscription)
        if _is_ours(subscription, claim):
            answer = connection.lift(subscription.id, key=_key(house, claim, "release"))
            if answer.fact is None:
                return _not_done(answer, "releasing", claim)
            subscription = answer.fact
        if _is_free_of_charge(subscription, claim):
            answer = connection.restart(subscription.id, key=_restart_key(house, claim))
            if answer.fact is None:
                return _not_done(answer, "releasing", claim)
            subscription = answer.fact
        # Lifting a pause touches no draft: https://docs.stripe.com/billing/subscriptions/pause-payment
        held.take_in_drafts(house, claim.account, claim.pause)
    except Gone:
        return Ending("released", "The subscription is no longer there.")
    except ReadRefused as error:
        return Ending("needs_person", str(error), DAILY)
    except (Unreachable, LockedOut) as error:
        return Ending("releasing", str(error), look_again_after(claim.pause.attempt_no))
    if subscription.status in ENDED:  # and keeps for good whichever pause it had
        return Ending("released", "The subscription had ended.", fact=subscription)
    theirs = subscription.pause_behavior is not None
    return Ending("released", "Somebody else's pause is left as it is." if theirs else None, fact=subscription)


def _may_leave(house: House, claim: Claim) -> bool:
    """Whether the pause is still to be made, or lifted, by us: looked at after Stripe was read, before it is told."""
    mine = {"pause": claim.pause.id, "state": claim.pause.state, "attempt": claim.pause.attempt_no}
    with house.database.work(OPERATOR) as session:
        return session.scalar(_still_ours(), mine) is not None


@prepared
def _still_ours() -> sa.Select[int]:
    of_mine = (Pause.id, "pause"), (Pause.state, "state"), (Pause.attempt_no, "attempt")
    return sa.select(Pause.id).where(*(column == sa.bindparam(name) for column, name in of_mine), ~is_halted())


def _is_ours(subscription: SubscriptionFact, claim: Claim) -> bool:
    if subscription.pause_behavior is None or subscription.status in ENDED:
        return False
    return subscription.pause_incident in claim.ours


def _is_free_of_charge(subscription: SubscriptionFact, claim: Claim) -> bool:
    """Whether all that was paid for the present period went back (policy `full`), and it is to go on: then it begins
    afresh. Afterwards the period is another one, so that nobody is charged twice."""
    going_on = subscription.status == "active" and not subscription.cancel_at_period_end
    if not going_on or subscription.pause_behavior is not None or claim.given_back_until is None:
        return False
    return subscription.renews_at is not None and subscription.renews_at <= claim.given_back_until


def _given_back_until(session: Session, subscription_id: str) -> datetime | None:
    """The end of the last period of which the whole payment went back, or is on its way: a bank may take days."""
    whole = (
        sa.select(sa.func.max(GrantLine.period_end))
        .join(Grant, sa.and_(Grant.agency_id == GrantLine.agency_id, Grant.id == GrantLine.grant_id))
        .where(
            Grant.subscription_id == subscription_id, Grant.state.in_(("succeeded", "pending")), Grant.whole == "1/1"
        )
    )
    return session.scalar(whole)


def _not_done(answer: Answer[SubscriptionFact], state: str, claim: Claim) -> Ending:
    if answer.outcome is Outcome.REFUSED:
        return Ending("needs_person", f"Stripe refused: {answer.message}", DAILY)
    if answer.outcome is Outcome.STOPPED:
        return Ending(state, "Sending was halted, or the incident has ended or begun again.")
    wait = (
        LATER
        if answer.outcome in (Outcome.BUSY, Outcome.LIMITED, Outcome.NOT_SENT)
        else look_again_after(claim.pause.attempt_no)
    )
    return Ending(state, answer.message, wait)


def _end(session: Session, claim: Claim, ending: Ending) -> None:
    pause = session.scalars(_LOCKED, {"pause": claim.pause.id}).one()
    if ending.fact is not None:
        mirror.record_subscription(session, claim.pause.agency_id, ending.fact)
    if pause.attempt_no != claim.pause.attempt_no:
        return  # the lease ran out, and whoever took the pause since reads Stripe anew
    pause.lease_until = None
    pause.found = pause.found or ending.found
    if pause.state in ("releasing", "cancelled") and claim.pause.state == "planned":
        # Resolved while we were calling: what we may have paused has to be lifted.
        pause.state = "releasing"
        pause.due_at = sa.func.clock_timestamp()
        after_commit(session, "outages.release", pause.incident_id)
        return
    if pause.state == "planned" and claim.pause.state == "releasing":
        # Reopened while we were calling: what we may have lifted has to be held again.
        pause.due_at = sa.func.clock_timestamp()
        after_commit(session, "outages.hold", pause.incident_id)
        return
    pause.state = ending.state
    pause.reason = ending.reason
    pause.due_at = sa.func.clock_timestamp() + ending.due_in
    if ending.state == "held":
        pause.held_at = pause.read_back_at = sa.func.clock_timestamp()
    if ending.state == "released":
        pause.released_at = sa.func.clock_timestamp()


_LOCKED: Final = sa.select(Pause).where(Pause.id == sa.bindparam("pause")).with_for_update()


def _as_found(subscription: SubscriptionFact) -> dict[str, Any]:
    resumes_at = subscription.pause_resumes_at.isoformat() if subscription.pause_resumes_at else None
    return {"pause_collection": {"behavior": subscription.pause_behavior, "resumes_at": resumes_at}}


def _restart_key(house: House, claim: Claim) -> str:
    """One for each period, however often it is tried: an answer that is late must not charge for a second one."""
    end = unix(claim.given_back_until) if claim.given_back_until else 0
    return f"e{gateway.engine(house)}:a{claim.pause.agency_id}:p{claim.pause.id}:restart:{end}"


def _key(house: House, claim: Claim, verb: str) -> str:
    pause = claim.pause
    return f"e{gateway.engine(house)}:a{pause.agency_id}:p{pause.id}:{verb}:n{pause.attempt_no}"
