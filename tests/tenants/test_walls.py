"""Both walls between agencies, and the rules that the database keeps by itself."""

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, ProgrammingError

from billing import circuits, rates
from billing.models import Customer
from billing.outages import alarms, allowances, decisions, findings
from billing.outages import models as outages
from billing.outages.messages import models as messages
from sandbox.postgres import Urls
from tenants import audit
from tenants.db import OPERATOR, Base, Database, Scope, after_commit, transaction_open
from tenants.models import Agency, AuditEntry
from webhooks import models as webhooks


@pytest.fixture
def two_agencies(db: Database) -> tuple[Scope, Scope]:
    with db.work(OPERATOR) as session:
        acme, umbra = Agency(slug="acme", name="Acme"), Agency(slug="umbra", name="Umbra")
        session.add_all([acme, umbra])
        session.flush()
        for agency in (acme, umbra):
            session.add(
                Customer(
                    agency_id=agency.id, id=f"cus_{agency.slug}", name=f"canary-{agency.slug}", created_at=sa.func.now()
                )
            )
        return Scope(acme.id), Scope(umbra.id)


def test_every_table_has_a_forced_wall_with_policies(database_urls: Urls) -> None:
    with psycopg.connect(database_urls.owner) as connection:
        bare = connection.execute(
            """
            SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> 'alembic_version'
              AND NOT (c.relrowsecurity AND c.relforcerowsecurity
                       AND (SELECT count(DISTINCT p.polcmd) FROM pg_policy p WHERE p.polrelid = c.oid) = 4)
            """
        ).fetchall()
        there = {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert bare == []
    assert all((alarms, allowances, circuits, decisions, findings, messages, outages, rates, webhooks))  # have tables
    assert there - {"alembic_version"} == set(Base.metadata.tables)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT name FROM customers",
        "SELECT max(name) FROM customers",
        "WITH c AS (SELECT name FROM customers) SELECT name FROM c",
        "SELECT (SELECT string_agg(name, ',') FROM customers)",
    ],
)
def test_text_statements_see_one_agency_only(db: Database, two_agencies: tuple[Scope, Scope], statement: str) -> None:
    with db.work(two_agencies[0]) as session:
        assert [row[0] for row in session.execute(sa.text(statement))] == ["canary-acme"]


def test_orm_statements_are_filtered_by_the_application_alone(
    db: Database, two_agencies: tuple[Scope, Scope], database_urls: Urls, postgres_server: object
) -> None:
    """As the superuser, whom no policy binds: what is left is the application's own wall."""
    admin = Database(database_urls.app.replace("outage_app@", "postgres@"))
    with admin.work(two_agencies[1]) as session:
        assert [row.name for row in session.scalars(sa.select(Customer))] == ["canary-umbra"]
        assert session.scalar(sa.select(sa.func.count(Customer.id))) == 1
        assert session.get(Customer, {"agency_id": two_agencies[0].agency_id, "id": "cus_acme"}) is None
    admin.dispose()


def test_a_row_cannot_be_written_into_another_agency(db: Database, two_agencies: tuple[Scope, Scope]) -> None:
    mine, theirs = two_agencies
    with pytest.raises(ProgrammingError, match="row-level security"), db.work(mine) as session:
        session.execute(
            sa.text("INSERT INTO customers (agency_id, id, created_at) VALUES (:agency, 'cus_x', now())"),
            {"agency": theirs.agency_id},
        )
    with db.work(mine) as session:
        changed = session.execute(sa.text("UPDATE customers SET name = 'mine' WHERE id = 'cus_umbra'"))
        assert changed.rowcount == 0  # type: ignore[attr-defined]


def test_the_scope_does_not_outlive_its_transaction(database_urls: Urls, db: Database) -> None:
    """One pooled connection: what the last unit of work was allowed to see, the next is not."""
    narrow = Database(database_urls.app, pool_size=1)
    with narrow.work(OPERATOR) as session:
        assert session.scalar(sa.text("SELECT current_setting('app.operator', true)")) == "on"
    with narrow.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM agencies")) == 0
        assert not connection.scalar(sa.text("SELECT current_setting('app.operator', true)"))
    narrow.dispose()


