"""Who is served first, and who not for ever: agencies beside each other, a grant that always raises."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from billing import circuits
from billing.outages import bodies, by_hand, claims, grants, switch, upcoming
from billing.outages.models import Grant, Run, Step
from tenants.db import BY_INDEX, OPERATOR, Database, planned
from tenants.house import House
from tenants.models import Agency
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe

NOTES = "/v1/credit_notes"
_MANY_GRANTS = """
INSERT INTO grants (agency_id, run_id, incident_id, invoice_id, customer_id, subscription_id, channel, currency, amount,
                    refund, owed, granted_before, basis_seq, state, fallback_of)
SELECT g.agency_id, g.run_id, g.incident_id, g.invoice_id, g.customer_id, g.subscription_id, g.channel, g.currency,
       g.amount, g.refund, g.owed, 0, 1, 'approved', g.id
FROM grants g, generate_series(1, 10000) WHERE g.agency_id = :big
"""
_THEIR_STEPS = """
INSERT INTO steps (agency_id, grant_id, no, kind, currency, amount, refund, state, stripe_account, due_at)
SELECT g.agency_id, g.id, 1, 'credit_note', g.currency, g.amount, g.refund, 'approved', '', now() - interval '1 h'
FROM grants g WHERE g.agency_id = :big AND g.fallback_of IS NOT NULL
"""


def due_again(world: Approved) -> None:
    """Leases of whoever ended have run out."""
    with world.database.work(OPERATOR) as session:
        session.execute(sa.text("UPDATE steps SET lease_until = now() - interval '1 s', due_at = now()"))


def test_an_agency_with_very_many_does_not_make_a_small_one_wait(db: Database, stripe: SmallStripe) -> None:
    """10,000 of one agency were due before the first of the other: by age alone it would be the 10,001st."""
    world = Approved(db, stripe).begin()
    world.refund_of(100)
    with db.work(OPERATOR) as session:
        small = Agency(slug="small", name="Small")
        session.add(small)
        session.flush()
        big, world.agency_id = world.agency_id, small.id
        people = session.execute(sa.text("SELECT min(id), max(id) FROM members")).one()
        world.run_id = "run_small"
        world.add_run(session, "run_small", people[0], people[1], 1_000_000)
    of_small = [world.refund_of(100 + i) for i in range(10)]
    served: list[int] = []
    with db.work(OPERATOR) as session:
        for statement in (_MANY_GRANTS, _THEIR_STEPS):
            session.execute(sa.text(statement), {"big": big})
        for _ in range(60):
            claim = claims.claim(session)
            assert claim is not None
            served.append(claim.step.agency_id)
            session.execute(sa.update(Step).where(Step.id == claim.step.id).values(state="cancelled"))
        session.rollback()
    # alone it would have had its ten in ten claims; beside the other it has them in sixty with all but certainty:
    # that fewer than ten of sixty fall to it, each by even chances, happens once in ten million
    assert served.count(world.agency_id) == len(of_small)


@pytest.mark.parametrize("known", [False, True])
def test_however_many_are_due_one_is_found_in_the_order_of_an_index(
    known: bool, world: Approved, superuser: Database
) -> None:
    """As PostgreSQL plans it once it has met the statement often, and knows nothing of its tables, or yesterday's."""
    world.refund_of(100)
    with superuser.work(OPERATOR) as session:
        if known:
            session.execute(sa.text("ANALYZE grants, steps"))
    with world.database.work(OPERATOR) as session:
        session.execute(sa.text(_MANY_GRANTS), {"big": world.agency_id})
        session.execute(sa.text(_THEIR_STEPS), {"big": world.agency_id})
        session.execute(sa.text("SET LOCAL plan_cache_mode = force_generic_plan"))
        with planned(session, **BY_INDEX):
            of_agency = plan_of(session, upcoming._first_due_of_agency(), agency=world.agency_id)
            of_all = plan_of(session, upcoming._first_due())
            session.execute(sa.text("UPDATE steps SET first_sent_at = now(), body = '' WHERE id % 99 = 9"))
            under_way = plan_of(session, upcoming._first_under_way_of_agency(), agency=world.agency_id)
            assert "ix_steps_under_way" in "".join(under_way)
            session.execute(sa.text("UPDATE steps SET state = 'sent', first_sent_at = now(), body = ''"))
            unknown = plan_of(session, upcoming._first_unknown_of_agency(), agency=world.agency_id)
            assert "ix_steps_unknown" in "".join(unknown)
            in_doubt = plan_of(session, upcoming._in_doubt())
            assert "ix_steps_troubled" in "".join(in_doubt)
        session.rollback()
    for plan in (of_agency, of_all, under_way, unknown):
        assert [line for line in plan if "Sort" in line] == []  # an incremental one neither
        assert [line for line in plan if "Index Scan using ix_steps_" in line] != []


