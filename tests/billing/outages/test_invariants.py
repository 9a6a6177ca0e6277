"""Each invariant sees the breach that it is for, by name, with constraints dropped and triggers off."""

import os
import time
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.outages import grants
from billing.outages.invariants import HASHED, INVARIANTS, Breach, breaches, told
from tenants import audit
from tenants.db import OPERATOR, Database, planned
from tenants.house import House
from tests.billing.outages.rows import Approved

STEP_WAITS, GRANT_WAITS = "I4 every step has ended or waits", "I4 every grant has ended or waits"
TABLE, EVENTS = "I5 no step leaves its table", "I5 every state has its events"
TWICE, PAST = "I6 nothing is given twice", "I6 no two runs on one past"
SENT, UNAPPROVED = "I7 a run sent what its steps sent", "I7 nothing was sent without an approval"
WITHIN = "I7 what approved itself is within its day"
PAYMENTS, PARTS = "payments count what steps took", "parts make the whole"
OBJECTS, HOLDS, CHAIN = (
    "no object has two steps",
    "nothing is paused without a hold",
    "I8 audit entries follow each other",
)

# What is planted, in which rule it shows, and what the breach says. Step 1 is a refund of 12.00 that succeeded, step 2
# one that waits; what else breaks with it is a breach of its own, and not looked at here.
PLANTED = [
    ("UPDATE steps SET state = 'lost' WHERE id = 2", STEP_WAITS, "step 2 is in a state that is none: lost"),
    ("UPDATE steps SET due_at = now() + interval '9 days' WHERE id = 2", STEP_WAITS, "step 2 is approved and waits"),
    ("UPDATE steps SET due_at = NULL WHERE id = 2", STEP_WAITS, "step 2 is approved and waits for no time"),
    ("UPDATE steps SET state = 'blocked' WHERE id = 2", STEP_WAITS, "step 2 is blocked and does not say why"),
    ("UPDATE steps SET state = 'needs_person' WHERE id = 2", STEP_WAITS, "step 2 is needs_person and does not say"),
    ("UPDATE steps SET state = 'pending', stripe_id = NULL WHERE id = 1", STEP_WAITS, "without an object in Stripe"),
    ("UPDATE steps SET state = 'unknown' WHERE id = 2", STEP_WAITS, "step 2 is unknown and was never frozen"),
    ("UPDATE steps SET state = 'failed', body = NULL WHERE id = 1", STEP_WAITS, "step 1 is failed and was never"),
    ("DELETE FROM steps WHERE id = 2", GRANT_WAITS, "grant 2 is approved and has no step"),
    ("UPDATE grants SET state = 'succeeded' WHERE id = 2", GRANT_WAITS, "grant 2 is succeeded while a step"),
    ("UPDATE grants SET state = 'cancelled' WHERE id = 2", GRANT_WAITS, "grant 2 is cancelled while a step"),
    ("UPDATE grants SET state = 'pending' WHERE id = 1", GRANT_WAITS, "grant 1 is pending and no step of it is"),
    ("UPDATE grants SET state = 'blocked' WHERE id = 2", GRANT_WAITS, "grant 2 is blocked and no step of it is"),
    ("UPDATE grants SET state = 'needs_person' WHERE id = 1", GRANT_WAITS, "grant 1 is needs_person and no step"),
    (("INSERT INTO step_events (agency_id, step_id, seq, from_state, to_state, actor) "
     "SELECT agency_id, step_id, 3, 'succeeded', 'approved', 'me' FROM step_events WHERE seq = 1"),
     TABLE, "step 1 went from succeeded to approved, which no step may"),
    ("UPDATE steps SET state = 'cancelled' WHERE id = 2", EVENTS, "step 2 is cancelled and nothing tells how"),
    ("UPDATE steps SET state = 'failed' WHERE id = 1", EVENTS, "step 1 is failed where its last event left it"),
    ("DELETE FROM step_events WHERE step_id = 1 AND seq = 1", EVENTS, "step 1 has events that do not follow"),
    ("UPDATE step_events SET to_state = 'unknown' WHERE step_id = 1 AND seq = 1", EVENTS, "step 1 has events that do"),
    # 12.00 were granted: 11.99 are owed, and 11.9949 half up is as little.
    ("UPDATE grants SET owed = '1199/1' WHERE id = 1", TWICE, "was granted 1200 of the 1199 that is owed for it"),
    ("UPDATE grants SET owed = '119949/100' WHERE id = 1", TWICE, "was granted 1200 of the 1199 that is owed for it"),
    ("UPDATE grants SET invoice_id = (SELECT invoice_id FROM grants WHERE id = 1), run_id = 'run_2' WHERE id = 2",
     TWICE, "was granted 2000 of the 1200 that is owed for it"),
    (("INSERT INTO basis (agency_id, invoice_id, seq, run_id, granted_before)"
     " SELECT agency_id, invoice_id, 1, run_id, 0 FROM grants, generate_series(1, 2) WHERE id = 1"),
     PAST, "was planned on one past by 2 approved runs"),
    ("UPDATE run_totals SET sent = 1199", SENT, "run run_1 says that 1199 usd were sent, its steps say 1200"),
    ("UPDATE run_totals SET approved = 1199", SENT, "its steps say 1200, and 1199 were approved"),
    ("UPDATE steps SET first_sent_at = NULL WHERE id = 1", SENT, "says that 1200 usd were sent, its steps say 0"),
    ("UPDATE runs SET approval = NULL, approved_fingerprint = NULL", UNAPPROVED, "was sent and nobody had approved it"),
    ("UPDATE runs SET approved_fingerprint = 'g'", UNAPPROVED, "was approved as another plan than it is"),
    ("UPDATE runs SET approved_by = declared_by", UNAPPROVED, "was approved by whoever started it"),
    ("UPDATE runs SET approval = 'automatic', limit_set_by = declared_by, limit_set_at = '2019-01-01'",
     UNAPPROVED, "was approved by whoever started it"),
    ("UPDATE runs SET approval = 'automatic', approved_at = '2019-08-26T23:59Z'",
     WITHIN, "limit of 2019-08-26 counts 0 of 0 usd, its runs 1000000"),
    ("INSERT INTO limit_days SELECT id, 'usd', '2019-08-26', 5, 6 FROM agencies WHERE slug = 'acme'",
     WITHIN, "limit of 2019-08-26 counts 6 of 5 usd, its runs 0"),
    ("UPDATE payments SET refunded = 1199 WHERE refunded = 1200", PAYMENTS, "0 reserved and 1199 refunded of 5800"),
    ("UPDATE payments SET reserved = 1 WHERE refunded = 1200", PAYMENTS, "counts 1 reserved and 1200 refunded of 5800"),
    ("UPDATE payments SET captured = 1199 WHERE refunded = 1200", PAYMENTS, "0 reserved and 1200 refunded of 1199"),
    ("UPDATE grants SET amount = 1201 WHERE id = 1", PARTS, "grant 1 is 1201 in parts of 1200 + 0 + 0 + 0"),
    ("UPDATE grants SET amount = 0, refund = 0 WHERE id = 2", PARTS, "grant 2 is 0 in parts of 0 + 0 + 0 + 0"),
    ("UPDATE grants SET refund = 1300, credit = -100 WHERE id = 1", PARTS, "in parts of 1300 + -100 + 0 + 0"),
    ("UPDATE steps SET refund = 1199 WHERE id = 1", PARTS, "grant 1 is 1200 in parts of 1200 + 0 + 0 + 0, in steps"),
    ("UPDATE grant_lines SET amount = 1199 WHERE grant_id = 1", PARTS, "and lines of 1199"),
    ("UPDATE steps SET stripe_id = (SELECT stripe_id FROM steps WHERE id = 1) WHERE id = 2",
     OBJECTS, "is named by 2 steps"),
    ("UPDATE subscriptions SET pause_behavior = 'void', pause_incident = 'inc_1'", HOLDS, "is paused by us for inc_1"),
    ("UPDATE audit_entries SET previous_hash = 'x' WHERE seq = 2", CHAIN, "audit entry 2 does not follow"),
    ("UPDATE audit_entries SET hash = 'x' WHERE seq = 1", CHAIN, "audit entry 2 does not follow"),
    ("DELETE FROM audit_entries WHERE seq = 2", CHAIN, "audit entry 3 does not follow"),
    ("UPDATE audit_entries SET seq = 7 WHERE seq = 3", CHAIN, "audit entry 7 does not follow"),
]  # fmt: skip
CONSTRAINTS = """
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', conrelid::regclass, conname) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'u', 'p', 'x') AND conrelid::regclass::text IN
    ('steps', 'grants', 'run_totals', 'runs', 'payments', 'basis', 'grant_lines', 'audit_entries', 'limit_days')
"""
NULLABLE = ("ALTER TABLE steps ALTER due_at DROP NOT NULL",)


