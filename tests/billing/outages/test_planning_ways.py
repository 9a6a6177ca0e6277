"""Planning computes plain invoices by a short way and all others by a long one: neither shows in what comes out."""

from datetime import UTC, datetime
from fractions import Fraction
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from billing.models import Customer, Invoice, InvoiceLine, Payment, Plan, PlanWeight, Platform
from billing.money import round_half_up
from billing.outages import filling, planning, runs
from billing.outages.in_force import EVERYBODY, Outage
from billing.outages.models import Incident, IncidentScope
from billing.outages.planned import planned_grants
from tenants.db import OPERATOR, Database
from tenants.models import Agency, Member
from tests.billing.outages.generated import FIRST, NOW, draw

MIDNIGHT = datetime(2020, 3, 1, tzinfo=UTC)


def agency(session: Session, slug: str) -> int:
    made = Agency(slug=slug, name=slug, time_zone="UTC")
    session.add(made)
    session.flush()
    return made.id


def stand(session: Session, outage: Outage) -> None:
    """Declare it, so that it counts in every plan."""
    by = Member(email=f"{outage.id}@x.example", role="finance")
    session.add(by)
    session.flush()
    platform = session.scalars(sa.select(Platform.id).where(Platform.slug == outage.platform)).one()
    session.add(
        Incident(
            id=outage.id, platform_id=platform, title="", state="declared", started_at=outage.started_at,
            ended_at=outage.ended_at, impact_bp=outage.impact_bp, declared_by=by.id, declared_at=NOW, promise_at=NOW,
        )
    )  # fmt: skip
    session.flush()
    session.add_all(
        IncidentScope(
            incident_id=outage.id, agency_id=agency, platform_id=platform, impact_bp=outage.impact_bp,
            during=Range(outage.started_at, outage.ended_at), live=False,
        )
        for agency in outage.agencies
    )  # fmt: skip
    session.flush()


def sell(session: Session, agency: int, name: str, net: int, start: datetime, end: datetime, weight: int) -> None:
    """One invoice of one line, paid by card, for a plan of its own on facebook."""
    platform = session.scalars(sa.select(Platform.id).where(Platform.slug == "facebook")).one()
    rows: list[tuple[Any, dict[str, Any]]] = [
        (Plan, {"id": f"price_{name}", "product_id": "prod", "name": name, "currency": "usd", "metered": False,
                "active": True, "created_at": FIRST}),
        (PlanWeight, {"plan_id": f"price_{name}", "platform_id": platform, "weight_bp": weight}),
        (Customer, {"agency_id": agency, "id": f"cus_{name}", "created_at": FIRST}),
        (Invoice, {
            "agency_id": agency, "id": f"in_{name}", "customer_id": f"cus_{name}", "status": "paid", "currency": "usd",
            "collection_method": "charge_automatically", "auto_advance": False, "automatic_tax": False, "subtotal": net,
            "total": net, "amount_due": net, "amount_paid": net, "amount_remaining": 0, "paid_off_stripe": 0,
            "starting_balance": 0, "ending_balance": 0, "pre_payment_credited": 0, "post_payment_credited": 0,
            "created_at": FIRST, "paid_at": FIRST,
        }),
        (InvoiceLine, {
            "agency_id": agency, "id": f"il_{name}", "invoice_id": f"in_{name}", "position": 0,
            "plan_id": f"price_{name}", "quantity": 1, "amount": net, "discount": 0, "net": net, "tax": 0,
            "period_start": start, "period_end": end, "proration": False, "metered": False,
        }),
        (Payment, {"agency_id": agency, "id": f"pay_{name}", "invoice_id": f"in_{name}", "payment_intent": f"pi_{name}",
                   "currency": "usd", "status": "paid", "captured": net}),
    ]  # fmt: skip
    for model, row in rows:
        session.execute(sa.insert(model), [row])


