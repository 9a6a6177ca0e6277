"""The tests' databases: one server for all processes, a migrated template, a clone for each, its cleaning."""

import hashlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg import sql
from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.orm import Session

from sandbox import postgres
from tenants.db import Database
from tenants.upgrade import MIGRATIONS, upgrade

HOME = Path(__file__).resolve().parent.parent / "var" / "tests" / "postgres"


class _Compiled(dict[Any, Any]):
    """Compiled statements of every engine: all have the same dialect, but each one of its own, which the key names."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: Any, compiled: Any) -> None:
        super().__setitem__(key[1:], compiled)


class Warm:
    """Connections that outlive the `Database` of a test, so that the next one's statements need not be compiled by
    SQLAlchemy and planned by PostgreSQL anew.

    The `Database` is each test's own, with its pool, its listeners and whatever is remembered about it: only where it
    would connect or hang up, a connection comes out of here or goes back, as it was when it was new.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._compiled = _Compiled()
        self._idle: defaultdict[str, list[psycopg.Connection[Any]]] = defaultdict(list)

    @contextmanager
    def opened(self, url: str, **how: Any) -> Iterator[Database]:
        database = Database(url, **how)
        database.engine.update_execution_options(compiled_cache=self._compiled)
        event.listen(database.engine, "do_connect", lambda *_: self._taken(url))
        hang_up = database.engine.dialect.do_close

        def put_back(connection: Any) -> None:
            if not self._put_back(url, connection):
                hang_up(connection)

        database.engine.dialect.do_close = put_back  # type: ignore[method-assign]
        try:
            yield database
        finally:
            database.dispose()

    @contextmanager
    def connected(self, url: str, options: str = "") -> Iterator[psycopg.Connection[Any]]:
        """A connection without a `Database`, for one transaction."""
        kind = f"{url} {options}"
        connection = self._taken(kind) or psycopg.connect(url, autocommit=True, options=options)
        try:
            with connection.transaction():
                yield connection
        finally:
            if not self._put_back(kind, connection):
                connection.close()

    def close(self) -> None:
        with self._lock:
            idle = [connection for some in self._idle.values() for connection in some]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _taken(self, url: str) -> psycopg.Connection[Any] | None:
        """None: it has to connect."""
        with self._lock:
            return self._idle[url].pop() if self._idle[url] else None

    def _put_back(self, url: str, connection: psycopg.Connection[Any]) -> bool:
        if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
            return False
        try:
            connection.execute("RESET ALL; SELECT pg_advisory_unlock_all()")
        except psycopg.Error:
            return False
        with self._lock:
            self._idle[url].append(connection)
        return True


WARM: Final = Warm()


@contextmanager
def cloned(server: postgres.Server, name: str) -> Iterator[postgres.Urls]:
    """A fresh, migrated database called `name`, dropped in the end."""
    with closing(psycopg.connect(server.admin_url, autocommit=True)) as admin:
        admin.execute("SELECT pg_advisory_lock(hashtext('template'))")
        template = _template(server, admin)
        _drop(admin, name)
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER outage_owner TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        admin.execute("SELECT pg_advisory_unlock(hashtext('template'))")
        try:
            yield postgres.Urls(server.url(name, "outage_owner"), server.url(name, "outage_app"))
        finally:
            WARM.close()  # whoever is given the same name later finds no connection that the server has ended
            _drop(admin, name)


def _template(server: postgres.Server, admin: psycopg.Connection) -> str:
    """The template of today's migrations; those of other days, and databases of runs that were killed, are dropped."""
    digest = hashlib.sha256()
    for file in sorted(MIGRATIONS.rglob("*.py")):
        digest.update(file.read_bytes())
    name = f"template_{digest.hexdigest()[:16]}"
    known = [str(row[0]) for row in admin.execute("SELECT datname FROM pg_database").fetchall()]
    if name in known:
        return name
    for other in known:
        if other.startswith("template_") or (other.startswith("test_") and not _runs(int(other.split("_")[1]))):
            _drop(admin, other)
    unfinished = f"{name}_unfinished"
    upgrade(postgres.ensure_database(server, unfinished).owner)
    admin.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(unfinished), sql.Identifier(name)),
    )
    return name


def _drop(admin: psycopg.Connection, name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Cleaner:
    """Puts a database back to what the migrations left: their rows, their sequences, nothing else.

    As a replica, for add-only tables refuse otherwise.
    """

    def __init__(self, admin_url: str) -> None:
        """Remember the database as it is now, which must be just after cloning."""
        self._url = admin_url
        self._rows: dict[str, bytes] = {}
        with self._connected() as connection:
            names = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
            self._tables = [str(row[0]) for row in connection.execute(names).fetchall()]
            for table in self._filled(connection):
                with connection.cursor().copy(f"COPY {table} TO STDOUT".encode()) as copy:
                    self._rows[table] = b"".join(copy)
            self._sequences = dict(
                connection.execute(
                    "SELECT quote_ident(sequencename), last_value FROM pg_sequences WHERE schemaname = 'public'"
                ).fetchall()
            )

    def clean(self) -> None:
        """Takes a few milliseconds. Fails after 5 s when a test has left a transaction open that holds a lock."""
        with self._connected() as connection:
            for table in self._filled(connection):
                connection.execute(f"DELETE FROM {table}".encode())
            for table, rows in self._rows.items():
                connection.execute(f"DELETE FROM {table}".encode())
                with connection.cursor().copy(f"COPY {table} FROM STDIN".encode()) as copy:
                    copy.write(rows)
            for sequence, last in self._sequences.items():
                connection.execute("SELECT setval(%s, coalesce(%s::bigint, 1), %s)", [sequence, last, last is not None])

    def _connected(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        return WARM.connected(self._url, "-c session_replication_role=replica -c lock_timeout=5s")

    def _filled(self, connection: psycopg.Connection) -> list[str]:
        if not self._tables:
            return []
        asked = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in self._tables)
        return [str(row[0]) for row in connection.execute(asked.encode()).fetchall()]


def waiting(session: Session) -> int:
    """How many transactions in this database wait for what another one holds."""
    counted = (
        "SELECT count(DISTINCT w.pid) FROM pg_locks w JOIN pg_locks o USING (pid)"
        " JOIN pg_database d ON d.oid = o.database WHERE NOT w.granted AND d.datname = current_database()"
    )
    return int(session.scalar(sa.text(counted)) or 0)
