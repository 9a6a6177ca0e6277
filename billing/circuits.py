"""The circuit breaker: an account that refuses our key, or a Stripe that mostly fails, is left alone for a while.

One row for each account, and one for all of them together. 401 opens an account's circuit at once, and so does 403 to a
write, or to a read where the account does not let us in any more; more than a fifth of fifty calls without an answer,
or with a 5xx, opens it, too, and that of everything likewise. While it is open one single call a time goes out, to see;
the first that is answered closes it, an account's own unless that was by 401 or 403.
"""

import logging
import threading
import time
import weakref
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column

from billing.answers import LockedOut, Unreachable
from tenants import audit
from tenants.db import OPERATOR, Base, Database
from tenants.house import House

log = logging.getLogger(__name__)

EVERYTHING: Final = "*"
UNANSWERED: Final = "had no answer."
"""Ends the reason of a circuit that nobody locked."""
WINDOW: Final = 50
PART: Final = 5
"""More than one in so many failed."""
FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0
"""Seconds until the next call goes out to see: twice as long each time, at most so long."""
FRESH: Final = 1.0
"""Seconds for which having seen an account's circuit closed is good."""
TELL_EVERY: Final = 10
TELL_AFTER: Final = 5.0
"""So many calls that were answered, or those of so many seconds, are told of together."""
ANSWER_BY: Final = 40.0
"""Seconds in which whoever went to see has told: longer than a call may take."""


class Circuit(Base):
    """`opened_at` NULL: calls go through, and are counted in windows of fifty."""

    __tablename__ = "circuits"
    __table_args__ = (
        sa.CheckConstraint(
            "(opened_at IS NULL) = (see_at IS NULL) AND (opened_at IS NULL) = (reason IS NULL)",
            name="open_for_a_reason",
        ),
    )
    account: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int] = mapped_column(server_default="0")
    failures: Mapped[int] = mapped_column(server_default="0")
    opened_at: Mapped[datetime | None]
    see_at: Mapped[datetime | None]
    """When the next single call may go out."""
    wait: Mapped[float] = mapped_column(sa.Double, server_default="1")
    reason: Mapped[str | None]
    called_at: Mapped[datetime | None]
    """When calls were last told of."""