class Undone(Exception):
    """Nothing of what was planted stays."""


@pytest.fixture
def sent(world: Approved, house: House) -> Approved:
    """Two grants of one run, 12.00 sent and 8.00 waiting; three audit entries."""
    world.refund_of(1_200)
    grants.send_due(house, 5)
    world.refund_of(800)
    with world.database.work(OPERATOR) as session:
        for number in range(3):
            audit.record(session, "ada@example.com", "cli", "plan.weighed", f"price_{number}", after={"n": number})
    return world


def lawless(session: Session) -> None:
    """No constraint and no trigger stands in the way of this transaction."""
    session.execute(sa.text("SET LOCAL session_replication_role = replica"))
    for (statement,) in session.execute(sa.text(CONSTRAINTS)).all():
        session.execute(sa.text(statement))
    for statement in NULLABLE:
        session.execute(sa.text(statement))


def planted(superuser: Database, statement: str) -> list[Breach]:
    """What is found while `statement` holds; it is taken back."""
    found: list[Breach] = []
    with suppress(Undone), superuser.work(OPERATOR) as session:
        lawless(session)
        session.execute(sa.text(statement))
        found += breaches(session)
        raise Undone
    return found


def test_every_planted_breach_is_found_under_its_name(sent: Approved, superuser: Database) -> None:
    with superuser.work(OPERATOR) as session:
        assert breaches(session) == []
    for statement, rule, words in PLANTED:
        found = planted(superuser, statement)
        assert [one for one in found if one.invariant == rule and words in one.sentence()], (statement, found)
    assert {rule for _, rule, _ in PLANTED} == set(INVARIANTS), "an invariant that no planted breach shows"


