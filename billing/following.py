"""Catching up with what happened in a Stripe account, from its list of events, whether or not a webhook brought them.

How far an account was followed says since when the mirror may be older than Stripe; events that were lost, or that
nobody was there to take, cost a delay.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.answers import Gone
from billing.errors import Conflict, Refused
from billing.facts import EventFact
from billing.gateway import Gateway, connect
from billing.looking import LOOKS
from billing.mirror import refresh_all
from billing.models import SyncCursor
from billing.walks import SIDE_BY_SIDE, database_now
from billing.windows import iso
from tenants.db import OPERATOR
from tenants.house import House

OVERLAP: Final = timedelta(minutes=2)
"""Events are asked for again from so long before the last look: they may show up late."""
FOLLOW_EVERY: Final = timedelta(minutes=5)
"""Between two looks at Stripe's list of events, for those that no webhook brought."""
MOST_EVENTS: Final = 1_000
"""Events that are asked for, and then taken, together."""
SHORTEST: Final = timedelta(seconds=1)
"""Stripe counts the time of its objects in whole seconds."""
EVENTS_KEPT: Final = timedelta(days=29)
TOGETHER: Final = 25
"""Objects that are looked at, and then recorded, together."""


def oldest_due() -> sa.Select[Any]:
    """`(since when an account's events have to be asked for, now)`."""
    due = sa.func.min(SyncCursor.looked_at) + FOLLOW_EVERY
    return sa.select(sa.select(due).where(_is_followed()).scalar_subquery(), sa.func.clock_timestamp())


def _is_followed() -> sa.ColumnElement[bool]:
    return SyncCursor.fresh_at.is_not(None)


def due(house: House) -> str | None:
    """An account whose events have to be asked for, which this worker has to itself until the next look. None: none."""
    now = sa.func.clock_timestamp()
    oldest = (
        sa.select(SyncCursor.stripe_account)
        .where(_is_followed(), SyncCursor.looked_at <= now - FOLLOW_EVERY)
        .order_by(SyncCursor.looked_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    mine = sa.update(SyncCursor).where(SyncCursor.stripe_account == oldest.scalar_subquery()).values(looked_at=now)
    with house.database.work(OPERATOR) as session:
        return session.scalar(mine.returning(SyncCursor.stripe_account))


def follow(
    house: House,
    account: str,
    take: Callable[[Session, EventFact], object] | None = None,
    until: Callable[[], bool] = lambda: False,
) -> int:
    """Catch up with what happened since the last look; returns how many events there were.

    With `take`, each event is handed to it, oldest first: an inbox that knows an event already must not mind. Without
    it, every object that they name is refreshed here. What there is much of is taken in stretches of time, the cursor
    moves with each, and once `until` says so the rest is left to the next, who is due at once. An account that was
    never imported is left alone. Raises `Conflict` when Stripe no longer has the events since the last look.
    """
    started = events_until(house)
    fresh_at = _followed_to(house, account)
    if fresh_at is None:
        return 0
    count = 0
    for events, reached in _stretches(connect(house, account), fresh_at, started):
        if take is None:
            _refresh_named(house, account, events)
        else:
            _hand_over(house, events, take)
        count += len(events)
        with house.database.work(OPERATOR) as session:
            cursor = session.get_one(SyncCursor, account)
            cursor.fresh_at = max(reached, cursor.fresh_at or reached)
            cursor.last_event = events[0].id if events else cursor.last_event
            if reached < started and until():
                cursor.looked_at = sa.func.clock_timestamp() - FOLLOW_EVERY
                return count
    return count


def _stretches(connection: Gateway, reached: datetime, now: datetime) -> Iterator[tuple[Sequence[EventFact], datetime]]:
    """Every event since `reached`, newest first within a stretch, and the time up to which that is all of them.

    Stripe lists the newest first, so that a list that is cut off says nothing of what is older: one that has more than
    `MOST_EVENTS` is asked for again over half its time, as long as it comes to more than `reached`.
    """
    start = reached - OVERLAP
    end: datetime | None = None  # the last stretch is open: Stripe's clock may be ahead of ours
    while True:
        over = end or now
        divisible = over > reached + SHORTEST
        events: list[EventFact] = []
        for event in connection.events(created_from=start, created_before=end):
            events.append(event)
            if divisible and len(events) > MOST_EVENTS and events[MOST_EVENTS].created_at >= reached:
                break
        else:
            yield events, over
            if end is None:
                return
            wider = end + 2 * (end - start)
            start, reached, end = end, end, wider if wider < now else None
            continue
        end = max(reached + SHORTEST, reached + (over - reached) / 2).replace(microsecond=0)


def events_until(house: House) -> datetime:
    """Now; the database's time, where a machine is ahead of it: whatever the cursor has passed is never asked for."""
    return min(house.clock.now(), database_now(house).replace(microsecond=0))


def look_ahead(house: House, account: str) -> datetime | None:
    """Refresh what happened since the last look, and leave the cursor there: whoever takes events has them to come.

    Returns since when; None: the account was never imported, and is left alone. Raises `Conflict` as `follow` does.
    """
    fresh_at = _followed_to(house, account)
    if fresh_at is None:
        return None
    for events, _ in _stretches(connect(house, account), fresh_at, events_until(house)):
        _refresh_named(house, account, events)
    return fresh_at - OVERLAP


def _followed_to(house: House, account: str) -> datetime | None:
    with house.database.work(OPERATOR) as session:
        fresh_at = session.scalar(sa.select(SyncCursor.fresh_at).where(SyncCursor.stripe_account == account))
    if fresh_at is not None and events_until(house) - fresh_at > EVENTS_KEPT:
        raise Conflict(
            f"This account was last followed at {iso(fresh_at)}, and Stripe keeps events for 30 days only: "
            "run `flask stripe import` again."
        )
    return fresh_at


def _refresh_named(house: House, account: str, events: Sequence[EventFact]) -> None:
    """Each object once, however many events name it; what is gone meanwhile is gone."""
    named = dict.fromkeys((event.object_kind, event.object_id or "") for event in reversed(events))
    known = [(kind, id) for kind, id in named if kind in LOOKS and id]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        some = [known[first : first + TOGETHER] for first in range(0, len(known), TOGETHER)]
        for found in pool.map(lambda objects: refresh_all(house, account, objects), some):
            for one in found.values():
                if isinstance(one, Refused) and not isinstance(one, Gone):
                    raise one


def _hand_over(house: House, events: Sequence[EventFact], take: Callable[[Session, EventFact], object]) -> None:
    in_order = list(reversed(events))
    for first in range(0, len(in_order), 500):
        with house.database.work(OPERATOR) as session:
            for event in in_order[first : first + 500]:
                take(session, event)
