"""One entry per change, add-only, each chained to the one before it so that a removal or an edit shows."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tenants.models import OPERATOR_AGENCY, AuditEntry

_CHAIN = 7_301
"""The first key of the advisory lock that makes one agency's entries follow each other."""


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


def first_break(session: Session, agency_id: int) -> int | None:
    """The `seq` of the first entry that does not follow from the one before it; None when the chain is whole."""
    previous, expected = "", 1
    entries = sa.select(AuditEntry).where(AuditEntry.agency_id == agency_id).order_by(AuditEntry.seq)
    for entry in session.scalars(entries):
        if entry.seq != expected or entry.previous_hash != previous or entry.hash != _hash_of(entry):
            return entry.seq
        previous, expected = entry.hash, expected + 1
    return None


def _hash_of(entry: AuditEntry) -> str:
    fields = [
        entry.previous_hash, entry.agency_id, entry.seq, entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        entry.actor, entry.origin, entry.action, entry.subject, entry.before, entry.after,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
