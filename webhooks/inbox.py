"""Stripe's events: each kept once, handled later, in any order, as often as it takes.

An event only says which object to look at: what is applied is the object as Stripe shows it when we look. Events are
taken in batches, so that many about one object cost one look, and many objects one transaction.
"""

import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Session

from billing import circuits, gateway, mirror
from billing.answers import Gone
from billing.errors import Refused
from billing.facts import EventFact
from billing.looking import LOOKS
from billing.upserts import text_array
from tenants.db import OPERATOR, after_commit
from tenants.house import House
from tenants.models import Agency
from webhooks import handlers
from webhooks.models import InboxEvent

TOGETHER = 50
"""Events that are handled together."""
LOOKING = timedelta(seconds=30)
"""How long one batch goes on looking: what it has not reached by then it gives back."""
TAKEN = timedelta(seconds=120)
"""How long whoever handles an event has it to itself: longer than the last look of a batch can take."""
NOT_REACHED = "Others came first."
BREAKS = 6
"""So often at least has whoever handled an event broken off before it is given up."""
PATIENCE = timedelta(days=3)
"""An event that cannot be handled for so long is for a person."""
UNKNOWN = timedelta(hours=24)
"""An object that Stripe does not show, and that we never knew, is looked for so long."""
AGAIN = (
    timedelta(seconds=10), timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(hours=1),
    timedelta(hours=6),
)  # fmt: skip
STRANGE_ACCOUNT = "No agency has this Stripe account."
# Of the table, and not of its class: built and compiled once, where a flood of events counts every millisecond.
_OTHERS_WAIT = sa.exists().where(InboxEvent.state == "received", InboxEvent.due_at <= sa.func.now())
_KEEP = insert(InboxEvent.metadata.tables["inbox_events"]).on_conflict_do_nothing().returning(_OTHERS_WAIT)


def receive(session: Session, event: EventFact, *, live: bool) -> bool:
    """Keep the event, or know it already. False: it came before. Rings, unless others wait that were rung for.

    What is not for us, or nobody's that we know, is kept too, with the reason, and not handled.
    """
    state, reason = _sorted(session, event, live)
    told = {
        "stripe_account": event.account, "event_id": event.id, "type": event.type[:200],
        "object_kind": event.object_kind, "object_id": event.object_id or "", "livemode": event.livemode,
        "api_version": event.api_version, "created_at": event.created_at, "state": state, "reason": reason,
    }  # fmt: skip
    kept = session.execute(_KEEP, told).one_or_none()
    if kept is not None and state == "received" and not kept[0]:
        after_commit(session, "webhooks.sweep", 0)
    return kept is not None


def taking(account: str, *, live: bool) -> Callable[[Session, EventFact], bool]:
    """`receive` for events that were listed in one Stripe account ('' is the operator's), where they name none."""
    return lambda session, event: receive(session, replace(event, account=account), live=live)


def handle_due(house: House) -> int:
    """Handle some of the events that are due: rung for in vain, or tried before. Returns how many; 0: none is due.

    Safe to run anywhere, any number of times at once.
    """
    with house.database.work(OPERATOR) as session:
        taken, at = _take(session)
    for account, events in itertools.groupby(taken, key=lambda event: event.stripe_account):
        _carry_out(house, account, list(events), at)
    return len(taken)


def oldest_due() -> sa.Select[Any]:
    """When the oldest waiting event is or was due, and the time now."""
    first = sa.select(InboxEvent.due_at).where(_waits()).order_by(InboxEvent.due_at).limit(1)
    return sa.select(first.scalar_subquery(), sa.func.clock_timestamp())


def _sorted(session: Session, event: EventFact, live: bool) -> tuple[str, str | None]:
    if event.livemode != live:
        return "ignored", f"It is of {'live' if event.livemode else 'test'} mode, and our key is not."
    if event.account and not is_ours(session, event.account):
        return "orphan", STRANGE_ACCOUNT
    if event.object_id is None or event.object_kind not in LOOKS:
        return "ignored", "We keep nothing of this kind."
    return "received", None


def is_ours(session: Session, account: str) -> bool:
    """Whether an agency has this connected account."""
    return session.scalar(sa.select(Agency.id).where(Agency.stripe_account == account)) is not None


def _waits() -> sa.ColumnElement[bool]:
    """Of an InboxEvent: that it is to be handled, and that Stripe may be asked about it now."""
    return sa.and_(InboxEvent.state == "received", ~circuits.is_open(InboxEvent.stripe_account))