def planned(session: Session, outage: Outage) -> tuple[planning.Plan, list[Any], list[Any]]:
    """The plan, its invoices and its grants."""
    plan = planning.plan(session, outage, NOW)
    invoices = session.execute(sa.text('SELECT * FROM plan_invoices ORDER BY agency_id, invoice_id COLLATE "C"'))
    return plan, list(invoices.mappings()), [one.to_json() for one in planned_grants(session, plan.losses)]


@pytest.mark.parametrize("seed", range(3))
def test_the_long_way_says_of_plain_invoices_what_the_short_one_says(
    db: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = Random(seed)
    monkeypatch.setattr("tenants.db._MANY", 10_000 * (seed % 2))  # by loops or without: that does not show either
    with db.work(OPERATOR) as session:
        agencies = [agency(session, "a"), agency(session, "b")]
        draw(session, dice, agencies, 300, f"w{seed}").insert(session)
        days = [datetime(2020, 3, day, 5, tzinfo=UTC) for day in (2, 9, 16)]
        outages = [
            Outage(f"inc_{number}", "facebook", began, None, impact, frozenset({EVERYBODY}))
            for number, (began, impact) in enumerate(zip(days, (10_000, 3_333, 7), strict=True))
        ]
        by, approver = (Member(email=f"{role}@x.example", role=role) for role in ("finance", "approver"))
        session.add_all([by, approver])
        session.flush()
        for number, outage in enumerate(outages):
            stand(session, outage)
            short = planned(session, outage)
            rest = session.execute(sa.text("SELECT count(*) FROM plan_rest")).scalar_one()
            with monkeypatch.context() as patch:
                patch.setattr(filling, "_plain", lambda _terms: False)
                long = planned(session, outage)
            everything = session.execute(sa.text("SELECT count(*) FROM plan_rest")).scalar_one()
            assert 0 < rest < everything
            assert short == long
            incident = session.get_one(Incident, outage.id)
            made = runs.freeze(session, long[0], incident, by, "declare")
            # The second outage finds one agency's invoices with something given before, the third both agencies'.
            given = [run for run in made if run.state == "waiting" and run.agency_id in agencies[: number + 1]]
            for run in given:
                run.state, run.approval, run.approved_by = "running", "person", approver.id
                run.approved_fingerprint = run.fingerprint
            session.flush()
            runs.claim_the_past(session, [run.id for run in given])
            runs.make_steps(session, [run.id for run in given])
            assert session.scalar(sa.text("SHOW enable_nestloop")) == "on"


def test_what_does_not_fit_into_a_bigint_is_exact_all_the_same(db: Database) -> None:
    outage = Outage("", "facebook", MIDNIGHT, datetime(2020, 3, 2, tzinfo=UTC), 9_999, frozenset({EVERYBODY}))
    with db.work(OPERATOR) as session:
        one = agency(session, "a")
        year = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
        sell(session, one, "much", 900_000_000_000_000, *year, 3_333)
        sell(
            session, one, "long", 400_000_000, datetime(1700, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), 3_333
        )
        plan, invoices, grants = planned(session, outage)
    # A day of 366 at 0.3333 × 0.9999 = 0.33326667 of 900,000,000,000,000: 819,508,204,918.03…
    much = Fraction(900_000_000_000_000 * 33_326_667, 100_000_000 * 366)
    # A day of 400 years (146,097 days) of 400,000,000: 912.44…
    long = Fraction(400_000_000 * 33_326_667, 100_000_000 * 146_097)
    assert {row["invoice_id"]: row["rounded"] for row in invoices} == {
        "in_much": round_half_up(much), "in_long": round_half_up(long)
    }  # fmt: skip
    assert [Fraction(*map(int, (row["wide_num"], row["wide_den"]))) for row in invoices] == [long, much]
    assert [(one["invoice"], one["lines"][0]["owed"]) for one in grants] == [
        ("in_long", f"{long.numerator}/{long.denominator}"), ("in_much", f"{much.numerator}/{much.denominator}")
    ]  # fmt: skip
    assert plan.totals[0]["amount"] == round_half_up(much) + round_half_up(long)


def test_the_name_of_an_agencys_plan_does_not_change_with_what_another_one_lost(db: Database) -> None:
    month = datetime(2020, 3, 1, tzinfo=UTC), datetime(2020, 4, 1, tzinfo=UTC)
    with db.work(OPERATOR) as session:
        ours, theirs = agency(session, "ours"), agency(session, "theirs")
        for id, name in ((ours, "ours"), (theirs, "theirs")):
            sell(session, id, name, 3_100, *month, 6_000)
        outage = Outage("", "facebook", datetime(2020, 3, 9, tzinfo=UTC), None, 10_000, frozenset({EVERYBODY}))
        before = {one.slug: one.fingerprint for one in planning.plan(session, outage, NOW).agencies}
        # A share of 6,000 × 1,001 parts in 10^8 has less in common with the whole than one of 6,000 × 10,000.
        stand(session, Outage("inc_odd", "facebook", MIDNIGHT, datetime(2020, 3, 2, tzinfo=UTC), 1_001,
                              frozenset({theirs})))  # fmt: skip
        after = {one.slug: one.fingerprint for one in planning.plan(session, outage, NOW).agencies}
    assert after["ours"] == before["ours"] != ""
    assert after["theirs"] != before["theirs"]


MULTIPLIED = """
INSERT INTO customers (agency_id, id, created_at)
SELECT agency_id, 'c' || n, created_at FROM customers, generate_series(1, 2500) n;
INSERT INTO invoices SELECT (x).* FROM (SELECT jsonb_populate_record(i, jsonb_build_object(
    'id', 'i' || n, 'customer_id', 'c' || n, 'ending_balance', n % 2)) x FROM invoices i, generate_series(1, 2500) n) y;
INSERT INTO invoice_lines SELECT (x).* FROM (SELECT jsonb_populate_record(l, jsonb_build_object(
    'id', 'l' || n, 'invoice_id', 'i' || n)) x FROM invoice_lines l, generate_series(1, 2500) n) y;
INSERT INTO payments SELECT (x).* FROM (SELECT jsonb_populate_record(p, jsonb_build_object(
    'id', 'p' || n, 'invoice_id', 'i' || n, 'payment_intent', 'pi' || n)) x
    FROM payments p, generate_series(1, 2500) n) y
"""


def test_what_was_just_imported_is_not_joined_row_by_row(db: Database) -> None:
    """Nothing has counted those rows yet: taken for a few, they would be looked through again for each of them."""
    found: list[list[str]] = []

    def explain(connection: sa.Connection, _cursor: Any, statement: str, told: Any, *_more: Any) -> None:
        if "INTO plan_invoices" in statement or "TABLE plan_invoices" in statement:
            assert connection.connection.dbapi_connection is not None
            with connection.connection.dbapi_connection.cursor() as beside:
                beside.execute(f"EXPLAIN (COSTS OFF) {statement}", told)
                found.append([line.strip() for (line,) in beside.fetchall()])

    with db.work(OPERATOR) as session:
        sell(session, agency(session, "a"), "first", 3_100, MIDNIGHT, datetime(2020, 4, 1, tzinfo=UTC), 10_000)
        for statement in MULTIPLIED.split(";"):
            session.execute(sa.text(statement))
        sa.event.listen(db.engine, "before_cursor_execute", explain)
        try:
            plan = planning.plan(session, Outage("", "facebook", MIDNIGHT, None, 10_000, frozenset({EVERYBODY})), NOW)
        finally:
            sa.event.remove(db.engine, "before_cursor_execute", explain)
        rest = session.execute(sa.text("SELECT count(*) FROM plan_rest")).scalar_one()
    assert (plan.agencies[0].grants, rest) == (2_501, 1_250)
    assert len(found) == 2
    assert all(any("Hash" in line for line in lines) for lines in found)
    assert [line for lines in found for line in lines if "Nested Loop" in line] == []
