"""Carry out what becomes of the subscriptions of a platform that does not come back, one by one, in Stripe.

Each call stands between two transactions, and begins with a fresh look: what is done already is not done again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import circuits, gateway, mirror
from billing.answers import Answer, Gone, LockedOut, Outcome, ReadRefused, Unreachable
from billing.facts import SubscriptionFact
from billing.gateway import Urgency
from billing.models import PlanWeight
from billing.outages import switch
from billing.outages.decisions import Retirement
from billing.outages.fates import ALIVE, SOLD_SINCE, WHOLE
from billing.outages.models import Incident
from billing.outages.waits import DAILY, LATER, LEASE, look_again_after
from tenants import audit
from tenants.db import OPERATOR, after_commit, one_of, prepared
from tenants.house import House
from tenants.models import Agency


@dataclass(frozen=True)
class Claim:
    row: Retirement
    account: str
    weights: Mapping[str, int]
    """The plans that depend on its platform, in basis points. Whoever decided may have seen others: since then a person
    or the customer may have seen to it."""


@dataclass(frozen=True)
class Ending:
    state: str
    reason: str | None = None
    due_in: timedelta = timedelta(0)
    fact: SubscriptionFact | None = None


def carry_out_due(house: House, limit: int) -> int:
    """Cancel or move what is planned to be. Safe to run anywhere, any number of times at once.

    What Stripe refused is tried each day: a person may have seen to it. Returns how many were worked on; fewer
    than `limit` means that none is due.
    """
    for worked in range(limit):
        with house.database.work(OPERATOR) as session:
            claim = _claim(session)
        if claim is None:
            return worked
        ending = _carry_out(house, claim)
        house.database.retried(OPERATOR, lambda session: _end(session, claim, ending))  # noqa: B023
    return limit


def due() -> sa.ColumnElement[bool]:
    """Of a Retirement: that it is still to be carried out, or looked at again."""
    return one_of(Retirement.state, "planned", "needs_person")


def is_halted() -> sa.ColumnElement[bool]:
    """Of a Retirement: that nothing of its incident, or on its account, may be sent now."""
    return switch.is_off(Retirement.incident_id, switch.account_of(Retirement.agency_id))


@prepared
def _next_planned() -> sa.Select[Retirement]:
    return _next("planned")


@prepared
def _next_refused() -> sa.Select[Retirement]:
    return _next("needs_person")


def _next(state: str) -> sa.Select[Retirement]:
    now = sa.func.clock_timestamp()
    return (
        sa.select(Retirement)
        .where(
            one_of(Retirement.state, state), Retirement.due_at <= now,
            sa.or_(Retirement.lease_until.is_(None), Retirement.lease_until < now), ~is_halted(),
            ~circuits.is_open(switch.account_of(Retirement.agency_id)),
        )
        .order_by(Retirement.due_at, Retirement.subscription_id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )  # fmt: skip


def _claim(session: Session) -> Claim | None:
    # Of very many that are planned the first is at the beginning of an index; those that were refused are few.
    row = session.scalar(_next_planned()) or session.scalar(_next_refused())
    if row is None:
        return None
    row.attempt_no += 1
    row.lease_until = sa.func.clock_timestamp() + LEASE
    session.flush()
    session.refresh(row)
    return Claim(
        row, session.get_one(Agency, row.agency_id).stripe_account or "", _weights_on_its_platform(session, row)
    )


def _weights_on_its_platform(session: Session, row: Retirement) -> dict[str, int]:
    weights = sa.select(PlanWeight.plan_id, PlanWeight.weight_bp).join(
        Incident, Incident.platform_id == PlanWeight.platform_id
    )
    return dict(session.execute(weights.where(Incident.id == row.incident_id, PlanWeight.weight_bp > 0)).all())


def _carry_out(house: House, claim: Claim) -> Ending:
    row = claim.row
    may_send = partial(switch.may_send, house, row.incident_id, claim.account)
    connection = gateway.connect(house, claim.account, Urgency.PAUSE, may_send)
    of_row = f"a{row.agency_id}:t{row.incident_id}:{row.subscription_id}"
    key = f"e{gateway.engine(house)}:{of_row}:{row.kind}:n{row.attempt_no}"
    try:
        subscription = connection.subscription(row.subscription_id)
    except Gone:
        return Ending("done", "The subscription is no longer there.")
    except ReadRefused as error:
        return Ending("needs_person", str(error), DAILY)
    except (Unreachable, LockedOut) as error:
        return Ending(row.state, str(error), look_again_after(row.attempt_no))
    if subscription.status not in ALIVE:
        return Ending("done", fact=subscription)
    items = {item.id: item.plan_id for item in subscription.items}
    left = {item: plan for item, plan in items.items() if plan in claim.weights}
    if not left:
        return Ending("done", "None of its plans depends on this platform any more.", fact=subscription)
    if row.kind == "cancel":
        if any(claim.weights.get(plan) != WHOLE for plan in items.values()):
            return Ending(
                "needs_person", "It has something else by now: move or cancel it in Stripe.", DAILY, subscription
            )
        return _answered(claim, connection.cancel(subscription.id, key=key))
    if set(left.values()) - row.moves.keys():
        others = "Its plans are others by now: move it in Stripe."
        return Ending("needs_person", others if row.moves else SOLD_SINCE, DAILY, subscription)
    moves = {item: row.moves[plan] for item, plan in left.items()}
    return _answered(claim, connection.move(subscription.id, moves, key=key))


def _answered(claim: Claim, answer: Answer[SubscriptionFact]) -> Ending:
    if answer.outcome is Outcome.DONE:
        return Ending("done", fact=answer.fact)
    if answer.outcome is Outcome.REFUSED:
        return Ending("needs_person", f"Stripe refused: {answer.message}", DAILY)
    if answer.outcome is Outcome.STOPPED:
        return Ending(claim.row.state, answer.message)
    wait = (
        LATER
        if answer.outcome in (Outcome.BUSY, Outcome.LIMITED, Outcome.NOT_SENT)
        else look_again_after(claim.row.attempt_no)
    )
    return Ending(claim.row.state, answer.message, wait)


def _end(session: Session, claim: Claim, ending: Ending) -> None:
    row = session.scalars(
        sa.select(Retirement)
        .where(
            Retirement.agency_id == claim.row.agency_id,
            Retirement.incident_id == claim.row.incident_id,
            Retirement.subscription_id == claim.row.subscription_id,
        )
        .with_for_update()
    ).one()
    if ending.fact is not None:
        mirror.record_subscription(session, row.agency_id, ending.fact)
    if row.attempt_no != claim.row.attempt_no or row.done_at is not None:
        return
    if row.state == "done" and ending.state != "done":  # it was called off meanwhile, and nothing of it has happened
        return
    row.lease_until = None
    row.state, row.reason = ending.state, ending.reason
    row.due_at = sa.func.clock_timestamp() + ending.due_in
    if ending.state == "done":
        row.done_at = sa.func.clock_timestamp()
        audit.record(
            session, "engine", "worker", f"subscription.{row.kind}", row.subscription_id, agency_id=row.agency_id,
            after={"incident": row.incident_id, "moves": row.moves},
        )  # fmt: skip
        after_commit(session, "outages.release", row.incident_id)
