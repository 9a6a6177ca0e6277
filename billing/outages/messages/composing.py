"""From final facts to messages: what customers do not know yet, found in the rows, at any time, by whoever looks.

A pause, a grant or an update carries the last state that was taken account of (`told`): the rows where it lags are the
queue. A message and that mark are written in one transaction, and the message has a unique key beside it, so that
neither a crash nor a second look can make a second one.
"""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages.messages.models import RESUMED
from billing.outages.models import GRANT_TO_TELL, PAUSE_TO_TELL
from tenants.db import OPERATOR, after_commit
from tenants.house import House

MOST: Final = 2_000
"""Rows of one kind that one transaction takes account of."""
_ONE_AT_A_TIME: Final = 7_302
"""The advisory lock that lets one look compose at a time: a message repeats the updates that it saw, and every later
one goes to whoever has that message by then."""


def compose_due(house: House) -> bool:
    """Write the messages that are missing. True: something may be left. Safe to run anywhere, any number of times."""
    return house.database.retried(OPERATOR, _compose)


def oldest_due() -> sa.Select[Any]:
    """Since when something is untold, and the time now."""
    since = sa.text(
        f"""
        SELECT least(
            (SELECT min(coalesce(settled_at, created_at)) FROM grants WHERE {GRANT_TO_TELL}),
            (SELECT min(greatest(held_at, released_at)) FROM pauses WHERE {PAUSE_TO_TELL}),
            (SELECT clock_timestamp() - interval '1 minute' WHERE EXISTS (SELECT FROM updates WHERE NOT told))
        ) AS due, clock_timestamp() AS now
        """  # noqa: S608 - constants only
    )
    found = since.columns(sa.column("due"), sa.column("now")).subquery()
    return sa.select(found.c.due, found.c.now)


def _compose(session: Session) -> bool:
    if not session.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(_ONE_AT_A_TIME))):
        return True
    made = 0
    full = False
    for statement in (_PAUSED, _GRANTED, _UPDATED):
        looked_at, written = session.execute(sa.text(statement), {"most": MOST}).one()
        made += written
        full = full or looked_at == MOST
    if made:
        after_commit(session, "messages.send", made)
    return full


_MADE: Final = "ON CONFLICT ON CONSTRAINT nobody_is_told_twice DO NOTHING RETURNING 1"
_DECLARED: Final = """
    SELECT agency_id, customer_id, incident_id, 'declared', '',
           (SELECT max(u.id) FROM updates u WHERE u.incident_id = who.incident_id)
    FROM (SELECT DISTINCT agency_id, customer_id, incident_id FROM who) who
"""
_PAUSED: Final = f"""
WITH looked AS (
    SELECT p.agency_id, p.id, p.incident_id, p.subscription_id, p.state
    FROM pauses p WHERE {PAUSE_TO_TELL} ORDER BY p.id LIMIT :most FOR UPDATE SKIP LOCKED
),
who AS (
    SELECT l.agency_id, s.customer_id, l.incident_id, bool_or(l.state = 'released') AS released
    FROM looked l JOIN subscriptions s ON s.agency_id = l.agency_id AND s.id = l.subscription_id
    GROUP BY l.agency_id, s.customer_id, l.incident_id
),
declared AS (
    INSERT INTO messages (agency_id, customer_id, incident_id, kind, about, until_update) {_DECLARED} {_MADE}
),
resumed AS (
    INSERT INTO messages (agency_id, customer_id, incident_id, kind, about)
    SELECT w.agency_id, w.customer_id, w.incident_id, 'resumed',
           coalesce((
               SELECT max(v.no) FROM incident_versions v
               WHERE v.incident_id = w.incident_id AND v.what IN ('resolved', 'retracted', 'retired')
           )::text, '')
    FROM who w
    WHERE w.released AND {RESUMED}
    {_MADE}
),
marked AS (
    UPDATE pauses p SET told = l.state FROM looked l WHERE p.agency_id = l.agency_id AND p.id = l.id
)
SELECT (SELECT count(*) FROM looked), (SELECT count(*) FROM declared) + (SELECT count(*) FROM resumed)
"""  # noqa: S608 - constants only
# A grant that stands in for one that failed corrects what the customer was told; where nothing had been told yet, it is
# the first to be told of. One that a person gives is told when it is given, unless it corrects something.
_GRANTED: Final = f"""
WITH looked AS (
    SELECT g.id, g.agency_id, g.incident_id, g.customer_id, g.state, g.amount, g.fallback_of, g.told
    FROM grants g WHERE {GRANT_TO_TELL} ORDER BY g.id LIMIT :most FOR UPDATE SKIP LOCKED
),
who AS (
    SELECT l.*, EXISTS (
        WITH RECURSIVE stood_for AS (
            SELECT l.fallback_of AS id UNION ALL SELECT o.fallback_of FROM grants o JOIN stood_for f ON o.id = f.id
        )
        SELECT FROM messages m JOIN stood_for f ON m.about = f.id::text
        WHERE m.agency_id = l.agency_id AND m.kind IN ('refunded', 'correction')
        AND (m.sent_at IS NOT NULL OR m.state = 'sending')
    ) AS corrects
    FROM looked l
),
declared AS (
    INSERT INTO messages (agency_id, customer_id, incident_id, kind, about, until_update) {_DECLARED} {_MADE}
),
told AS (
    INSERT INTO messages (agency_id, customer_id, incident_id, kind, about, amount)
    SELECT agency_id, customer_id, incident_id,
           CASE WHEN corrects AND told IS DISTINCT FROM 'needs_person' THEN 'correction' ELSE 'refunded' END, id::text,
           amount
    FROM who WHERE state = 'succeeded' OR (state = 'needs_person' AND corrects)
    {_MADE}
),
marked AS (
    UPDATE grants g SET told = w.state FROM who w WHERE g.agency_id = w.agency_id AND g.id = w.id
)
SELECT (SELECT count(*) FROM looked), (SELECT count(*) FROM declared) + (SELECT count(*) FROM told)
"""  # noqa: S608 - constants only
_UPDATED: Final = f"""
WITH looked AS (
    SELECT m.agency_id, m.customer_id, m.incident_id, u.id AS update_id
    FROM updates u JOIN messages m ON m.incident_id = u.incident_id AND m.kind = 'declared'
    AND m.until_update < u.id
    WHERE NOT u.told AND NOT EXISTS (
        SELECT FROM messages o WHERE o.agency_id = m.agency_id AND o.customer_id = m.customer_id
        AND o.incident_id = m.incident_id AND o.kind = 'update' AND o.about = u.id::text
    )
    ORDER BY u.id, m.id LIMIT :most
),
told AS (
    INSERT INTO messages (agency_id, customer_id, incident_id, kind, about)
    SELECT agency_id, customer_id, incident_id, 'update', update_id::text FROM looked {_MADE}
),
marked AS (
    UPDATE updates SET told = true WHERE NOT told AND (SELECT count(*) FROM looked) < :most
)
SELECT (SELECT count(*) FROM looked), (SELECT count(*) FROM told)
"""  # noqa: S608 - constants only
