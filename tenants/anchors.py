"""Where the database stood, written outside of it every minute: whether it is still the one, and as far on, as it was.

A restored backup, a standby that lagged behind and an audit chain that a superuser cut or hashed anew look whole from
within. An anchor is a line of JSON in a file of the machine that runs the workers; lines are added, never changed. Each
machine keeps its own: one of them is enough to notice.
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from tenants.models import AuditEntry
from tenants.settings import Settings

FULL_EVERY: Final = timedelta(hours=1)
"""However little happens, a line is written this often."""

_IDENTITY: Final = """
    SELECT clock_timestamp() AS at, (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint AS position,
           (SELECT system_identifier FROM pg_control_system())::text || '/' || d.oid AS database,
           ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint AS timeline
    FROM pg_database d WHERE d.datname = current_database()
"""
_HEADS: Final = """
    SELECT a.id AS agency_id, h.seq, h.hash FROM agencies a CROSS JOIN LATERAL (
        SELECT seq, hash FROM audit_entries e WHERE e.agency_id = a.id ORDER BY seq DESC LIMIT 1
    ) h
"""


@dataclass(frozen=True)
class Anchor:
    """The database at `at` on its own clock. `counted` only ever grows: rows of add-only tables, the highest id given.

    `position` is how far its log was written, which means something within one `database` and `timeline` only.
    """

    at: datetime
    database: str
    timeline: int
    position: int
    counted: Mapping[str, int]
    heads: Mapping[int, tuple[int, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        heads = {str(agency): list(head) for agency, head in self.heads.items()}
        return {**vars(self), "at": self.at.isoformat(), "counted": dict(self.counted), "heads": heads}


def taken(session: Session, counted: Mapping[str, str]) -> Anchor:
    """The database as it is now. `counted` names what grows: a word for it, and the SQL expression of its count."""
    now = session.execute(sa.text(_IDENTITY.replace("::", "\\:\\:"))).one()
    heads = {row.agency_id: (row.seq, row.hash) for row in session.execute(sa.text(_HEADS))}
    asked = ", ".join(f"{count} AS {name}" for name, count in counted.items())
    numbers = session.execute(sa.text(f"SELECT {asked}")).one()._mapping
    return Anchor(now.at, now.database, now.timeline, now.position, dict(numbers), heads)


def behind(session: Session, before: Anchor, now: Anchor) -> list[str]:
    """What shows that the database is not the one of `before`, or not as far on any more: sentences, none if it is."""
    found = []
    if before.database != now.database:
        found.append("It is another database than the one of the last anchor.")
    elif before.timeline != now.timeline:
        found.append(f"Its log goes on in timeline {now.timeline} where it was {before.timeline}.")
    elif before.position > now.position:
        found.append(f"Its log ends at {now.position}, and was written to {before.position} before.")
    for name, count in before.counted.items():
        if now.counted.get(name, 0) < count:
            found.append(f"It has {now.counted.get(name, 0)} {name.replace('_', ' ')}, and had {count} before.")
    return found + [lost.sentence() for lost in lost_heads(session, [before])]


@dataclass(frozen=True)
class Lost:
    """An audit entry that an anchor has seen, and that is gone or is another one now."""

    agency_id: int
    seq: int
    at: datetime
    gone: bool

    def sentence(self) -> str:
        how = "is gone" if self.gone else "is another one now"
        return f"Audit entry {self.seq} of agency {self.agency_id}, seen at {self.at:%Y-%m-%d %H:%M}, {how}."


def lost_heads(session: Session, anchors: Sequence[Anchor]) -> list[Lost]:
    """Of each agency the first entry that these anchors saw and that does not stand as they saw it."""
    seen: dict[tuple[int, int], tuple[str, datetime]] = {}
    for anchor in anchors:
        for agency_id, (seq, digest) in anchor.heads.items():
            seen.setdefault((agency_id, seq), (digest, anchor.at))
    agencies, numbers = ([key[part] for key in seen] for part in (0, 1))
    asked = sa.select(AuditEntry.agency_id, AuditEntry.seq, AuditEntry.hash).where(
        sa.tuple_(AuditEntry.agency_id, AuditEntry.seq).in_(
            sa.select(sa.func.unnest(_bigints(agencies)), sa.func.unnest(_bigints(numbers)))
        )
    )
    there = {(row.agency_id, row.seq): row.hash for row in session.execute(asked)}
    lost: dict[int, Lost] = {}
    for (agency_id, seq), (digest, at) in sorted(seen.items()):
        if there.get((agency_id, seq)) != digest:
            lost.setdefault(agency_id, Lost(agency_id, seq, at, (agency_id, seq) not in there))
    return list(lost.values())


def _bigints(values: Sequence[int]) -> sa.BindParameter[Any]:
    return sa.bindparam(None, list(values), type_=sa.ARRAY(sa.BigInteger))


class Anchors:
    """The file of one database's anchors in `folder`. Its lines say only what changed since the one before.

    It is named for the database and its installation, never for an address: what was restored, or stood by, answers
    under another one, and has to be held against what was seen of the first.
    """

    def __init__(self, folder: Path, database_url: str, installation: str) -> None:
        self.path = folder / f"{make_url(database_url).database}-{installation}.jsonl"
        self._read_to = 0
        self._last: Anchor | None = None

    def last(self) -> Anchor | None:
        """All lines together since the last one that began anew: the furthest that the database has been."""
        if not self.path.exists():
            return None
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # its writer is not done yet, or died: the next line begins with an end of line
                self._read_to += len(line)
                read = _read(line)
                if read is not None:
                    self._last = read[0] if read[1] or self._last is None else _further(self._last, read[0])
        return self._last

    def every(self) -> list[Anchor]:
        """Each line since the last one that began anew, as it stands there."""
        found: list[Anchor] = []
        if self.path.exists():
            with self.path.open("rb") as file:
                for line in file:
                    read = _read(line)
                    if read is not None and read[1]:
                        found.clear()
                    if read is not None:
                        found.append(read[0])
        return found

    def write(self, now: Anchor, *, anew: bool = False) -> None:
        """Add what changed since the last line. `anew`: what was before is no measure any more."""
        last = None if anew else self.last()
        full = last is None or now.at - last.at > FULL_EVERY
        heads = {
            agency: head for agency, head in now.heads.items() if last is None or full or last.heads.get(agency) != head
        }
        if last is not None and not full and not heads and now.counted == last.counted:
            return
        line = json.dumps({**now.to_json(), "heads": {str(key): heads[key] for key in heads}, "anew": anew})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            torn = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n"
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def kept(settings: Settings) -> Anchors | None:
    """Those of this installation on this machine. None where no folder for anchors is set."""
    if settings.anchors is None:
        return None
    return Anchors(settings.anchors, settings.database_url, settings.installation)


def _read(line: bytes) -> tuple[Anchor, bool] | None:
    """What a line says, and whether it began anew. None: it was torn when its writer died."""
    try:
        said = json.loads(line)
        heads = {int(agency): (int(seq), str(digest)) for agency, (seq, digest) in said["heads"].items()}
        at = datetime.fromisoformat(said["at"])
        found = Anchor(at, said["database"], said["timeline"], said["position"], said["counted"], heads)
    except (ValueError, KeyError, TypeError):
        return None
    return found, bool(said.get("anew"))


def _further(one: Anchor, other: Anchor) -> Anchor:
    """Of two anchors the later, and of each count and chain the further; two processes may write out of order."""
    early, late = sorted((one, other), key=lambda anchor: anchor.at)
    names = {*early.counted, *late.counted}
    counted = {name: max(early.counted.get(name, 0), late.counted.get(name, 0)) for name in names}
    heads = dict(early.heads)
    for agency, head in late.heads.items():
        heads[agency] = max(heads.get(agency, (0, "")), head)
    return Anchor(late.at, late.database, late.timeline, max(early.position, late.position), counted, heads)