def test_a_breach_says_what_it_concerns(sent: Approved, superuser: Database) -> None:
    assert [one.stops for one in planted(superuser, "UPDATE payments SET reserved = 1 WHERE refunded = 1200")] == [
        "payment:inpay_2_1"
    ]
    assert {one.stops for one in planted(superuser, "UPDATE run_totals SET sent = 1")} == {"incident:inc_1"}
    assert {one.stops for one in planted(superuser, "DELETE FROM audit_entries WHERE seq = 1")} == {""}


def test_one_rule_can_be_asked_alone(sent: Approved, superuser: Database) -> None:
    with suppress(Undone), superuser.work(OPERATOR) as session:
        session.execute(sa.text("UPDATE run_totals SET sent = 1"))
        assert breaches(session, TWICE, CHAIN) == []
        assert [one.invariant for one in breaches(session, SENT)] == [SENT]
        raise Undone


MANY = int(os.environ.get("MANY", "10000"))
MULTIPLIED = """
    INSERT INTO customers (agency_id, id, created_at) SELECT 1, 'c' || n, now() FROM generate_series(1, {many}) n;
    INSERT INTO invoices SELECT (i).* FROM (SELECT jsonb_populate_record(i, jsonb_build_object(
        'id', 'i' || n, 'customer_id', 'c' || n, 'agency_id', 1)) i FROM invoices i, generate_series(1, {many}) n
        WHERE i.id = 'in_2') x;
    INSERT INTO payments SELECT (p).* FROM (SELECT jsonb_populate_record(p, jsonb_build_object(
        'id', 'p' || n, 'invoice_id', 'i' || n, 'agency_id', 1)) p FROM payments p, generate_series(1, {many}) n
        WHERE p.id = 'inpay_2_1') x;
    INSERT INTO grants SELECT (g).* FROM (SELECT jsonb_populate_record(g, jsonb_build_object(
        'id', 1000 + n, 'invoice_id', 'i' || n, 'agency_id', 1)) g FROM grants g, generate_series(1, {many}) n
        WHERE g.id = 1) x;
    INSERT INTO grant_lines SELECT (l).* FROM (SELECT jsonb_populate_record(l, jsonb_build_object(
        'grant_id', 1000 + n, 'agency_id', 1)) l FROM grant_lines l, generate_series(1, {many}) n
        WHERE l.grant_id = 1) x;
    INSERT INTO steps SELECT (s).* FROM (SELECT jsonb_populate_record(s, jsonb_build_object(
        'id', 1000 + n, 'grant_id', 1000 + n, 'payment_id', 'p' || n, 'stripe_id', 'cn' || n, 'agency_id', 1)) s
        FROM steps s, generate_series(1, {many}) n WHERE s.id = 1) x;
    INSERT INTO step_events SELECT (e).* FROM (SELECT jsonb_populate_record(e, jsonb_build_object(
        'step_id', 1000 + n, 'agency_id', 1)) e FROM step_events e, generate_series(1, {many}) n
        WHERE e.step_id = 1) x;
    INSERT INTO runs SELECT (r).* FROM (SELECT jsonb_populate_record(r, '{{"agency_id": 1}}') r FROM runs r) x;
    INSERT INTO run_totals (agency_id, run_id, currency, approved, sent)
        SELECT 1, 'run_1', 'usd', 1200::bigint * {many}, 1200::bigint * {many}
"""


