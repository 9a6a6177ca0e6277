"""One entry per change, add-only, each chained to the one before it so that a removal or an edit shows."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tenants.db import OPERATOR, Database
from tenants.models import OPERATOR_AGENCY, AuditEntry

_CHAIN = 7_301
"""The first key of the advisory lock that makes one agency's entries follow each other."""
DENIED: Final = (403, 409)
"""The statuses of a refusal that says: not you, or not this, as it is now."""


def record(
    session: Session,
    actor: str,
    origin: str,
    action: str,
    subject: str,
    *,
    agency_id: int = OPERATOR_AGENCY,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> AuditEntry:
    """Add one entry to an agency's chain, in the caller's transaction: no change without its entry, nor the reverse.

    `actor` is a person's address or `engine`, `origin` where the wish came from (`console`, `cli`, `worker`, `stripe`).
    """
    session.execute(sa.select(sa.func.pg_advisory_xact_lock(_CHAIN, agency_id % 2**31)))
    last = session.execute(
        sa.select(AuditEntry.seq, AuditEntry.hash)
        .where(AuditEntry.agency_id == agency_id)
        .order_by(AuditEntry.seq.desc())
        .limit(1)
    ).first()
    entry = AuditEntry(
        agency_id=agency_id,
        seq=(last.seq if last else 0) + 1,
        at=datetime.now(UTC),
        actor=actor,
        origin=origin,
        action=action,
        subject=subject,
        before=before,
        after=after,
        previous_hash=last.hash if last else "",
    )
    entry.hash = _hash_of(entry)
    session.add(entry)
    session.flush()
    return entry


@contextmanager
def refusals(database: Database, actor: str, origin: str, action: str, subject: str) -> Iterator[None]:
    """What is denied inside leaves one entry, in a transaction of its own: the wish's own has been rolled back."""
    try:
        yield
    except Exception as refusal:
        if getattr(refusal, "status", None) in DENIED:
            with database.work(OPERATOR) as session:
                record(session, actor, origin, action, subject, after={"why": str(refusal)})
        raise


def breaks(session: Session, *agencies: int) -> dict[int, int]:
    """The agencies whose chain is broken, or those of `agencies`: the `seq` of the first entry that does not follow.

    Shows an entry that was edited, removed, slipped in or moved. What a chain cannot show, that its end was cut off or
    that all of it was hashed anew, shows beside an anchor (`tenants.anchors`). 100,000 entries take a few seconds.
    """
    wanted = sa.select(*_HASHED, AuditEntry.hash).order_by(AuditEntry.agency_id, AuditEntry.seq)
    if agencies:
        wanted = wanted.where(AuditEntry.agency_id.in_(agencies))
    broken: dict[int, int] = {}
    agency_id, previous, expected = 0, "", 1
    for entry in session.connection().execute(wanted.execution_options(yield_per=5_000)):
        if entry.agency_id != agency_id:
            agency_id, previous, expected = entry.agency_id, "", 1
        if entry.agency_id not in broken and (
            entry.seq != expected or entry.previous_hash != previous or entry.hash != _hash_of(entry)
        ):
            broken[entry.agency_id] = entry.seq
        previous, expected = entry.hash, expected + 1
    return broken


_ENCODED = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode
_HASHED = (
    AuditEntry.previous_hash, AuditEntry.agency_id, AuditEntry.seq, AuditEntry.at, AuditEntry.actor, AuditEntry.origin,
    AuditEntry.action, AuditEntry.subject, AuditEntry.before, AuditEntry.after,
)  # fmt: skip


def _hash_of(entry: Any) -> str:
    fields = [
        entry.previous_hash, entry.agency_id, entry.seq, entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        entry.actor, entry.origin, entry.action, entry.subject, entry.before, entry.after,
    ]  # fmt: skip
    return hashlib.sha256(_ENCODED(fields).encode()).hexdigest()
