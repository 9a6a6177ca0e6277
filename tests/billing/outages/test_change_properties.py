"""What holds whatever finance does, drawn by hypothesis over small worlds in PostgreSQL.

Each world is one transaction that is rolled back: everything is planned, approved and given, nothing is left behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from billing.errors import Refused
from billing.money import round_half_up
from billing.outages import approvals, goodwill, incidents, planning, queries
from billing.outages.in_force import outages_in_force, weights_of_plans
from billing.outages.loss import Line, owed, schedule
from billing.outages.planning import Declaration
from billing.windows import unix
from tenants.db import Database
from tests.billing.outages.august import August, approved_and_sent, at
from tests.factories import InvoiceFactory, InvoiceLineFactory, PaymentFactory, PlanFactory, building, subscribed

NOW = at(31, 12)
FEW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HOURS = st.integers(24, 24 * 30)
PRICES = st.lists(st.sampled_from((1, 7, 999, 3_100, 12_345)), min_size=1, max_size=3)
IMPACTS = st.sampled_from((10_000, 5_000, 3_333, 9_999, 1))


@dataclass
class Shared(August):
    """A plan of the same price and platform beside the others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        with building(self.db):
            self.other = PlanFactory(id="price_other", weights={self.facebook: 10_000})


@pytest.fixture
def shared(db: Database) -> Shared:
    return Shared(db)


@dataclass
class World:
    """One agency whose businesses paid for August, and finance that thinks again."""

    august: August
    session: Session
    made: list[str] = field(default_factory=list)
    now: datetime = NOW

    @property
    def by(self) -> Any:
        return self.august.finance

    def declare(self, platform: str, start: int, end: int | None, impact: int = 10_000, **more: Any) -> str:
        wanted = Declaration(platform, hour(start), end and hour(end), impact, **more)
        self.made.append(incidents.declare(self.session, self.now, wanted, self.by, "test").id)
        return self.made[-1]

    def give(self, incident: str) -> int:
        """Approve what waits, as if it had all been sent; how much that is."""
        if (waits := queries.shown(self.session, incident)["fingerprint"]) is None:
            return 0
        runs = approvals.approve(self.session, self.now, incident, self.august.approver, waits, "test")
        self.session.flush()
        approved_and_sent(self.session, incident)
        given = sa.text("SELECT coalesce(sum(amount), 0)::bigint FROM grants WHERE run_id = ANY(:runs)")
        return int(self.session.execute(given, {"runs": [run.id for run in runs]}).scalar_one())

    def planned(self, incident: str) -> int:
        plan = planning.plan(self.session, planning.standing(self.session, incident), self.now)
        return sum(total["amount"] for total in plan.totals)

    def books(self) -> dict[str, tuple[int, int]]:
        """Per invoice: what was granted in all, and how much of that is goodwill."""
        rows = self.session.execute(
            sa.text(
                "SELECT i.id, coalesce((SELECT sum(amount) FROM grants g WHERE g.invoice_id = i.id"
                " AND g.state <> 'cancelled'), 0)::bigint, coalesce((SELECT sum(amount) FROM goodwill w"
                " WHERE w.invoice_id = i.id), 0)::bigint FROM invoices i"
            )
        )
        return {id: (granted, kindness) for id, granted, kindness in rows}

    def owed(self) -> dict[str, int]:
        """Per invoice, by the formula alone."""
        weights = weights_of_plans(self.session).of
        spans = [one.span(self.now) for one in outages_in_force(self.session) if one.covers(self.august.agency.id)]
        found: dict[str, Fraction] = {}
        rows = self.session.execute(
            sa.text("SELECT invoice_id, plan_id, net, tax, period_start, period_end FROM invoice_lines")
        )
        for row in rows:
            steps = schedule(weights.get(row.plan_id, {}), spans, unix(self.now))
            line = Line(row.net, (unix(row.period_start), unix(row.period_end)), row.plan_id, row.tax)
            found[row.invoice_id] = found.get(row.invoice_id, Fraction(0)) + owed(line, steps)
        return {invoice: round_half_up(exact) for invoice, exact in found.items()}

    def paid(self) -> dict[str, int]:
        return dict(self.session.execute(sa.text("SELECT id, total FROM invoices")).all())

    def adds_up(self) -> None:
        """To the unit, per invoice: what is owed and the goodwill are what was granted, up to all that was paid."""
        owed_now = self.owed()
        paid = self.paid()
        for invoice, (granted, kindness) in self.books().items():
            assert granted == min(owed_now[invoice] + kindness, paid[invoice]), invoice
            assert kindness >= 0


