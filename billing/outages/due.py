"""What there is to do: since when the oldest of it has been due, and whether anything of an incident is left."""

from typing import Any

import sqlalchemy as sa

from billing import circuits
from billing.outages import funding, held, hindrances, pauses, ramp, retirements, settlements, switch
from billing.outages.decisions import Retirement
from billing.outages.models import Grant, HeldInvoice, Pause, Run, Step
from billing.outages.steps import AT_WORK, over
from billing.outages.upcoming import WORKABLE, is_in_doubt, waits_its_turn
from tenants.db import OPERATOR, one_of
from tenants.house import House


def oldest() -> sa.Select[Any]:
    """Since when the oldest of all that workers do for incidents has been due, and what time it is."""
    # Of very many steps and held invoices the first that is free is at the beginning of an index; the others are few.
    now, until = sa.func.clock_timestamp(), sa.func.greatest(Step.due_at, Step.lease_until)
    first_step = (
        sa.select(until.label("due"))
        .where(one_of(Step.state, *WORKABLE), until <= now, _sendable(), ~circuits.is_open(Step.stripe_account))
        .order_by(Step.due_at, Step.id)
        .limit(1)
        .subquery()
    )
    free = [
        sa.select(sa.func.min(sa.func.greatest(table.due_at, table.lease_until)).label("due")).where(*states)
        for table, *states in (
            (Step, is_in_doubt()),
            (Step, hindrances.waits_for_a_dispute()),
            (Pause, one_of(Pause.state, "planned", "releasing"), ~pauses.is_halted(), ~_is_left_alone(Pause)),
            (Retirement, retirements.due(), ~retirements.is_halted(), ~_is_left_alone(Retirement)),
        )
    ]
    # Those that were stopped long ago have waited since their pause was lifted.
    stopped = sa.func.greatest(HeldInvoice.due_at, HeldInvoice.lease_until, Pause.released_at)
    first_held = (
        sa.select(stopped.label("due"))
        .where(held.is_work(), stopped <= now, ~_is_left_alone(HeldInvoice))
        .order_by(HeldInvoice.due_at, HeldInvoice.invoice_id)
        .limit(1)
        .subquery()
    )
    ending = sa.select(sa.func.min(pauses.ends_at())).where(pauses.is_to_end())
    to_open = sa.select(sa.func.min(Run.approved_at)).where(ramp.is_ready())
    ended = sa.select(sa.func.min(Run.approved_at)).where(over())
    every = sa.union_all(
        sa.select(first_step.c.due), sa.select(first_held.c.due), *free, ending, to_open, ended
    ).subquery()
    return sa.select(sa.func.min(every.c.due), sa.func.clock_timestamp())


def is_quiet(house: House, incident_id: str) -> bool:
    """Whether only time or a person can move this incident on."""
    of_grant = sa.and_(Step.agency_id == Grant.agency_id, Step.grant_id == Grant.id)
    waits = sa.exists().where(
        of_grant, sa.or_(Step.state == "pending", sa.and_(Step.state == "approved", funding.waits()))
    )
    # The note about refunds that have all come back is no more of its grant, and has an answer to come all the same.
    unanswered = sa.exists().where(
        of_grant, Step.kind == "credit_note", Step.state.in_(("approved", "sent", "unknown"))
    )
    noted = sa.and_(Grant.state == "failed", unanswered)
    off = switch.is_off(Grant.incident_id, Step.stripe_account)
    in_flight = sa.exists().where(of_grant, Step.state.in_(("sent", "unknown")))
    halted = sa.and_(sa.exists().where(of_grant, Step.state == "approved", off), ~in_flight)
    at_work = sa.and_(sa.or_(Grant.state.in_(AT_WORK), noted), ~waits, ~halted)
    of_run = sa.and_(Run.agency_id == Grant.agency_id, Run.id == Grant.run_id)
    running = sa.exists().where(Run.incident_id == incident_id, over())
    sending = sa.exists().where(
        Grant.incident_id == incident_id, at_work, sa.exists().where(of_run, Run.state.in_(("running", "done")))
    )
    retiring = sa.exists().where(
        Retirement.incident_id == incident_id, Retirement.state == "planned", ~retirements.is_halted()
    )
    pausing = sa.exists().where(
        Pause.incident_id == incident_id, Pause.state.in_(("planned", "releasing")), ~pauses.is_halted()
    )
    ended = sa.exists().where(
        Pause.incident_id == incident_id, pauses.is_to_end(), pauses.ends_at() <= sa.func.clock_timestamp()
    )
    drafts = sa.exists().where(Pause.incident_id == incident_id, held.is_work(), HeldInvoice.state != "needs_person")
    unplanned = sa.exists().where(Pause.incident_id == incident_id, settlements.is_overdue(Pause))
    with house.database.work(OPERATOR) as session:
        return not session.scalar(sa.select(sa.or_(running, sending, retiring, pausing, ended, drafts, unplanned)))


def _is_left_alone(table: type[Pause | HeldInvoice | Retirement]) -> sa.ColumnElement[bool]:
    return circuits.is_open(switch.account_of(table.agency_id))


def _sendable() -> sa.ColumnElement[bool]:
    of_run = sa.and_(Grant.agency_id == Step.agency_id, Grant.id == Step.grant_id)
    of_grant = sa.and_(Run.agency_id == Grant.agency_id, Run.id == Grant.run_id, Run.state.in_(("running", "done")))
    halted = switch.is_off(Grant.incident_id, Step.stripe_account)
    ready = sa.exists().where(of_run, of_grant, ramp.has_room(), ~halted)
    return sa.or_(Step.state != "approved", sa.and_(ready, ~waits_its_turn(), ~funding.waits()))
