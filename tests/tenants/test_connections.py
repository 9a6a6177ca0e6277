"""Pooled connections: which are asked before they are used, and what a unit of work begins with."""

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from sandbox import postgres
from tenants import db as module
from tenants.db import OPERATOR, Database, Scope, one_of, prepared
from tenants.models import Agency


def pid_of(database: Database) -> int:
    with database.work(OPERATOR) as session:
        return int(session.scalar(sa.text("SELECT pg_backend_pid()")) or 0)


@pytest.fixture
def pings(db: Database, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    ping = db.engine.dialect.do_ping
    monkeypatch.setattr(db.engine.dialect, "do_ping", lambda connection: made.append(1) or ping(connection))  # type: ignore[func-returns-value]
    return made


def test_a_connection_in_use_is_not_asked_each_time(db: Database, pings: list[int]) -> None:
    assert len({pid_of(db) for _ in range(5)}) == 1
    assert pings == []


def test_a_connection_that_has_lain_is_asked(db: Database, pings: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    first = pid_of(db)
    monkeypatch.setattr(module, "UNASKED", 0.0)
    assert (pid_of(db), len(pings)) == (first, 1)


def test_a_connection_that_the_server_has_ended_is_replaced_and_no_work_fails(
    db: Database, postgres_server: postgres.Server, pings: list[int]
) -> None:
    """A moment ago it worked, so nothing would ask it but that the server has spoken."""
    ended = pid_of(db)
    admin = sa.create_engine(postgres_server.url("postgres", "postgres"), poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": ended})
    assert pid_of(db) != ended
    assert (len(pings), db.connections) == (1, 2)


def test_a_unit_of_work_begins_with_one_message_that_names_its_scope(db: Database) -> None:
    said: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda _c, _u, statement, *_: said.append(statement))
    with db.work(Scope(7)) as session, session.begin_nested():
        session.execute(sa.text("SELECT 1"))
    assert [one[:5] for one in said] == ["BEGIN", "SAVEP", "SELEC", "RELEA"]
    assert "set_config('app.agency', '7', true), set_config('app.operator', '', true)" in said[0]


def test_what_a_failed_unit_of_work_wrote_is_gone(db: Database) -> None:
    with pytest.raises(ZeroDivisionError), db.work(OPERATOR) as session:
        session.add(Agency(slug="acme", name="Acme"))
        session.flush()
        raise ZeroDivisionError
    with db.work(OPERATOR) as session:
        assert session.scalars(sa.select(Agency.slug)).all() == ["operator"]


def test_a_transaction_of_no_unit_of_work_is_one_all_the_same(db: Database) -> None:
    with db.engine.connect() as connection:
        connection.execute(sa.text("SELECT set_config('app.operator', 'on', true)"))
        connection.execute(sa.text("INSERT INTO agencies (slug, name) VALUES ('acme', 'Acme')"))
    with db.work(OPERATOR) as session:
        assert session.scalars(sa.select(Agency.slug)).all() == ["operator"]


def test_a_prepared_statement_is_built_once() -> None:
    built: list[int] = []

    @prepared
    def statement() -> sa.Select[int]:
        built.append(1)
        return sa.select(Agency.id).where(one_of(Agency.slug, "acme"))

    assert statement() is statement()
    assert built == [1]
