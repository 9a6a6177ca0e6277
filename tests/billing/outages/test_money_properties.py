"""Where the money is, drawn by hypothesis: what is owed is somewhere, to the unit, whatever became of it.

As in `test_change_properties`, each world is one transaction that is rolled back.
"""

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from billing.models import Invoice
from billing.outages import approvals, choices, freezing, queries, report, settling, steps
from billing.outages.models import Grant, Step
from tenants.db import Database
from tenants.models import Agency
from tenants.policy import set_policy
from tests.billing.outages.august import August, at, begun
from tests.billing.outages.test_change_properties import NOW, PRICES, Shared, World
from tests.factories import building, paid_invoice, subscribed

FEW = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)  # fmt: skip
WAYS = st.lists(
    st.sampled_from(("card", "open", "outside", "balance", "disputed", "frozen", "isk", "kwd")), min_size=1, max_size=5
)
ENDS = st.lists(
    st.sampled_from(("waits", "sent", "unknown", "pending", "succeeded", "failed", "needs_person", "given_elsewhere")),
    min_size=10, max_size=10,
)  # fmt: skip
CLOSES = NOW + timedelta(days=3)


@pytest.fixture
def shared(db: Database) -> Shared:
    return Shared(db)


def bought(august: August, way: str, price: int, *, alive: bool) -> Invoice:
    """An invoice of August, paid in that way or not at all."""
    customer = august.customer()
    subscription = subscribed(customer, august.pages, status="active" if alive else "canceled")
    more: dict[str, Any] = {
        "card": {},
        "open": {"status": "open"},
        "outside": {"paid_off_stripe": price},
        "balance": {"starting_balance": -(price // 3), "ending_balance": 0, "amount_paid": price - price // 3},
        "isk": {"currency": "isk"},
        "kwd": {"currency": "kwd"},
    }.get(way, {})
    price *= {"isk": 100, "kwd": 10}.get(way, 1)  # Stripe takes whole kronur, and fils in tens
    return paid_invoice(customer, august.pages, price, subscription=subscription, **more)


def hindered(session: Session, agency_id: int, invoice_id: str, way: str) -> None:
    if way == "disputed":
        session.execute(sa.text("UPDATE payments SET dispute_open = true WHERE invoice_id = :id"), {"id": invoice_id})
    if way == "frozen":
        freezing.freeze(session, [(agency_id, invoice_id, "They differ.")])


def somewhere(session: Session, incident: str) -> int:
    """All that the report of an incident knows of: given, on its way, waiting, for a person, left out, waived."""
    told = report.report(session, CLOSES, incident)
    return sum(one["owed"] for one in told["money"]) + sum(one["amount"] for one in told["waived"])


def end(session: Session, step: Step, how: str) -> None:
    if how == "waits" or step.state != "approved":
        return
    begun(session, step)
    if how == "sent":
        return
    object_id = f"cn_{step.id}" if how in ("pending", "succeeded", "failed") else None
    steps.move(session, step, steps.Move(how, how, stripe_id=object_id))


@FEW
@example(ways=["balance"], ends=["failed"] * 10, price=999, until=30, odd=False, least=0)
@example(
    ways=["disputed", "isk", "frozen", "kwd", "card"],
    ends=["succeeded"] * 10,
    price=999,
    until=300,
    odd=False,
    least=400,
)
@given(
    ways=WAYS, ends=ENDS, price=st.sampled_from((7, 999, 3_100, 12_345)), until=st.integers(30, 700), odd=st.booleans(),
    least=st.sampled_from((0, 400)),
)  # fmt: skip
def test_what_is_owed_is_somewhere_to_the_unit(
    shared: Shared, ways: list[str], ends: list[str], price: int, until: int, odd: bool, least: int
) -> None:
    with building(shared.db) as session:
        agency = session.get_one(Agency, shared.agency.id)
        if least:
            set_policy(session, at(1), agency, {"minimums": {"usd": least}}, shared.finance, "test")
        for number, way in enumerate(ways):
            invoice = bought(shared, way, price + number, alive=not (odd and number % 2))
            hindered(session, agency.id, invoice.id, way)
        small = World(shared, session)
        incident = small.declare("facebook", 24, until)
        owed = sum(small.owed().values())
        if waits := queries.shown(session, incident)["fingerprint"]:
            assert somewhere(session, incident) == owed  # all of it waits
            approvals.approve(session, NOW, incident, shared.approver, waits, "test")
            session.flush()
        for how in ends:
            waiting = sa.select(Step).where(Step.state == "approved").order_by(Step.id)
            for step in session.scalars(waiting.execution_options(populate_existing=True)).all()[:1]:
                end(session, step, how)
                assert somewhere(session, incident) == owed, (how, step.kind)
        steps.finish(session)
        assert somewhere(session, incident) == owed
        if not least and not {"disputed", "frozen", "isk", "kwd"} & set(ways):
            assert session.scalar(sa.select(sa.func.count()).select_from(Grant)) or not owed
        session.rollback()


@FEW
@given(
    prices=PRICES,
    edges=st.lists(st.tuples(st.integers(24, 400), st.integers(1, 200)), min_size=1, max_size=3),
    said=st.lists(st.sampled_from((None, "money", "credit", "waive")), min_size=9, max_size=9),
)
def test_whatever_customers_choose_each_second_is_given_or_waived_once(
    shared: Shared, prices: list[int], edges: list[tuple[int, int]], said: list[str | None]
) -> None:
    """Several incidents of two platforms, each with choices of its own, settled one after the other."""
    with building(shared.db) as session:
        agency = session.get_one(Agency, shared.agency.id)
        set_policy(session, at(1), agency, {"choice_days": 3}, shared.finance, "test")
        invoices = [shared.sell((shared.pages, shared.duo)[number % 2], price) for number, price in enumerate(prices)]
        small = World(shared, session)
        made = [
            small.declare(("facebook", "instagram")[number % 2], start, start + length, 10_000 - number)
            for number, (start, length) in enumerate(edges)
        ]
        answers = iter(said)
        for incident in made:
            for invoice in invoices:
                offers = {one.incident_id for one in choices.offered(session, NOW, agency.id, invoice.customer_id)}
                if (choice := next(answers)) and incident in offers:
                    choices.choose(session, NOW, agency.id, invoice.customer_id, incident, choice, "test")
        assert all(small.give(incident) == 0 for incident in made)
        for incident in made:
            settling.settle(session, CLOSES, incident)
            small.give(incident)
        owed = small.owed()
        waived = dict(session.execute(sa.text("SELECT invoice_id, sum(amount)::bigint FROM waivers GROUP BY 1")).all())
        for invoice_id, (granted, kindness) in small.books().items():
            assert kindness == 0
            assert granted + waived.get(invoice_id, 0) == owed[invoice_id], invoice_id
        # Whoever waived everything has nothing, whoever waived nothing has all of it.
        for invoice in invoices:
            chosen = set(session.scalars(
                sa.text("SELECT choice FROM choices WHERE customer_id = :id"), {"id": invoice.customer_id}
            ))  # fmt: skip
            if "waive" not in chosen:
                assert invoice.id not in waived
        for incident in made:
            assert small.planned(incident) == 0
        session.rollback()