GROWN = ("run_totals", "runs", "step_events", "steps", "grant_lines", "grants", "payments", "invoices", "customers")


def multiply(session: Session, many: int) -> None:
    for statement in MULTIPLIED.format(many=many).split(";"):
        session.execute(sa.text(statement.replace("::bigint", "\\:\\:bigint")))


def joins(session: Session) -> list[str]:
    """How the rules join their tables, one line a join."""
    with planned(session, **HASHED):
        plans = [
            session.scalars(sa.text(f"EXPLAIN (COSTS OFF) {rule}"), told(name)).all()
            for name, rule in INVARIANTS.items()
        ]
    lines = [line.strip().removeprefix("->").strip() for plan in plans for line in plan]
    return [line for line in lines if line.startswith(("Hash", "Merge", "Nested")) and line.endswith(("Join", "Loop"))]


def test_many_steps_are_looked_at_in_one_pass(sent: Approved, superuser: Database) -> None:
    """No rule reads a table once for each row of another, whatever PostgreSQL believes of tables that just grew.

    MANY=100000 for the whole size; it takes some 2 s there.
    """
    with suppress(Undone), superuser.work(OPERATOR) as session:
        lawless(session)
        multiply(session, 10_000)
        for table in GROWN:  # it was as full once, and was emptied: each page is believed to hold next to nothing
            session.execute(sa.text(f"DELETE FROM {table} WHERE agency_id = 1"))
        session.execute(sa.text("ANALYZE"))
        multiply(session, MANY)
        assert [line for line in joins(session) if not line.startswith("Hash")] == []
        took = {}
        for rule in INVARIANTS:
            begun = time.monotonic()
            assert breaches(session, rule) == []
            took[rule] = round(time.monotonic() - begun, 2)
        print(sum(took.values()), took)
        assert sum(took.values()) < 10
        session.execute(sa.text("UPDATE payments SET refunded = 1 WHERE id = :id"), {"id": f"p{MANY}"})
        assert [one.object for one in breaches(session, PAYMENTS)] == [f"payment p{MANY}"]
        raise Undone