@contextmanager
def world(august: August, prices: list[int]) -> Iterator[World]:
    with building(august.db) as session:
        for number, price in enumerate(prices):
            august.sell((august.pages, august.duo)[number % 2], price)
        yield World(august, session)
        session.rollback()


def hour(number: int) -> datetime:
    return at(1) + timedelta(hours=number)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(("declare", "declare", "change", "resolve", "reopen", "retract")),
        st.integers(0, 9),
        st.sampled_from(("facebook", "instagram")),
        HOURS,
        HOURS,
        IMPACTS,
    ),
    min_size=2,
    max_size=7,
)


CUT_BESIDE_ONE_THAT_GOES_ON: list[tuple[Any, ...]] = [
    ("declare", 0, "facebook", 334, 24, 10_000),
    ("declare", 0, "facebook", 480, 24, 5_000),
    ("resolve", 0, "facebook", 24, 335, 10_000),
]
"""The second had nothing to give while the first covered it; its half is what the first gave too much of no more."""
GAVE_NOTHING_ALONE: list[tuple[Any, ...]] = [
    ("declare", 0, "instagram", 507, 666, 10_000),
    ("declare", 0, "facebook", 191, 24, 10_000),
    ("retract", 0, "facebook", 24, 24, 10_000),
]
"""The first made up, with the second, a cent that neither has alone."""


def think(world: World, what: str, which: int, platform: str, start: int, end: int, impact: int) -> str | None:
    """One decision, where it can be made; the incident that it was about."""
    if what == "declare" or not world.made:
        return world.declare(platform, start, end if end > start else None, impact)
    incident = world.made[which % len(world.made)]
    told = (world.session, NOW, incident)
    if what == "change":
        wanted = incidents.Change(hour(start), hour(end), impact)
        incidents.change(*told, wanted, world.by, "test", reason="drawn")
    elif what == "resolve":
        incidents.resolve(*told, world.by, "test", at=hour(end))
    elif what == "reopen":
        incidents.reopen(*told, world.by, "test")
    else:
        incidents.retract(*told, world.by, "test", reason="drawn")
    return incident


@FEW
@given(prices=PRICES, operations=OPERATIONS)
@example(prices=[3_100], operations=CUT_BESIDE_ONE_THAT_GOES_ON)
@example(prices=[1, 1], operations=GAVE_NOTHING_ALONE)
def test_whatever_finance_thinks_the_books_add_up_and_a_replay_is_empty(
    shared: Shared, prices: list[int], operations: list[tuple[Any, ...]]
) -> None:
    with world(shared, prices) as small:
        for operation in operations:
            try:
                with small.session.begin_nested():
                    incident = think(small, *operation)
            except Refused:
                continue
            assert incident is not None
            small.give(incident)
            small.adds_up()
        before = small.books()
        for incident in small.made:
            assert small.planned(incident) == 0
            goodwill.record(
                small.session, planning.plan(small.session, planning.standing(small.session, incident), NOW)
            )
        small.adds_up()
        # Of an invoice that has had all back, goodwill may become what a later incident owes: nothing else is left.
        paid = small.paid()
        assert all(before[invoice] == book for invoice, book in small.books().items() if book[0] < paid[invoice])


@FEW
@given(prices=PRICES, edges=st.lists(HOURS, min_size=4, max_size=4, unique=True), first=st.booleans())
def test_two_incidents_pay_what_one_of_the_same_seconds_pays(
    shared: Shared, prices: list[int], edges: list[int], first: bool
) -> None:
    """Whether they overlap (an agency's own one beside the operator's) or follow each other, in either order."""
    a, b, c, d = sorted(edges)
    with world(shared, prices) as small:
        one = small.declare("facebook", a, d)
        at_once = small.give(one)
    for pieces in (((a, c, ("acme",)), (b, d, ())), ((a, b, ()), (b, d, ()))):
        with world(shared, prices) as small:
            order = pieces if first else reversed(pieces)
            given_back = [small.give(small.declare("facebook", s, e, agencies=who)) for s, e, who in order]
            assert sum(given_back) == at_once


