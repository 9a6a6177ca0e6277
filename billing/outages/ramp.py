"""A run begins with one grant, then ten, then all; and it halts by itself when too many fail or stay unknown.

`opened_to` says how many of a run's grants may be begun: 0 until its preflight has passed, 1, 10, and NULL for all of
them. What is wrong with all of them shows at the first, and costs one.
"""

from datetime import timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from billing.models import Refund
from billing.outages.models import Grant, Run, Step
from tenants import audit
from tenants.db import after_commit, one_of, prepared

WIDER: Final[dict[int, int | None]] = {1: 10, 10: None}
FAILED_BP: Final = 200
UNKNOWN_BP: Final = 100
FEWEST_FAILED: Final = 5
FEWEST_UNKNOWN: Final = 3
"""Fewer than so many are a person's to look at one by one, and no reason to stop the others."""
STAYS_UNKNOWN: Final = timedelta(minutes=5)
"""After so long Stripe has been asked three more times in vain."""


def has_room() -> sa.ColumnElement[bool]:
    """Of a Step beside its Run: that its grant was begun already, or that the run is opened for one more."""
    return sa.or_(is_open(), has_begun())


def is_open() -> sa.ColumnElement[bool]:
    """Of a Run: that one more of its grants may begin."""
    return sa.or_(Run.opened_to.is_(None), Run.begun < Run.opened_to)


def has_begun() -> sa.ColumnElement[bool]:
    """Of a Step: that one of its grant was sent before."""
    before = aliased(Step)  # not shared: threads that use one for the first time at once can meet it half made
    return (
        sa.exists()
        .where(before.agency_id == Step.agency_id, before.grant_id == Step.grant_id, before.first_sent_at.is_not(None))
        .correlate_except(before)
    )


def begin(session: Session, agency_id: int, run_id: str) -> bool:
    """Count a grant that is sent for the first time now. False: its run is not opened for it yet."""
    return session.execute(_BEGIN, {"agency": agency_id, "run": run_id}).first() is not None


_BEGIN: Final = sa.text(
    "UPDATE runs SET begun = begun + 1"
    " WHERE agency_id = :agency AND id = :run AND (opened_to IS NULL OR begun < opened_to) RETURNING begun"
)


def review(session: Session) -> bool:
    """Open what has gone well so far, and halt what has not. Safe to run anywhere, any number of times.

    Returns whether a run was opened wider.
    """
    halted = _halt_troubled(session)
    opened = [run for run in session.scalars(_ready()).all() if (run.agency_id, run.id) not in halted]
    for run in opened:
        run.opened_to = WIDER[run.opened_to or 1]
        after_commit(session, "outages.send", run.incident_id)
    return bool(opened)


@prepared
def _ready() -> sa.Select[Run]:
    found = sa.select(Run).where(is_ready()).order_by(Run.agency_id, Run.id)
    return found.with_for_update(skip_locked=True)


def is_ready() -> sa.ColumnElement[bool]:
    """Of a Run: that all of it that might begin has, and has ended known: it is to be opened wider."""
    in_flight = sa.exists().where(
        Grant.agency_id == Run.agency_id, Grant.run_id == Run.id, one_of(Grant.state, "sent", "unknown")
    )
    # One that is done may have been so before anybody looked, and grants are added to it when a refund comes back.
    return sa.and_(
        Run.state.in_(("running", "done")), Run.opened_to.in_(list(WIDER)), Run.begun >= Run.opened_to, ~in_flight
    )


def halt(session: Session, run: Run, reason: str) -> None:
    """The run stops itself until a person continues it. What is in flight ends known."""
    run.state, run.halted_by, run.halt_reason = "halted", None, reason
    audit.record(
        session, "engine", "worker", "run.halted_itself", run.id, agency_id=run.agency_id,
        after={"reason": reason, "incident": run.incident_id},
    )  # fmt: skip


def trust(run: Run) -> None:
    """A person has looked: what went wrong so far no longer counts, and the run is opened to the end.

    A run that had not begun has its preflight once more.
    """
    run.halt_reason = None
    if run.opened_to == 0:
        run.look_at = sa.func.clock_timestamp()
        return
    run.opened_to, run.trusted_from, run.begun_before = None, sa.func.clock_timestamp(), run.begun


def _halt_troubled(session: Session) -> set[tuple[int, str]]:
    rows = session.execute(_troubles()).all()
    halted: set[tuple[int, str]] = set()
    for agency_id, run_id, failed, unknown in rows:
        run = session.scalar(
            sa.select(Run)
            .where(Run.agency_id == agency_id, Run.id == run_id, Run.state == "running")
            .with_for_update(skip_locked=True)
        )
        reason = why_halt(run.begun - run.begun_before, failed, unknown, run.opened_to) if run is not None else None
        if run is not None and reason is not None:
            halt(session, run, reason)
            halted.add((agency_id, run_id))
    return halted


def why_halt(begun: int, failed: int, unknown: int, opened_to: int | None) -> str | None:
    """Why a run has to stop, of which so many grants were begun, or None. Pure."""
    if failed >= FEWEST_FAILED and failed * 10_000 > FAILED_BP * begun:
        return f"{failed:,} of {begun:,} refunds failed: more than {FAILED_BP // 100} %."
    fewest = FEWEST_UNKNOWN if opened_to is None else 1
    if unknown >= fewest and unknown * 10_000 > UNKNOWN_BP * begun:
        return f"Of {unknown:,} of {begun:,} refunds Stripe does not say what became: more than {UNKNOWN_BP // 100} %."
    return None


@prepared
def _troubles() -> sa.Select[int, str, int, int]:
    """Of each running run: how many of its steps failed, and how many stay unknown, since a person last trusted it."""
    lacked_money = sa.exists().where(  # what comes next waits for it already: see `funding`
        Refund.agency_id == Step.agency_id, Refund.id.in_((Step.refund_id, Step.stripe_id)),
        Refund.failure_reason == "insufficient_funds",
    )  # fmt: skip
    failed = sa.or_(Step.state == "needs_person", sa.and_(Step.state == "failed", ~lacked_money))
    unknown = sa.and_(
        Step.state == "unknown", Step.first_sent_at < sa.func.clock_timestamp() - STAYS_UNKNOWN
    )  # fmt: skip
    return (
        sa.select(Grant.agency_id, Grant.run_id, sa.func.count().filter(failed), sa.func.count().filter(unknown))
        .join(Step, sa.and_(Step.agency_id == Grant.agency_id, Step.grant_id == Grant.id))
        .join(Run, sa.and_(Run.agency_id == Grant.agency_id, Run.id == Grant.run_id))
        .where(
            Run.state == "running",
            one_of(Step.state, "failed", "needs_person", "unknown"),
            Step.first_sent_at.is_not(None),
            sa.or_(Run.trusted_from.is_(None), Step.first_sent_at >= Run.trusted_from),
            sa.or_(failed, unknown),
        )
        .group_by(Grant.agency_id, Grant.run_id)
    )
