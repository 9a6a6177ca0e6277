"""Which step is taken up next: of any agency that has some, by lot, in the order in which they are due."""

from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from billing import circuits, gateway, rates
from billing.answers import Outcome
from billing.outages import funding, hindrances, ramp, switch
from billing.outages.models import Attempt, Grant, Run, Step
from billing.outages.steps import GIVES_NOTHING
from tenants.db import BY_INDEX, one_of, planned, prepared
from tenants.models import Agency

WORKABLE: Final = ("approved", "sent", "unknown", "pending")


def first(session: Session) -> tuple[Step, datetime] | None:
    """The first step that is due, locked, and the database's time; None where none is.

    Of any agency that has some, by lot: one with very many does not make the others wait. Of one agency first what may
    have happened already and nobody knows, so that it does not stay unknown for as long as there is something new to
    send; then whichever has been due the longest.
    """
    found = None
    with planned(session, **BY_INDEX):
        for agency_id, may_begin in session.execute(_by_lot()).all():
            due = _first_due_of_agency if may_begin else _first_under_way_of_agency
            for one in (_first_unknown_of_agency, due):
                found = found or session.execute(one(), {"agency": agency_id}).first()
        found = found or session.execute((_first_due if session.scalar(_may_begin()) else _first_under_way)()).first()
        for daily in (_in_doubt, _disputed):
            found = found or session.execute(daily()).first()
    return None if found is None else (found[0], found[1])


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
