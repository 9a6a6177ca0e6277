"""How many calls a second Stripe gets from all workers together: one queue per account and endpoint, in PostgreSQL.

Stripe allows an account 100 calls a second in live mode and 25 in test mode, and each of its endpoints 25, whatever ids
stand in the path (https://docs.stripe.com/rate-limits). Each call books a turn beforehand, on the database's clock, and
waits for it; who may book further ahead goes first. A 429 halves the rate of the limiter that it names for a while,
or of its endpoint where it names none.
"""

import re
import time
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from billing.answers import Unreachable
from tenants.db import OPERATOR, Base
from tenants.house import House

CATCH_UP: Final = 0.2
"""Seconds' worth of unused turns that may still be taken: a worker that wakes a little late loses nothing by it."""
SLOW_FOR: Final = 60.0
"""Seconds after which a rate that was halved is the full one again."""
SLOWEST: Final = 1.0
"""Calls a second that are always made."""
LONGEST: Final = 20.0
"""Seconds that a call waits for its turn: whoever makes it holds a lease meanwhile."""
WHOLE_ACCOUNT: Final = ""
OF_ACCOUNT: Final = frozenset(["global-rate", "global-concurrency"])
OF_ENDPOINT: Final = frozenset(["endpoint-rate", "endpoint-concurrency"])
"""Values of `Stripe-Rate-Limited-Reason` that a slower rate answers; it does not help one object that is in demand."""
_ID: Final = re.compile(r"^(/v1/[a-z_]+)/(?!preview(?:/|$))[^/?]+")


class Urgency(Enum):
    """How many seconds ahead a call may book its turn: pauses come before grants, and these before other reads."""

    PAUSE = 2.0
    GRANT = 1.0
    READ = 0.3