def test_the_wall_does_not_make_the_planner_expect_next_to_nothing(database_urls: Urls, db: Database) -> None:
    """Who expects a few rows joins them each with each: the operator sees all 1,000, and half of them are expected."""
    with db.work(OPERATOR) as session:
        session.add_all([Agency(slug=f"agency-{n}", name="Agency") for n in range(20)])
        session.flush()
        many = "SELECT a.id, 'c' || n, now() FROM agencies a, generate_series(1, 50) n WHERE a.slug LIKE 'agency-%'"
        session.execute(sa.text(f"INSERT INTO customers (agency_id, id, created_at) {many}"))
    with psycopg.connect(database_urls.owner, autocommit=True) as owner:
        owner.execute("ANALYZE customers")
    with db.work(OPERATOR) as session:
        (plan,) = session.scalars(sa.text("EXPLAIN (FORMAT JSON) SELECT FROM customers")).one()
    assert plan["Plan"]["Plan Rows"] >= 500


def test_tasks_are_rung_for_after_the_commit_and_never_for_a_failure(database_urls: Urls, db: Database) -> None:
    rung: list[tuple[str, int | str, bool]] = []
    bell = Database(database_urls.app, ring=lambda task, subject: rung.append((task, subject, transaction_open())))
    with bell.work(OPERATOR) as session:
        after_commit(session, "outages.hold", "inc_1")
        with session.begin_nested():
            session.add(Agency(slug="nested", name="Nested"))
        assert rung == []
    assert rung == [("outages.hold", "inc_1", False)]
    with pytest.raises(IntegrityError), bell.work(OPERATOR) as session:
        after_commit(session, "outages.hold", "inc_2")
        session.add(Agency(slug="nested", name="Again"))
    assert len(rung) == 1
    bell.dispose()


def test_one_unit_of_work_is_not_opened_inside_another(db: Database) -> None:
    with db.work(OPERATOR), pytest.raises(RuntimeError, match="inside another"), db.work(OPERATOR):
        pass
    assert not transaction_open()


def test_a_deadlock_is_tried_again_as_a_whole(db: Database) -> None:
    tries: list[int] = []

    def work(session: sa.orm.Session) -> str:
        tries.append(1)
        session.add(Agency(slug=f"try-{len(tries)}", name="Try"))
        session.flush()
        if len(tries) < 3:
            session.execute(
                sa.text("DO $$ BEGIN RAISE EXCEPTION 'as PostgreSQL says it' USING ERRCODE = '40P01'; END $$")
            )
        return "done"

    assert db.retried(OPERATOR, work) == "done"
    with db.work(OPERATOR) as session:
        kept = session.scalars(sa.select(Agency.slug).where(Agency.slug.like("try-%"))).all()
    assert kept == ["try-3"]


@pytest.mark.parametrize(
    "change", ["UPDATE audit_entries SET actor = 'x'", "DELETE FROM audit_entries", "TRUNCATE audit_entries"]
)
def test_an_audit_entry_cannot_be_changed_even_by_the_owner(db: Database, database_urls: Urls, change: str) -> None:
    with db.work(OPERATOR) as session:
        audit.record(session, "ada@example.com", "cli", "agency.created", "acme", after={"name": "Acme"})
    with pytest.raises(ProgrammingError, match="permission denied"), db.work(OPERATOR) as session:
        session.execute(sa.text(change))
    with psycopg.connect(database_urls.owner) as connection:
        connection.execute("SELECT set_config('app.operator', 'on', true)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never changed or removed"):
            connection.execute(change.encode())


def test_the_audit_chain_shows_the_entry_that_was_edited(db: Database, database_urls: Urls) -> None:
    with db.work(OPERATOR) as session:
        for number in range(3):
            audit.record(session, "ada@example.com", "cli", "plan.weighed", f"price_{number}", after={"n": number})
        assert audit.breaks(session) == {}
    admin = database_urls.owner.replace("outage_owner@", "postgres@")
    with psycopg.connect(admin) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE audit_entries SET after = '{\"n\": 9}' WHERE seq = 2")
    with db.work(OPERATOR) as session:
        assert audit.breaks(session) == {1: 2}
        assert session.scalar(sa.select(sa.func.count()).select_from(AuditEntry)) == 3


def test_weights_of_a_plan_never_pass_the_whole(db: Database) -> None:
    insert = """
        INSERT INTO plans (id, product_id, name, currency, metered, active, created_at)
        VALUES ('price_1', 'prod_1', 'Pages', 'usd', false, true, now());
        INSERT INTO plan_weights SELECT 'price_1', id, 6000 FROM platforms WHERE slug IN ('facebook', 'instagram')
    """
    with pytest.raises(IntegrityError, match="more than 10,000 basis points"), db.work(OPERATOR) as session:
        for statement in insert.split(";"):
            session.execute(sa.text(statement))
