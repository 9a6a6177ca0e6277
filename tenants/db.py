"""The only session code: one unit of work is one transaction in the sight of one agency; tasks leave after its commit.

Two walls keep agencies apart. The application adds the agency to every ORM statement; row-level security in PostgreSQL
does so for everything else. Both read the scope that the unit of work was opened with, and nothing else.
"""

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.orm import (
    DeclarativeBase,
    InstrumentedAttribute,
    Mapped,
    ORMExecuteState,
    Session,
    SessionTransaction,
    mapped_column,
    sessionmaker,
    with_loader_criteria,
)


class Base(DeclarativeBase):
    """Every table of the product. Text, bigint, timestamptz and jsonb unless a column says otherwise."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        int: sa.BigInteger,
        str: sa.Text,
        datetime: sa.DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
    }


class AgencyOwned:
    """A row that belongs to one agency, and is invisible to every other."""

    agency_id: Mapped[int] = mapped_column(sa.ForeignKey("agencies.id"), primary_key=True)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose rows a unit of work may see: one agency's, or everybody's (operator staff, workers, the mirror)."""

    agency_id: int | None


OPERATOR: Final = Scope(None)
RETRIED = {"40001", "40P01"}
MOST_TRIES = 5
UNASKED: Final = 5.0
"""Seconds that a pooled connection may lie before it is asked whether it still works."""

_SETTINGS: Final = (
    "timezone=UTC",
    "lock_timeout=10000",
    "idle_in_transaction_session_timeout=60000",
    # The plan of 100,000 grants stays in memory; a connection takes of it only what it uses.
    "temp_buffers=48MB",
)

T = TypeVar("T")
Statement = TypeVar("Statement", bound=sa.ClauseElement)
_open = threading.local()


def transaction_open() -> bool:
    """Whether this thread is inside a unit of work. No call to the outside may be made while it is."""
    return bool(getattr(_open, "depth", 0))


def after_commit(session: Session, task: str, subject: int | str) -> None:
    """Ring for `task` with one id once the unit of work has committed; nothing leaves when it fails."""
    session.info.setdefault("doorbells", []).append((task, subject))


def one_of(column: sa.ColumnElement[str] | InstrumentedAttribute[str], *values: str) -> sa.ColumnElement[bool]:
    """In a query: `column IN (…)` with the values written out.

    PostgreSQL plans a statement that it has met often without its parameters, and then sees no partial index fit.
    """
    return column.in_(sa.bindparam(None, values, expanding=True, literal_execute=True))


def prepared(build: Callable[[], Statement]) -> Callable[[], Statement]:
    """A statement that is built once, at its first use and by one thread alone.

    Threads that use an alias for the first time at once can meet it half made: whoever comes here meets it whole.
    """
    lock = threading.Lock()
    made: list[Statement] = []

    @wraps(build)
    def statement() -> Statement:
        if not made:
            with lock:
                if not made:
                    whole = build()
                    whole.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
                    made.append(whole)
        return made[0]

    return statement


_MANY: Final = 1_000
BY_INDEX: Final[dict[str, str | int]] = {
    f"enable_{name}": "off" for name in ("sort", "incremental_sort", "seqscan", "bitmapscan", "hashjoin", "mergejoin")
}
"""For `planned`: what is looked for is at the beginning of an index in its order, and all that it hangs on by a key."""


@contextmanager
def planned(session: Session, **settings: str | int) -> Iterator[None]:
    """Statements inside are planned under these settings of the server, however full it believes its tables to be.

    For a statement whose right plan is known: statistics are those of before until a minute after a table has grown.
    """
    connection = session.connection()
    connection.exec_driver_sql("; ".join(f"SET LOCAL {name} = {value}" for name, value in settings.items()))
    yield
    connection.exec_driver_sql("; ".join(f"SET LOCAL {name} = DEFAULT" for name in settings))


def for_rows(session: Session, count: int) -> AbstractContextManager[None]:
    """Statements inside are about so many rows: once they are many, every table is read once, and none row by row.

    PostgreSQL takes rows that it has not counted yet, as right after an import, for a few. Joined each with each, a few
    thousand already take minutes.
    """
    return planned(session, enable_nestloop="off") if count > _MANY else nullcontext()