def _take(session: Session) -> tuple[list[InboxEvent], datetime]:
    """Events that this worker has to itself for a while, by account, and the database's time when it took them."""
    at = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    was_dropped = sa.and_(InboxEvent.attempts > 0, InboxEvent.reason.is_(None))
    gives_up = sa.and_(was_dropped, InboxEvent.attempts >= BREAKS, InboxEvent.received_at < at - PATIENCE)
    due = session.execute(
        sa.select(InboxEvent.id, was_dropped, gives_up)
        .where(_waits(), InboxEvent.due_at <= at)
        .order_by(InboxEvent.due_at, InboxEvent.id)
        .limit(TOGETHER)
        .with_for_update(skip_locked=True)
    ).all()
    given_up = [id for id, _, gives_up in due if gives_up]
    if given_up:
        why = sa.func.concat("Whoever handled it broke off, each of ", InboxEvent.attempts, " times.")
        _end(session, InboxEvent.id.in_(given_up), state="failed", reason=why)
    # Whoever had taken one of these never came back: it is taken alone, so that if it broke them it breaks no others.
    alone = [id for id, was_dropped, gives_up in due if was_dropped and not gives_up]
    chosen = alone[:1] or [id for id, was_dropped, _ in due if not was_dropped]
    taken = session.scalars(
        sa.update(InboxEvent)
        .where(InboxEvent.id.in_(chosen))
        .values(
            attempts=InboxEvent.attempts + 1,
            due_at=at + sa.func.greatest(TAKEN, _wait_after(InboxEvent.attempts + 1)),
            reason=None,
        )
        .returning(InboxEvent)
    ).all()
    return sorted(taken, key=lambda event: (event.stripe_account, event.id)), at


def _carry_out(house: House, account: str, taken: Sequence[InboxEvent], at: datetime) -> None:
    """Look at what these events of one account are about, once each, and write down what became of it.

    `at` is the database's time before the first look.
    """
    about = {event.id: (event.object_kind, event.object_id) for event in taken}
    found = mirror.refresh_all(house, account, sorted(about.values()), time.monotonic() + LOOKING.total_seconds())
    facts = {one: fact for one, fact in found.items() if not isinstance(fact, Refused)}

    def write(session: Session) -> None:
        strays = {}
        for one, fact in facts.items():
            stray = handlers.apply(session, account, fact, at, gateway.engine(house))
            if stray is not None:
                strays[one] = stray
        _answered(session, account, at, facts.keys() - strays.keys(), "handled")
        for one, reason in strays.items():
            _answered(session, account, at, [one], "orphan", reason)
        for id, one in about.items():
            refusal = found.get(one)
            if isinstance(refusal, Gone) and handlers.was_known(session, *one):
                _answered(session, account, at, [one], "ignored", refusal.message)
            elif isinstance(refusal, Gone):
                _put_off(session, id, refusal.message, UNKNOWN, "orphan")
            elif isinstance(refusal, Refused):
                _put_off(session, id, refusal.message)
            elif one not in found:
                _end(
                    session,
                    InboxEvent.id == id,
                    due_at=sa.func.clock_timestamp(),
                    attempts=InboxEvent.attempts - 1,
                    reason=NOT_REACHED,
                )

    house.database.retried(OPERATOR, write)


def _answered(
    session: Session,
    account: str,
    at: datetime,
    objects: Collection[mirror.Object],
    state: str,
    reason: str | None = None,
) -> None:
    """These objects were looked at: that answers every event about them that was here before the look.

    An event that another worker is just ending is left to it.
    """
    if not objects:
        return
    arrays = sa.func.unnest(*[text_array(names) for names in zip(*objects, strict=True)])
    named = arrays.table_valued("kind", "id").render_derived()
    answered = (
        sa.select(InboxEvent.id)
        .join(named, sa.and_(InboxEvent.object_kind == named.c.kind, InboxEvent.object_id == named.c.id))
        .where(InboxEvent.stripe_account == account, InboxEvent.state == "received", InboxEvent.received_at <= at)
        .with_for_update(of=InboxEvent, skip_locked=True)
    )
    _end(session, InboxEvent.id.in_(answered), state=state, reason=reason, handled_at=sa.func.clock_timestamp())


def _put_off(session: Session, id: int, reason: str, patience: timedelta = PATIENCE, end: str = "failed") -> None:
    too_long = InboxEvent.received_at < sa.func.clock_timestamp() - patience
    _end(
        session,
        InboxEvent.id == id,
        state=sa.case((too_long, end), else_="received"),
        reason=reason,
        due_at=sa.func.clock_timestamp() + _wait_after(InboxEvent.attempts),
    )


def _wait_after(attempts: sa.ColumnElement[int] | InstrumentedAttribute[int]) -> sa.ColumnElement[timedelta]:
    return sa.case(*[(attempts == no, wait) for no, wait in enumerate(AGAIN, 1)], else_=AGAIN[-1])


def _end(session: Session, which: sa.ColumnElement[bool], **values: Any) -> None:
    ended = sa.update(InboxEvent).where(which, InboxEvent.state == "received").values(**values)
    session.execute(ended.execution_options(synchronize_session=False))
