"""Stripe's events: each kept once, handled later, in any order, as often as it takes.

An event only says which object to look at: what is applied is the object as Stripe shows it when we look.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing import gateway, mirror
from billing.answers import Gone, LockedOut, ReadRefused, Unreachable
from billing.facts import EventFact
from billing.looking import LOOKS
from billing.models import SyncCursor
from tenants.db import OPERATOR, after_commit
from tenants.house import House
from tenants.models import Agency
from webhooks import handlers
from webhooks.models import InboxEvent

TAKEN = timedelta(seconds=120)
"""How long whoever handles an event has it to itself."""
PATIENCE = timedelta(hours=24)
"""An event that cannot be handled for so long is for a person."""
AGAIN = (
    timedelta(seconds=10), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(hours=1),
)  # fmt: skip


def receive(session: Session, event: EventFact, *, live: bool) -> bool:
    """Keep the event, or know it already. False: it came before. Rings for what is to be handled.

    What is not for us is kept too, with the reason, and never handled.
    """
    ignored = _ignored(session, event, live)
    kept = session.scalar(
        insert(InboxEvent)
        .values(
            stripe_account=event.account,
            event_id=event.id,
            type=event.type[:200],
            object_kind=event.object_kind,
            object_id=event.object_id or "",
            livemode=event.livemode,
            api_version=event.api_version,
            created_at=event.created_at,
            state="ignored" if ignored else "received",
            reason=ignored,
        )
        .on_conflict_do_nothing()
        .returning(InboxEvent.id)
    )
    if kept is not None and ignored is None:
        after_commit(session, "webhooks.handle", kept)
    return kept is not None


def taking(account: str, *, live: bool) -> Callable[[Session, EventFact], bool]:
    """`receive` for events that were listed in one Stripe account ('' is the operator's), where they name none."""
    return lambda session, event: receive(session, replace(event, account=account), live=live)


def accounts(house: House) -> list[str]:
    """The Stripe accounts that are followed."""
    with house.database.work(OPERATOR) as session:
        return list(session.scalars(sa.select(SyncCursor.stripe_account).order_by(SyncCursor.stripe_account)))


def handle(house: House, event_id: int) -> bool:
    """Fetch what one event is about, and apply it. False: it is not to be handled now. Safe to run at once."""
    with house.database.work(OPERATOR) as session:
        claim = _claim(session, InboxEvent.id == event_id)
    if claim is not None:
        _carry_out(house, claim)
    return claim is not None


def handle_due(house: House, limit: int) -> int:
    """Handle up to `limit` events that are due: rung for in vain, or tried before. Returns how many."""
    for worked in range(limit):
        with house.database.work(OPERATOR) as session:
            claim = _claim(session, sa.true())
        if claim is None:
            return worked
        _carry_out(house, claim)
    return limit


def oldest_due() -> sa.Select[Any]:
    """When the oldest waiting event is or was due, and the time now."""
    waiting = sa.select(sa.func.min(InboxEvent.due_at)).where(InboxEvent.state == "received").scalar_subquery()
    return sa.select(waiting, sa.func.clock_timestamp())


def _ignored(session: Session, event: EventFact, live: bool) -> str | None:
    if event.livemode != live:
        return f"It is of {'live' if event.livemode else 'test'} mode, and our key is not."
    if event.account and session.scalar(sa.select(Agency.id).where(Agency.stripe_account == event.account)) is None:
        return "No agency has this Stripe account."
    if event.object_id is None or event.object_kind not in LOOKS:
        return "We keep nothing of this kind."
    return None


def _claim(session: Session, which: sa.ColumnElement[bool]) -> InboxEvent | None:
    event = session.scalar(
        sa.select(InboxEvent)
        .where(which, InboxEvent.state == "received", InboxEvent.due_at <= sa.func.clock_timestamp())
        .order_by(InboxEvent.due_at, InboxEvent.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if event is None:
        return None
    event.attempts += 1
    event.due_at = sa.func.clock_timestamp() + TAKEN
    session.flush()
    session.refresh(event)
    return event


def _carry_out(house: House, claim: InboxEvent) -> None:
    seen_at = claim.due_at - TAKEN  # before anything was fetched
    try:
        seen = mirror.refresh(house, claim.stripe_account, claim.object_kind, claim.object_id)
    except (Unreachable, LockedOut, ReadRefused) as error:
        reason = str(error)
        house.database.retried(OPERATOR, lambda session: _put_off(session, claim, reason))
        return
    except Gone as error:
        reason = str(error)
        house.database.retried(OPERATOR, lambda session: _done(session, claim, "ignored", reason))
        return

    def apply(session: Session) -> None:
        handlers.apply(session, claim.stripe_account, seen, seen_at, gateway.engine(house))
        _done(session, claim, "handled", None)

    house.database.retried(OPERATOR, apply)


def _done(session: Session, claim: InboxEvent, state: str, reason: str | None) -> None:
    """The object was looked at: that answers every event about it that was here before the look."""
    answered = sa.and_(
        InboxEvent.stripe_account == claim.stripe_account,
        InboxEvent.object_kind == claim.object_kind,
        InboxEvent.object_id == claim.object_id,
        InboxEvent.state == "received",
        InboxEvent.received_at < claim.due_at - TAKEN,
    )
    session.execute(
        sa.update(InboxEvent)
        .where(sa.or_(InboxEvent.id == claim.id, answered))
        .values(state=state, reason=reason, handled_at=sa.func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )


def _put_off(session: Session, claim: InboxEvent, reason: str) -> None:
    wait = AGAIN[min(claim.attempts, len(AGAIN)) - 1]
    too_long = InboxEvent.received_at < sa.func.clock_timestamp() - PATIENCE
    session.execute(
        sa.update(InboxEvent)
        .where(InboxEvent.id == claim.id, InboxEvent.state == "received")
        .values(
            state=sa.case((too_long, "failed"), else_="received"),
            reason=reason,
            due_at=sa.func.clock_timestamp() + wait,
        )
    )
