"""`flask audit verify`: what a superuser does to the audit log shows in its chain, or beside its anchors."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from sandbox.postgres import Urls
from tenants import anchors, audit
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import AuditEntry
from tests.terminal import Terminal
from tests.web import house_of

COPIED = """INSERT INTO audit_entries SELECT (e).* FROM (
    SELECT jsonb_populate_record(e, '{{"seq": {seq}}}') e FROM audit_entries e WHERE agency_id = 1 AND seq = 3) x"""
SLIPPED_IN = f"""UPDATE audit_entries SET seq = seq + 100 WHERE agency_id = 1 AND seq > 3;
    {COPIED.format(seq=4)};
    UPDATE audit_entries SET seq = seq - 99 WHERE seq > 100"""
SWAPPED = """UPDATE audit_entries SET seq = 100 WHERE agency_id = 1 AND seq = 3;
    UPDATE audit_entries SET seq = 3 WHERE agency_id = 1 AND seq = 4;
    UPDATE audit_entries SET seq = 4 WHERE seq = 100"""
COLUMNS = "agency_id, seq, at, actor, origin, action, subject, before, after, previous_hash, hash"
MANY = int(os.environ.get("MANY", "5000"))


@pytest.fixture
def house(db: Database, clean_database: Urls, tmp_path: Path) -> House:
    """Six entries in one chain, three in another, and an anchor of both."""
    house = house_of(db)
    settings = replace(house.settings, anchors=tmp_path, database_url=clean_database.app)
    house = House(settings, db, house.clock)
    with db.work(OPERATOR) as session:
        other = session.scalar(sa.text("INSERT INTO agencies (slug, name) VALUES ('elm', 'Elm') RETURNING id"))
        for number in range(6):
            audit.record(session, "ada@example.com", "cli", "plan.weighed", f"price_{number}", after={"n": number})
        for number in range(3):
            audit.record(session, "engine", "worker", "run.done", f"run_{number}", agency_id=other)
    anchor(house)
    return house


@pytest.fixture
def superuser(clean_database: Urls) -> Iterator[psycopg.Connection]:
    with psycopg.connect(clean_database.owner.replace("outage_owner@", "postgres@"), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


@pytest.fixture
def terminal(house: House, clean_database: Urls) -> Terminal:
    return Terminal(house, clean_database)


def anchor(house: House, *, anew: bool = False) -> None:
    kept = anchors.kept(house.settings)
    assert kept is not None
    with house.database.work(OPERATOR) as session:
        now = anchors.taken(session, {"entries": "(SELECT count(*) FROM audit_entries)"})
    kept.write(now, anew=anew)


def hash_anew(house: House, connection: psycopg.Connection) -> None:
    """As a superuser who has read our code would, so that the chain is whole again."""
    with house.database.work(OPERATOR) as session:
        entries = session.scalars(sa.select(AuditEntry).where(AuditEntry.agency_id == 1).order_by(AuditEntry.seq)).all()
        session.expunge_all()
    previous = ""
    for number, entry in enumerate(entries, 1):
        entry.previous_hash, was = previous, entry.seq
        entry.seq = number
        previous = entry.hash = audit._hash_of(entry)
        connection.execute(
            "UPDATE audit_entries SET seq = %s, previous_hash = %s, hash = %s WHERE agency_id = 1 AND seq = %s",
            (number, entry.previous_hash, entry.hash, was),
        )


def test_a_whole_record_is_said_to_be(terminal: Terminal) -> None:
    assert terminal.json("audit", "verify") == {"entries": 9, "agencies": 2, "anchors": 1}
    assert "9 entries follow each other and agree with 1 anchors." in terminal.run("audit", "verify").output


@pytest.mark.breaks("I8 audit entries follow each other")
@pytest.mark.parametrize(
    ("change", "seq"),
    [
        ("UPDATE audit_entries SET after = '{\"n\": 9}' WHERE agency_id = 1 AND seq = 3", 3),
        ("UPDATE audit_entries SET actor = 'bob@example.com' WHERE agency_id = 1 AND seq = 1", 1),
        ("UPDATE audit_entries SET at = at + interval '1 s' WHERE agency_id = 1 AND seq = 6", 6),
        ("DELETE FROM audit_entries WHERE agency_id = 1 AND seq = 3", 4),
        ("DELETE FROM audit_entries WHERE agency_id = 1 AND seq = 1", 2),
        (COPIED.format(seq=7), 7),
        (SLIPPED_IN, 4),
        (SWAPPED, 3),
    ],
    ids=["edit", "who", "when", "delete", "delete the first", "insert at the end", "insert", "reorder"],
)
def test_what_a_superuser_does_shows_in_the_chain(
    terminal: Terminal, superuser: psycopg.Connection, change: str, seq: int
) -> None:
    for statement in change.split(";"):
        superuser.execute(statement.encode())
    terminal.refuses(f"Audit entry {seq} of operator does not follow", "audit", "verify", code="audit_broken")


def test_a_tail_that_was_cut_off_shows_beside_the_anchor(terminal: Terminal, superuser: psycopg.Connection) -> None:
    superuser.execute("DELETE FROM audit_entries WHERE agency_id = 1 AND seq > 4")
    terminal.refuses("Audit entry 6 of agency 1, seen at", "audit", "verify", code="audit_broken")


@pytest.mark.parametrize("change", ["UPDATE audit_entries SET after = '{}' WHERE agency_id = 1 AND seq = 2",
                                    "DELETE FROM audit_entries WHERE agency_id = 1 AND seq = 2"])  # fmt: skip
def test_a_chain_that_was_hashed_anew_shows_beside_the_anchor(
    terminal: Terminal, house: House, superuser: psycopg.Connection, change: str
) -> None:
    superuser.execute(change.encode())
    hash_anew(house, superuser)
    with house.database.work(OPERATOR) as session:
        assert audit.breaks(session) == {}
    terminal.refuses("Audit entry 6 of agency 1, seen at", "audit", "verify", code="audit_broken")
    anchor(house)  # what is written now hides nothing of what was seen before
    terminal.refuses("Audit entry 6 of agency 1, seen at", "audit", "verify", code="audit_broken")
    anchor(house, anew=True)
    assert terminal.json("audit", "verify")["anchors"] == 1


def test_many_entries_take_seconds(house: House, superuser: psycopg.Connection, terminal: Terminal) -> None:
    """MANY=100000 for the whole size: at most 10 s there."""
    with house.database.work(OPERATOR) as session:
        last = session.scalars(sa.select(AuditEntry).where(AuditEntry.agency_id == 1).order_by(AuditEntry.seq)).all()[
            -1
        ]
        session.expunge_all()
    rows, seq, previous = [], last.seq, last.hash
    for _ in range(MANY):
        seq += 1
        last.seq, last.previous_hash = seq, previous
        previous = audit._hash_of(last)
        rows.append((seq, last.previous_hash, previous))
    with (
        superuser.cursor() as cursor,
        cursor.copy(f"COPY audit_entries ({COLUMNS}) FROM STDIN".encode()) as copy,
    ):
        for number, before, digest in rows:
            copy.write_row(
                (1, number, last.at, last.actor, last.origin, last.action, last.subject,
                 json.dumps(last.before) if last.before is not None else None, json.dumps(last.after), before, digest)
            )  # fmt: skip
    begun = time.process_time()  # a machine that others use, too, says nothing by its wall's clock
    assert terminal.json("audit", "verify")["entries"] == MANY + 9
    assert time.process_time() - begun < max(2.0, MANY / 10_000)
