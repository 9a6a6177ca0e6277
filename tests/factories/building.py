"""The session that factories write into, and what all of them share."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from factory.alchemy import SQLAlchemyModelFactory
from sqlalchemy.orm import Session

from tenants.db import OPERATOR, Database

AUGUST = datetime(2019, 8, 1, tzinfo=UTC)
SEPTEMBER = datetime(2019, 9, 1, tzinfo=UTC)
_session: ContextVar[Session] = ContextVar("session")


@contextmanager
def building(db: Database) -> Iterator[Session]:
    """A unit of work in the operator's sight that factories write into; committed at the end."""
    with db.work(OPERATOR) as session:
        token = _session.set(session)
        try:
            yield session
        finally:
            _session.reset(token)


class RowFactory(SQLAlchemyModelFactory):
    """Writes at once, so that rows can name each other by id."""

    class Meta:
        abstract = True
        sqlalchemy_session_factory = _session.get
        sqlalchemy_session_persistence = "flush"