class Watch:
    """One process's calls to one account: whether they may go out, and how they ended."""

    def __init__(self, database: Database, account: str) -> None:
        self._database, self._account = database, account
        self._seen_closed = -FRESH
        self._calls = self._failures = 0
        self._told_at = -TELL_AFTER
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Let a call through. True: it alone goes out to see. Raises `Unreachable` while the circuit is open."""
        if time.monotonic() < self._seen_closed + FRESH:
            return False
        sees = self._database.retried(OPERATOR, lambda session: admit(session, self._account))
        if not sees:
            self._seen_closed = time.monotonic()
        return sees

    def told(self, *, sees: bool, failed: bool, shut_out: bool = False, locked_out: str | None = None) -> None:
        """What became of a call: whether Stripe did not answer it, or refuses it (`shut_out`), or our key."""
        with self._lock:
            self._calls, self._failures = self._calls + 1, self._failures + failed
            late = time.monotonic() > self._told_at + TELL_AFTER
            if not (failed or locked_out or sees or late or self._calls >= TELL_EVERY):
                return
            self._told_at = time.monotonic()
            calls, failures = self._calls, self._failures
            self._calls = self._failures = 0

        def tell(session: Session) -> None:
            if locked_out is not None:
                open_up(session, self._account, locked_out, LONGEST_WAIT)
            if sees:
                saw(session, self._account, answered=not failed, let_in=not (shut_out or locked_out))
            else:
                count(session, self._account, calls, failures)

        self._database.retried(OPERATOR, tell)
        if failed or locked_out is not None:
            self._seen_closed = -FRESH


_watches: "weakref.WeakKeyDictionary[Database, dict[str, Watch]]" = weakref.WeakKeyDictionary()


_asked_by_a_person: "weakref.WeakSet[Database]" = weakref.WeakSet()


def asked_by_a_person(house: House) -> None:
    """From now on this process's calls go out whatever stands here, and nothing is noted of how they end.

    A person who asks is told what Stripe says: the key may just have been replaced.
    """
    _asked_by_a_person.add(house.database)


def watch(house: House, account: str) -> Watch | None:
    """The one of this process, shared by its threads; None where a person asks."""
    if house.database in _asked_by_a_person:
        return None
    of_database = _watches.setdefault(house.database, {})
    return of_database.setdefault(account, Watch(house.database, account))


def is_open(account: InstrumentedAttribute[str] | sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """In a query: whether no call may go to this account now, not even to see."""
    shut = sa.and_(Circuit.account.in_((account, EVERYTHING)), Circuit.see_at > sa.func.clock_timestamp())
    return sa.exists().where(shut).correlate_except(Circuit)


def is_left_alone(house: House, account: str) -> bool:
    """Whether no call may go to this account now, not even to see."""
    with house.database.work(OPERATOR) as session:
        return bool(session.scalar(sa.select(is_open(sa.literal(account)))))


def troubles(session: Session) -> list[str]:
    """Why calls are held back, a sentence for each circuit that is open."""
    rows = session.scalars(sa.select(Circuit).where(Circuit.opened_at.is_not(None)).order_by(Circuit.account))
    return [f"{_named(row.account)}: {row.reason}" for row in rows]


def admit(session: Session, account: str) -> bool:
    """Let a call through. True: it alone goes out to see. Raises `Unreachable` while the circuit is open, `LockedOut`
    where that is because the account does not let us in."""
    shut = session.scalars(
        sa.select(Circuit).where(Circuit.account.in_((account, EVERYTHING)), Circuit.opened_at.is_not(None))
    ).all()
    for row in sorted(shut, key=lambda row: row.account == EVERYTHING):
        now = sa.func.clock_timestamp()
        won = session.execute(
            sa.update(Circuit)
            .where(Circuit.account == row.account, Circuit.see_at <= now)
            .values(see_at=now + _seconds(ANSWER_BY))
            .returning(Circuit.account)
            .execution_options(synchronize_session=False)
        ).first()
        if won is None:
            lets_us_in = row.account != account or str(row.reason).endswith(UNANSWERED)
            refusal = Unreachable if lets_us_in else LockedOut
            raise refusal(f"Stripe is left alone for now. {row.reason}")
    return bool(shut)


def count(session: Session, account: str, calls: int, failures: int) -> None:
    """So many calls were made, of which so many failed."""
    for one in (account, EVERYTHING):
        now = sa.func.clock_timestamp()
        adding = insert(Circuit).values(account=one, calls=calls, failures=failures, called_at=now)
        row = session.execute(
            adding.on_conflict_do_update(
                index_elements=["account"],
                set_={
                    "calls": Circuit.calls + calls,
                    "failures": Circuit.failures + failures,
                    "called_at": now,
                },
            ).returning(Circuit.calls, Circuit.failures)
        ).one()
        if row.failures * PART > row.calls and row.calls >= WINDOW:
            open_up(session, one, f"Of {row.calls} calls {row.failures} {UNANSWERED}", FIRST_WAIT)
        elif row.calls >= WINDOW:
            session.execute(sa.update(Circuit).where(Circuit.account == one).values(calls=0, failures=0))


def open_up(session: Session, account: str, reason: str, wait: float) -> None:
    """Hold calls back from the commit on. Safe to repeat."""
    now = sa.func.clock_timestamp()
    facts = {"calls": 0, "failures": 0, "reason": reason, "wait": wait, "see_at": now + _seconds(wait)}
    opened = session.execute(
        insert(Circuit)
        .values(account=account, opened_at=now, **facts)
        .on_conflict_do_update(
            index_elements=["account"], set_={**facts, "opened_at": now}, where=Circuit.opened_at.is_(None)
        )
        .returning(Circuit.account)
    ).first()
    if opened is not None:
        log.error("Calls to Stripe are held back for %s: %s", _named(account), reason)
        audit.record(session, "engine", "worker", "stripe.left_alone", _named(account), after={"reason": reason})


def saw(session: Session, account: str, *, answered: bool, let_in: bool = True) -> None:
    """What the single call found that went out to see. One that is answered, and not let in, speaks of its own account
    alone: Stripe is there for all others."""
    ends = {EVERYTHING: answered, account: answered and let_in}
    longer = sa.func.least(Circuit.wait * 2, LONGEST_WAIT)
    session.execute(
        sa.update(Circuit)
        .where(Circuit.account.in_([one for one in ends if not ends[one]]), Circuit.opened_at.is_not(None))
        .values(wait=longer, see_at=sa.func.clock_timestamp() + _seconds(longer))
        .execution_options(synchronize_session=False)
    )
    closed = session.execute(
        sa.update(Circuit)
        .where(Circuit.account.in_([one for one in ends if ends[one]]), Circuit.opened_at.is_not(None))
        .values(opened_at=None, see_at=None, reason=None, calls=0, failures=0, wait=FIRST_WAIT)
        .returning(Circuit.account)
        .execution_options(synchronize_session=False)
    ).all()
    for (one,) in sorted(closed):
        audit.record(session, "engine", "worker", "stripe.called_again", _named(one))


def _seconds(wait: float | sa.ColumnElement[float]) -> sa.ColumnElement[datetime]:
    return sa.func.make_interval(0, 0, 0, 0, 0, 0, wait)


def _named(account: str) -> str:
    return {EVERYTHING: "every account", "": "the operator's account"}.get(account, account)
