"""Events that wait or that a person has to see to: listed, counted, and tried again."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import Conflict, NotAllowed, NotFound
from billing.windows import iso
from tenants import audit
from tenants.db import after_commit
from tenants.models import Member
from webhooks import inbox
from webhooks.models import InboxEvent

STATES: Final = ("received", "handled", "ignored", "failed", "orphan")
FOR_A_PERSON: Final = ("failed", "orphan")
WHO: Final = ("finance", "approver")


def counts(session: Session) -> dict[str, int]:
    """How many events there are in each state."""
    found = dict(session.execute(sa.select(InboxEvent.state, sa.func.count()).group_by(InboxEvent.state)).all())
    return {state: found.get(state, 0) for state in STATES}


def listed(
    session: Session, *, state: str | None = None, before: int | None = None, limit: int
) -> list[dict[str, Any]]:
    """The latest events, newest first; without a state those that wait, and those for a person."""
    states = (state,) if state else ("received", *FOR_A_PERSON)
    found = sa.select(InboxEvent).where(InboxEvent.state.in_(states)).order_by(InboxEvent.id.desc()).limit(limit)
    if before is not None:
        found = found.where(InboxEvent.id < before)
    return [
        {
            "id": event.id, "event": event.event_id, "account": event.stripe_account, "type": event.type,
            "object": event.object_id, "state": event.state, "attempts": event.attempts, "reason": event.reason,
            "received_at": iso(event.received_at),
            "due_at": iso(event.due_at) if event.state == "received" else None,
        }
        for event in session.scalars(found)
    ]  # fmt: skip


def try_again(session: Session, by: Member, origin: str, *ids: int) -> int:
    """Have these events, or without ids every one that is for a person, handled anew. Returns how many.

    Their time begins anew, too. What is of an account that no agency has stays where it is. Raises `NotFound`,
    `NotAllowed`, and `Conflict` for one that is not for a person.
    """
    if by.role not in WHO:
        raise NotAllowed(f"{by.email} is {by.role}: events are tried again by the operator's finance.")
    wanted = InboxEvent.id.in_(ids) if ids else InboxEvent.state.in_(FOR_A_PERSON)
    events = session.scalars(sa.select(InboxEvent).where(wanted).order_by(InboxEvent.id).with_for_update()).all()
    missing = set(ids) - {event.id for event in events}
    if missing:
        raise NotFound(f"There is no event {min(missing)}.")
    again = 0
    for event in events:
        known = not event.stripe_account or inbox.is_ours(session, event.stripe_account)
        if event.state not in FOR_A_PERSON or (ids and not known):
            why = f"is {event.state}" if known else f"is of {event.stripe_account}, which no agency has: make one first"
            raise Conflict(f"Event {event.id} {why}.")
        if known:
            again += 1
            before = {"state": event.state, "reason": event.reason}
            audit.record(session, by.email, origin, "event.again", event.event_id, before=before)
            event.state, event.reason, event.attempts, event.handled_at = "received", None, 0, None
            event.received_at = event.due_at = sa.func.clock_timestamp()
    if again:
        after_commit(session, "webhooks.sweep", 0)
    return again
