"""An older database that comes back is noticed before anything is sent from it, and stops all sending.

Nobody has to remember anything: whoever is about to send holds the database against its anchor first, at the start,
once a minute, and after each new connection. One that is behind, or another one, stops all sending at once, until
everything was found again (see `recovery`).

A machine without an anchor cannot tell. It sends nothing until one that has an anchor has looked after it, and said so
in the database; where none is alive, everything is stopped and found again.
"""

import logging
import threading
import time
import weakref
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from billing.outages.findings import Reconciliation
from billing.outages.models import Control
from tenants import anchors, audit
from tenants.anchors import Anchor, Anchors
from tenants.db import OPERATOR, Database, after_commit
from tenants.house import House

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 60.0
"""Seconds for which one look at the anchor is good."""
WAITS: Final = 5.0
"""Seconds between two looks of who waits to hear that the database is no older copy."""
PATIENCE: Final = timedelta(minutes=2)
"""So long who has no anchor waits for who has one, each of whom looks within `LOOK_EVERY` and a sweep."""
COUNTED: Final = {
    "attempts": "(SELECT count(*) FROM attempts)",
    "step_events": "(SELECT count(*) FROM step_events)",
    "step_ids": "(SELECT last_value FROM steps_id_seq)",
}
EVERYTHING: Final = ""
VOUCHED: Final = "anchor"
"""The scope of no switch: its row says when a machine last found the database to be no older than its anchor."""
US: Final = "restore"


@dataclass
class _Watch:
    file: Anchors
    looked_at: float = -LOOK_EVERY
    connections: int = -1
    may_send: bool = True
    first: Anchor | None = None
    """The database as it was when it was first seen from here, without an anchor."""
    lock: threading.Lock = field(default_factory=threading.Lock)


_watches: "weakref.WeakKeyDictionary[Database, _Watch]" = weakref.WeakKeyDictionary()


def look(house: House) -> bool:
    """Hold the database against its anchor, unless this process did so within a minute; stop all sending if it is
    behind. False: there is no anchor here, and nothing may be sent from here until somebody who has one has looked.

    Does nothing where no place for anchors is set.
    """
    watch = _watch_of(house)
    if watch is None:
        return True
    with watch.lock:
        if not _is_fresh(house, watch):
            _look(house, watch)
        return watch.may_send


def look_again(house: House) -> None:
    """As `look`, however short ago this process last did so."""
    watch = _watch_of(house)
    if watch is not None:
        watch.looked_at = -LOOK_EVERY
        look(house)


def _watch_of(house: House) -> _Watch | None:
    if house.database not in _watches and (file := anchors.kept(house.settings)) is not None:
        return _watches.setdefault(house.database, _Watch(file))
    return _watches.get(house.database)


def _is_fresh(house: House, watch: _Watch) -> bool:
    good_for = LOOK_EVERY if watch.may_send else min(WAITS, LOOK_EVERY)
    return time.monotonic() < watch.looked_at + good_for and watch.connections == house.database.connections


def _look(house: House, watch: _Watch) -> None:
    before = watch.file.last()
    with house.database.work(OPERATOR) as session:
        now = anchors.taken(session, COUNTED)
        connections = house.database.connections
        if before is not None:
            found = _held_against(session, before, now)
        elif now.counted["attempts"]:
            found = _held_against_nothing(session, watch, now)
        else:
            found = _Found.AS_IT_WAS
        if found is _Found.AS_IT_WAS:
            _vouch(session)
    if found in (_Found.AS_IT_WAS, _Found.ANEW):
        watch.file.write(now, anew=found is _Found.ANEW)
    watch.may_send = found is not _Found.UNKNOWN
    watch.looked_at, watch.connections = time.monotonic(), connections


class _Found(Enum):
    AS_IT_WAS = auto()
    ANEW = auto()
    """It is another one, or an older one, and was reconciled with Stripe: its anchors begin here."""
    STOPPED = auto()
    UNKNOWN = auto()


def _held_against(session: Session, before: Anchor, now: Anchor) -> _Found:
    shown = anchors.behind(session, before, now)
    if not shown:
        return _Found.AS_IT_WAS
    if _was_found_again(session, Reconciliation.begun_at > before.at):  # another machine has noticed, too
        return _Found.ANEW
    stop(session, f"An older database came back. {' '.join(shown)}")
    return _Found.STOPPED


def _held_against_nothing(session: Session, watch: _Watch, now: Anchor) -> _Found:
    """Nobody here knows how far the database was. What may be believed of its rows is what was written since it was
    first seen from here: nothing of that can have come back with a copy."""
    if watch.first is None or anchors.behind(session, watch.first, now):
        watch.first = now
        log.warning("No anchor of this database is here: nothing is sent from here before it is known to be no copy.")
    since = watch.first.at
    vouched = sa.exists().where(Control.scope == VOUCHED, Control.at > since)
    if session.scalar(sa.select(vouched)) or _was_found_again(session, Reconciliation.ended_at > since):
        return _Found.ANEW
    if now.at < since + PATIENCE:
        return _Found.UNKNOWN
    stop(session, "Nobody has an anchor of this database: it may be an older one that came back.")
    return _Found.STOPPED


def _was_found_again(session: Session, when: sa.ColumnElement[bool]) -> bool:
    """Whether everything was found again. Whoever is just ending a stop ends it first: what was found is no reason to
    stop again."""
    session.execute(sa.select(Control.scope).where(Control.scope == EVERYTHING).with_for_update())
    ended = sa.exists().where(Reconciliation.scope == EVERYTHING, Reconciliation.ended_at.is_not(None), when)
    return bool(session.scalar(sa.select(ended)))


def _vouch(session: Session) -> None:
    facts = {"sending": True, "reason": "A machine has found the database to be as far on as its anchor.", "by": US}
    said = insert(Control).values(scope=VOUCHED, **facts)
    when = {"at": sa.func.clock_timestamp()}
    session.execute(said.on_conflict_do_update(index_elements=["scope"], set_={**facts, **when}))


def stop(session: Session, why: str) -> None:
    """Send nothing from the commit on. Safe to repeat."""
    facts = {"sending": False, "reason": why, "by": US}
    stopped = session.execute(
        insert(Control)
        .values(scope=EVERYTHING, **facts)
        .on_conflict_do_update(
            index_elements=["scope"], set_={**facts, "at": sa.func.clock_timestamp()}, where=Control.sending.is_(True)
        )
        .returning(Control.scope)
    ).first()
    if stopped is not None:
        log.error("All sending is stopped: %s", why)
        audit.record(session, "engine", "worker", "sending.stopped", "everything", after={"reason": why})
        after_commit(session, "outages.recover", 0)


def may_follow(house: House) -> bool:
    """Whether events may be passed over as taken: how far they were says what an older database has missed, so that
    stays until all of that was found again."""
    look(house)
    with house.database.work(OPERATOR) as session:
        return not session.scalar(sa.select(sa.exists().where(is_stopped())))


def is_stopped() -> sa.ColumnElement[bool]:
    """Of a Control: that all sending waits until everything was found again."""
    return sa.and_(Control.scope == EVERYTHING, ~Control.sending, Control.by == US)


def anchored_step(house: House) -> int:
    """The last step that the anchor knows of; 1 where there is no anchor."""
    watch = _watch_of(house)
    last = watch.file.last() if watch is not None else None
    return last.counted.get("step_ids", 1) if last else 1