@FEW
@given(prices=PRICES, edges=st.lists(HOURS, min_size=3, max_size=5, unique=True))
def test_extended_and_cut_never_goes_negative(shared: Shared, prices: list[int], edges: list[int]) -> None:
    start, *ends = sorted(edges)
    with world(shared, prices) as small:
        incident = small.declare("facebook", start, ends[0])
        small.give(incident)
        for end in (*ends[1:], *reversed(ends[:-1]), *ends[1:]):
            before = sum(granted for granted, _ in small.books().values())
            incidents.change(
                small.session, NOW, incident, incidents.Change(ended_at=hour(end)), small.by, "test", reason="r"
            )
            assert small.give(incident) >= 0
            small.adds_up()
            assert sum(granted for granted, _ in small.books().values()) >= before
        # As if it had been the longest from the beginning: no extension was paid twice.
        assert {kindness for _, kindness in small.books().values()} == {0}


@FEW
@given(
    prices=PRICES,
    starts=st.lists(st.integers(0, 371), min_size=2, max_size=4),
    steps=st.lists(st.integers(1, 48), min_size=4, max_size=4),
    into=st.integers(0, 99),
    impact=st.sampled_from((5_000, 3_333, 9_999, 1)),  # the same one cannot be declared twice for the same time
)
@example(prices=[3_100], starts=[302, 350], steps=[1, 24, 24, 24], into=80, impact=5_000)
def test_an_outage_within_one_that_goes_on_is_given_nothing_whatever_was_thought_before(
    shared: Shared, prices: list[int], starts: list[int], steps: list[int], into: int, impact: int
) -> None:
    """The clock moves on: what the first uses up of its goodwill is not there for the second, at any time."""
    with world(shared, prices) as small:
        small.now = hour(372)
        first = small.declare("facebook", starts[0], None)
        small.give(first)
        owed_then = [small.owed()]
        start = starts[0]
        for step, start in zip(steps, starts[1:], strict=False):
            small.now += timedelta(hours=step)
            with suppress(Refused):  # the same start again
                wanted = incidents.Change(started_at=hour(start))
                incidents.change(small.session, small.now, first, wanted, small.by, "test", reason="drawn")
            small.give(first)
            owed_then.append(small.owed())
        small.now += timedelta(hours=steps[-1])
        end = (small.now - hour(0)) // timedelta(hours=1)
        second = small.declare("facebook", start + (end - start) * into // 100, None, impact)
        small.give(second)
        for incident in (second, first):
            incidents.resolve(small.session, small.now, incident, small.by, "test")
            small.give(incident)
        owed_then.append(small.owed())
        small.adds_up()
        assert {invoice: granted for invoice, (granted, _) in small.books().items()} == {
            invoice: max(owed[invoice] for owed in owed_then) for invoice in small.paid()
        }


@FEW
@given(start=HOURS, length=st.integers(1, 200), cut=st.integers(1, 743), rate=st.integers(1, 9))
def test_a_split_period_or_a_change_of_plan_at_equal_price_changes_no_total(
    shared: Shared, start: int, length: int, cut: int, rate: int
) -> None:
    """A month at so many cents an hour; in two lines; with the rest taken back and charged again on another plan."""
    whole, middle, until_now = 744 * rate, hour(cut), 732
    with building(shared.db) as session:
        invoices = []
        for lines in (
            [(whole, shared.pages, at(1), at(1, month=9))],
            [(cut * rate, shared.pages, at(1), middle), ((744 - cut) * rate, shared.pages, middle, at(1, month=9))],
            [
                (whole, shared.pages, at(1), at(1, month=9)),
                (-(744 - cut) * rate, shared.pages, middle, at(1, month=9)),
                ((744 - cut) * rate, shared.other, middle, at(1, month=9)),
            ],
        ):
            customer = shared.customer()
            subscription = subscribed(customer, shared.pages)
            invoice = InvoiceFactory(customer=customer, subscription_id=subscription.id, total=whole, created_at=at(1))
            invoices.append(invoice.id)
            for net, plan, begins, ends in lines:
                InvoiceLineFactory(invoice=invoice, plan_id=plan.id, net=net, period_start=begins, period_end=ends)
            PaymentFactory(invoice=invoice, captured=whole)
        small = World(shared, session)
        small.give(small.declare("facebook", start, min(start + length, until_now)))
        granted = [small.books()[invoice][0] for invoice in invoices]
        session.rollback()
    lost = min(start + length, until_now) - start
    assert granted == [lost * rate] * 3