def test_while_no_other_grant_may_begin_those_that_wait_are_not_walked_through(world: Approved) -> None:
    """A run that is halted, or waits for its first grant, may have a hundred thousand of them."""
    world.refund_of(100)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.text(_MANY_GRANTS), {"big": world.agency_id})
        session.execute(sa.text(_THEIR_STEPS), {"big": world.agency_id})
        assert session.execute(upcoming._by_lot()).all() == [(world.agency_id, True)]
        session.execute(sa.update(Run).values(opened_to=1, begun=1))
        assert session.execute(upcoming._by_lot()).all() == [(world.agency_id, False)]
        assert not session.scalar(upcoming._may_begin())
        assert claims.claim(session) is None  # whoever comes first passes by what other tests rolled back
        walked = _rows_read(session)
        assert claims.claim(session) is None
        read = _rows_read(session) - walked
        assert read.total() < 100, read
        session.execute(sa.update(Run).values(opened_to=None, state="halted"))
        assert not session.scalar(upcoming._may_begin())
        session.execute(sa.update(Run).values(state="running"))
        switch.turn(session, switch.of_incident(world.incident_id), "", "x", sending=False)
        assert not session.scalar(upcoming._may_begin())
        session.rollback()


def _rows_read(session: Session) -> Counter[str]:
    """How many rows of the steps were read in this transaction, by way of which index, or of none."""
    read = "pg_stat_get_xact_tuples_returned(id) + pg_stat_get_xact_tuples_fetched(id)"
    ways = "SELECT 'steps'::regclass::oid AS id UNION ALL SELECT indexrelid FROM pg_index"
    rows = session.execute(
        sa.text(f"SELECT id::regclass::text, {read} FROM ({ways} WHERE indrelid = 'steps'::regclass) w")
    ).all()
    return Counter(dict(rows))


def plan_of(session: Session, statement: sa.Select[Any], **told: Any) -> Sequence[str]:
    """How the server runs it when it has prepared it, without looking at what is told."""
    for _ in range(6):  # by then psycopg has let the server prepare it
        session.execute(statement, told).all()
    said: list[str] = []
    listened = (session.get_bind(), "before_cursor_execute", lambda _c, _u, asked, *_: said.append(asked))
    event.listen(*listened)
    session.execute(statement, told).all()
    event.remove(*listened)
    asked = re.sub(r"%\(\w+\)s", "$", said[0])
    known = session.execute(sa.text("SELECT name, cardinality(parameter_types), statement FROM pg_prepared_statements"))
    ((name, arguments),) = [one[:2] for one in known if re.sub(r"\$\d+", "$", one.statement) == asked]
    nothing = f"({', '.join(['NULL'] * arguments)})" if arguments else ""
    return session.scalars(sa.text(f"EXPLAIN (COSTS OFF) EXECUTE {name}{nothing}")).all()


def test_what_may_have_happened_is_looked_for_before_anything_new_is_sent(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """All that waits was approved, and so is due, before the answer stayed away."""
    lost = world.refund_of(1_200)
    new = [world.refund_of(100 + i) for i in range(3)]
    stripe.spoil("POST", NOTES, "lost_after")
    assert grants.send_due(house, 1) == 1
    assert world.seen(Step, lost).state == "unknown"
    with world.database.work(OPERATOR) as session:
        session.execute(sa.text("UPDATE steps SET due_at = clock_timestamp() WHERE id = :id"), {"id": lost})
    assert grants.send_due(house, 1) == 1
    assert [world.seen(Step, id).state for id in (lost, *new)] == ["succeeded", *["approved"] * 3]


def test_where_the_lot_falls_on_an_agency_that_can_do_nothing_another_is_served(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        for n in range(5):
            session.add(Agency(slug=f"idle-{n}", name="Idle"))
    assert grants.send_due(house, 10) == 1
    assert world.seen(Step, step).state == "succeeded"


def test_a_grant_that_always_raises_goes_to_a_person_after_five_times_and_the_others_go_out(
    world: Approved, house: House, stripe: SmallStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = world.refund_of(666)
    others = [world.refund_of(100 + i) for i in range(3)]
    written, raised = bodies.written, [0]

    def raises(house: House, found: bodies.Dossier) -> bodies.Written:
        if found.step.id == poison:
            raised[0] += 1
            raise ZeroDivisionError
        return written(house, found)

    monkeypatch.setattr(bodies, "written", raises)
    for _ in range(claims.MOST_TRIES):
        try:
            while grants.send_due(house, 10):
                pass
        except ZeroDivisionError:
            pass
        while grants.send_due(house, 10):  # while it is leased the others are served
            pass
        due_again(world)
    while grants.send_due(house, 10):
        pass
    assert raised == [claims.MOST_TRIES]
    assert {world.seen(Step, id).state for id in others} == {"succeeded"}
    assert world.seen(Step, poison).state == "needs_person"
    with world.database.work(OPERATOR) as session:
        (listed,) = by_hand.waiting(session)["grants"]
        assert (listed["amount"], listed["reason"][:34]) == (666, "5 times something went wrong befor")
        assert session.scalars(sa.select(Grant.state).where(Grant.id == listed["id"])).one() == "needs_person"


def test_what_is_put_off_again_and_again_is_no_poison(world: Approved, house: House, stripe: SmallStripe) -> None:
    step = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, *["limited"] * 7)
    for _ in range(8):
        grants.send_due(house, 10)
        world.due_now()
    assert world.seen(Step, step).state == "succeeded"


def test_while_stripe_is_left_alone_nothing_is_taken_up(world: Approved, house: House, stripe: SmallStripe) -> None:
    step = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        circuits.open_up(session, circuits.EVERYTHING, "No answer.", 60)
    assert grants.send_due(house, 10) == 0
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(circuits.Circuit).values(see_at=sa.func.now()))
    assert grants.send_due(house, 10) == 1
    assert world.seen(Step, step).state == "succeeded"