class Database:
    """Opens units of work on one PostgreSQL, as the plain role that row-level security binds."""

    def __init__(self, url: str, ring: Callable[[str, int | str], None] | None = None, pool_size: int = 10) -> None:
        self.engine = sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=10,
            connect_args={
                "autocommit": True,  # BEGIN is said below, by a unit of work together with its scope
                "options": " ".join(f"-c {setting}" for setting in _SETTINGS),
            },
        )
        self.ring = ring
        self.connections = 0
        """How often a connection was made: after each, the server may be another one than before."""
        event.listen(self.engine, "connect", self._connected)
        event.listen(self.engine, "begin", _begun_by_itself)
        event.listen(self.engine, "checkin", _lies_from_now)
        event.listen(self.engine, "checkout", self._still_works)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def work(self, scope: Scope) -> Iterator[Session]:
        """One transaction in one scope: commits when the block ends well, then rings for what it left to be done."""
        if transaction_open():
            raise RuntimeError("a unit of work was opened inside another; pass its session instead")
        session = self._sessions()
        session.info["scope"] = scope
        _open.depth = 1
        try:
            with session:
                yield session
                session.commit()
        finally:
            _open.depth = 0
        for task, subject in session.info.pop("doorbells", []):
            if self.ring is not None:
                self.ring(task, subject)

    def retried(self, scope: Scope, do: Callable[[Session], T]) -> T:
        """Run `do(session)` as one unit of work, and the whole of it again when PostgreSQL ends it as a deadlock."""
        for tried in range(1, MOST_TRIES + 1):
            try:
                with self.work(scope) as session:
                    return do(session)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) not in RETRIED or tried == MOST_TRIES:
                    raise
        raise AssertionError("unreachable")

    def _connected(self, _connection: Any, record: Any) -> None:
        self.connections += 1
        _lies_from_now(None, record)

    def _still_works(self, connection: Any, record: Any, _: Any) -> None:
        """Ask a connection that has lain for long, or that a server which ended it has spoken to, before it is used."""
        if time.monotonic() < record.info["lies_since"] + UNASKED and not _has_been_told_something(connection):
            return
        try:
            self.engine.dialect.do_ping(connection)
        except self.engine.dialect.loaded_dbapi.OperationalError as error:
            raise InvalidatePoolError from error

    def refuse_powerful_role(self) -> None:
        """Raise `PermissionError` when this login could pass the wall: a superuser, BYPASSRLS, or a table owner."""
        with self.engine.connect() as connection:
            name, too_strong = connection.execute(
                sa.text(
                    """
                    SELECT current_user, bool_or(r.rolsuper OR r.rolbypassrls OR r.rolname = t.tableowner)
                    FROM pg_roles r LEFT JOIN pg_tables t ON t.schemaname = 'public' AND t.tablename = 'agencies'
                    WHERE pg_has_role(current_user, r.oid, 'MEMBER')
                    """
                )
            ).one()
        if too_strong:
            raise PermissionError(
                f"The database role {name} can bypass row-level security. Use the plain role outage_app in "
                "DATABASE_URL, and the owner only in DATABASE_OWNER_URL for `flask db upgrade`."
            )

    def dispose(self, close: bool = True) -> None:
        """Let go of pooled connections; with `close=False` after a fork, where they belong to the parent."""
        self.engine.dispose(close=close)


def _lies_from_now(_: Any, record: Any) -> None:
    record.info["lies_since"] = time.monotonic()


def _has_been_told_something(connection: Any) -> bool:
    """Whether bytes, or the end, wait on a connection on which nothing was asked: a server that stops says so."""
    if connection.closed:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _begun_by_itself(connection: sa.Connection) -> None:
    """A transaction of nobody's unit of work."""
    if not transaction_open():
        connection.exec_driver_sql("BEGIN")


@event.listens_for(Session, "after_begin")
def _tell_the_wall(session: Session, transaction: SessionTransaction, connection: sa.Connection) -> None:
    scope = session.info.get("scope")
    if scope is None:
        raise RuntimeError("a session outside Database.work has no scope")
    if transaction.nested:
        return
    agency, operator = ("", "on") if scope.agency_id is None else (str(int(scope.agency_id)), "")
    connection.exec_driver_sql(
        f"BEGIN; SELECT set_config('app.agency', '{agency}', true), set_config('app.operator', '{operator}', true)"
    )


@event.listens_for(Session, "do_orm_execute")
def _keep_to_the_agency(state: ORMExecuteState) -> None:
    scope = state.session.info.get("scope")
    if scope is None or scope.agency_id is None or state.is_column_load or state.is_relationship_load:
        return
    agency_id = scope.agency_id
    state.statement = state.statement.options(
        with_loader_criteria(AgencyOwned, lambda table: table.agency_id == agency_id, include_aliases=True)
    )
