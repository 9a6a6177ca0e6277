"""`flask audit`: whether the audit log is whole."""

from typing import Any, Final

import sqlalchemy as sa

from tenants import anchors, audit
from tenants.commands import Commands, house, needs_tables, speaks
from tenants.db import OPERATOR
from tenants.models import Agency, AuditEntry

audit_commands = Commands("audit", help="Who changed what, and whether that record is whole.")


class Broken(Exception):
    """The record was changed behind the program's back: look at each sentence."""

    status: Final = 409
    code: Final = "audit_broken"


@audit_commands.command("verify")
@speaks
@needs_tables
def verify() -> tuple[dict[str, Any], list[str]]:
    """Hold every entry against the one before it, and against the anchors outside the database. Exits 1 when broken."""
    file = anchors.kept(house().settings)
    kept = file.every() if file is not None else []
    with house().database.work(OPERATOR) as session:
        slugs = dict(session.execute(sa.select(Agency.id, Agency.slug)).all())
        entries = session.scalar(sa.select(sa.func.count()).select_from(AuditEntry)) or 0
        broken = audit.breaks(session)
        lost = anchors.lost_heads(session, kept)
    sentences = [
        f"Audit entry {seq} of {slugs.get(agency, agency)} does not follow: it or the one before it was edited, added,"
        " moved or removed."
        for agency, seq in sorted(broken.items())
    ]
    sentences += [one.sentence() for one in lost]
    if sentences:
        raise Broken(" ".join(sentences))
    document = {"entries": entries, "agencies": len(slugs), "anchors": len(kept)}
    beside = f"and agree with {len(kept):,} anchors" if kept else "and no anchor is there to hold them against"
    return document, [f"{entries:,} entries follow each other {beside}."]