class RateBucket(Base):
    """When the next turn is free at an endpoint of an account, or ('') of the account as a whole."""

    __tablename__ = "rate_buckets"
    account: Mapped[str] = mapped_column(primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    next_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    slowed_to: Mapped[float | None] = mapped_column(sa.Float())
    """Calls a second after the last 429, at `slowed_at`; NULL: there was none."""
    slowed_at: Mapped[datetime | None]


class Turns:
    """The turns of one account's calls, in a house that has a rate."""

    def __init__(self, house: House, account: str, urgency: Urgency = Urgency.READ) -> None:
        assert house.settings.stripe_rate is not None
        self._database = house.database
        self._rate = house.settings.stripe_rate
        self._account = account
        self._urgency = urgency

    def wait(self, verb: str, path: str) -> None:
        """Return when it is this call's turn. Raises `Unreachable` when none comes."""
        endpoint = endpoint_of(verb, path)
        given_up = time.monotonic() + LONGEST
        while True:
            wait, booked = self._book(endpoint)
            # A booked turn is a moment on the clock. One too far ahead is not booked but left to others, and looked for
            # again when it may be near enough.
            time.sleep(wait if booked else min(max(0.02, wait - self._urgency.value), 1.0))
            if booked:
                return
            if time.monotonic() > given_up:
                raise Unreachable(f"{endpoint} was not called: others took every turn for {LONGEST:.0f} seconds.")

    def refused(self, verb: str, path: str, reason: str | None) -> None:
        """Stripe answered 429: go at half the rate for a while.

        Stripe names the limiter, and no limiter is what it says by `lock_timeout`, which is never told here. Whoever
        says neither may stand before Stripe: it is taken for the endpoint's, so that a storm is answered by patience.
        """
        if reason is not None and reason not in OF_ACCOUNT | OF_ENDPOINT:
            return
        endpoint = WHOLE_ACCOUNT if reason in OF_ACCOUNT else endpoint_of(verb, path)
        full = self._rate.account if endpoint == WHOLE_ACCOUNT else self._rate.endpoint
        with self._database.work(OPERATOR) as session:
            session.execute(
                sa.text(_SLOWER), {"account": self._account, "endpoint": endpoint, "full": full, "slow_for": SLOW_FOR,
                                   "slowest": SLOWEST},
            )  # fmt: skip

    def _book(self, endpoint: str) -> tuple[float, bool]:
        """Seconds until this call's turn, and whether it is booked: one that lies too far ahead is left to others."""
        with self._database.work(OPERATOR) as session:
            asked = {
                "account": self._account, "endpoint": endpoint, "of_account": self._rate.account,
                "of_endpoint": self._rate.endpoint, "ahead": self._urgency.value, "catch_up": CATCH_UP,
                "slow_for": SLOW_FOR,
            }  # fmt: skip
            turn = session.execute(_BOOK, asked).one()
            if turn.buckets < 2:
                made = [{"account": self._account, "endpoint": one} for one in (WHOLE_ACCOUNT, endpoint)]
                session.execute(insert(RateBucket).values(made).on_conflict_do_nothing())
                return 0.0, False
            wait, booked = turn.wait, turn.booked
            furthest = max(one.value for one in Urgency) + 1 / min(SLOWEST, self._rate.account, self._rate.endpoint)
            if wait > furthest:  # nobody books so far ahead: the database's clock went back
                session.execute(
                    _NEARER, {"account": self._account, "endpoint": endpoint, "furthest": furthest + CATCH_UP}
                )
        return float(wait), bool(booked)


def are_taken(
    account: sa.ColumnElement[str] | InstrumentedAttribute[str], urgency: Urgency, *endpoints: str
) -> sa.ColumnElement[bool]:
    """In a query: whether as many wait for their turns at one of these endpoints as may. Whoever took up work that
    begins there could only wait with them, and would be missing elsewhere."""
    too_far = sa.func.clock_timestamp() + timedelta(seconds=urgency.value + CATCH_UP)
    full = sa.and_(RateBucket.account == account, RateBucket.endpoint.in_((WHOLE_ACCOUNT, *endpoints)))
    return sa.exists().where(full, RateBucket.next_at > too_far).correlate_except(RateBucket)


def endpoint_of(verb: str, path: str) -> str:
    """As Stripe counts them: `POST /v1/invoices/{id}/void`."""
    return " ".join([verb.upper(), _ID.sub(r"\1/{id}", path)])


# Both rows are locked in one order, then the time is read: turns are given in the order of the locks. A turn that a
# crash of the database forgets is one call too many, so nobody waits for a disk.
_BOOK: Final = sa.text(
    """
WITH buckets AS MATERIALIZED (
    SELECT b.*, CASE WHEN endpoint = '' THEN CAST(:of_account AS float) ELSE CAST(:of_endpoint AS float) END AS full
    FROM rate_buckets b WHERE account = :account AND endpoint IN ('', :endpoint) ORDER BY endpoint FOR UPDATE
),
timed AS MATERIALIZED (SELECT *, clock_timestamp() AS now FROM buckets),
turn AS MATERIALIZED (
    SELECT max(now) AS now, count(*) AS buckets,
           greatest(0, max(extract(epoch FROM next_at - now)) - CAST(:catch_up AS float)) AS wait
    FROM timed
),
booked AS (
    UPDATE rate_buckets b
    SET next_at = greatest(b.next_at, turn.now) + interval '1 second' / least(
        t.full,
        coalesce(
            t.slowed_to + t.full * greatest(0, extract(epoch FROM t.now - t.slowed_at)) / CAST(:slow_for AS float),
            t.full
        )
    )
    FROM timed t, turn
    WHERE b.account = t.account AND b.endpoint = t.endpoint AND turn.wait <= CAST(:ahead AS float)
    AND turn.buckets = 2
    RETURNING 1
)
SELECT turn.wait, turn.buckets, EXISTS (SELECT FROM booked) AS booked, set_config('synchronous_commit', 'off', true)
FROM turn
"""
)
# As far ahead as a turn booked before may be at most: none of those meets another.
_NEARER: Final = sa.text(
    """
UPDATE rate_buckets
SET next_at = least(next_at, clock_timestamp() + CAST(:furthest AS float) * interval '1 second')
WHERE account = :account AND endpoint IN ('', :endpoint)
"""
)
_SLOWER: Final = """
UPDATE rate_buckets
SET slowed_to = greatest(CAST(:slowest AS float), least(CAST(:full AS float), coalesce(
        slowed_to + CAST(:full AS float) * extract(epoch FROM clock_timestamp() - slowed_at) / CAST(:slow_for AS float),
        CAST(:full AS float)
    )) / 2),
    slowed_at = clock_timestamp()
WHERE account = :account AND endpoint = :endpoint
AND (slowed_at IS NULL OR slowed_at < clock_timestamp() - interval '1 second')
"""
