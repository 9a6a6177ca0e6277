"""The only session code: one unit of work is one transaction in the sight of one agency; tasks leave after its commit.

Two walls keep agencies apart. The application adds the agency to every ORM statement; row-level security in PostgreSQL
does so for everything else. Both read the scope that the unit of work was opened with, and nothing else.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import (
    DeclarativeBase,
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

T = TypeVar("T")
_open = threading.local()


def transaction_open() -> bool:
    """Whether this thread is inside a unit of work. No call to the outside may be made while it is."""
    return bool(getattr(_open, "depth", 0))


def after_commit(session: Session, task: str, subject: int | str) -> None:
    """Ring for `task` with one id once the unit of work has committed; nothing leaves when it fails."""
    session.info.setdefault("doorbells", []).append((task, subject))


class Database:
    """Opens units of work on one PostgreSQL, as the plain role that row-level security binds."""

    def __init__(self, url: str, ring: Callable[[str, int | str], None] | None = None, pool_size: int = 10) -> None:
        self.engine = sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=10,
            pool_pre_ping=True,
            connect_args={
                "options": "-c timezone=UTC -c lock_timeout=10000 -c idle_in_transaction_session_timeout=60000"
            },
        )
        self.ring = ring
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


@event.listens_for(Session, "after_begin")
def _tell_the_wall(session: Session, _transaction: SessionTransaction, connection: sa.Connection) -> None:
    scope = session.info.get("scope")
    if scope is None:
        raise RuntimeError("a session outside Database.work has no scope")
    connection.execute(
        sa.text("SELECT set_config('app.agency', :agency, true), set_config('app.operator', :operator, true)"),
        {"agency": str(scope.agency_id or ""), "operator": "on" if scope.agency_id is None else ""},
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
