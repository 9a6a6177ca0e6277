"""The tests' own database fixture keeps tests apart."""

import os

import psycopg
import pytest

from sandbox.postgres import Server, Urls
from tenants.db import OPERATOR, Database
from tenants.models import Agency
from tests.databases import WARM, cloned


@pytest.mark.parametrize("turn", [1, 2])
def test_what_one_test_commits_the_next_does_not_see(db: Database, turn: int) -> None:
    with db.work(OPERATOR) as session:
        assert [agency.slug for agency in session.query(Agency)] == ["operator"]
        session.add(Agency(slug="acme", name="Acme"))
    with db.work(OPERATOR) as session:
        assert session.query(Agency).count() == 2


def test_a_database_with_the_name_of_one_that_is_gone_is_reached(postgres_server: Server) -> None:
    for _ in range(2):
        with cloned(postgres_server, f"test_{os.getpid()}_twice") as urls, WARM.connected(urls.app) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_the_program_logs_in_as_a_role_that_cannot_pass_the_wall(db: Database) -> None:
    db.refuse_powerful_role()


def test_the_owner_is_refused_as_login_of_the_program(database_urls: Urls) -> None:
    owner = Database(database_urls.owner)
    with pytest.raises(PermissionError, match="can bypass row-level security"):
        owner.refuse_powerful_role()
    owner.dispose()


def test_neither_role_is_powerful(database_urls: Urls) -> None:
    with psycopg.connect(database_urls.app) as connection:
        powers = connection.execute(
            "SELECT bool_or(rolsuper OR rolbypassrls OR rolcreatedb OR rolcreaterole OR rolreplication), count(*)"
            " FROM pg_roles WHERE rolname IN ('outage_owner', 'outage_app')"
        ).fetchone()
    assert powers == (False, 2)
