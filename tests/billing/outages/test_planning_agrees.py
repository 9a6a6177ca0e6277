"""The SQL and the formula agree to the cent, on the exact amount, the parts and each line: 10,000 subscriptions.

Hypothesis chooses the incidents, the policy and the zones; what was sold, and how it was paid, is drawn from its seed.
Each example is planned twice: for the first incidents, and, once that has been approved, for all of them.
"""

from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import combinations
from random import Random
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import Range

from billing.models import Payment, Platform
from billing.money import round_half_up, sendable, unit
from billing.outages import planning, runs, terms
from billing.outages.in_force import EVERYBODY, Outage
from billing.outages.loss import (
    Invoice,
    InvoiceGrant,
    Line,
    OutageSpan,
    Step,
    base,
    grants,
    lost,
    schedule,
    whole,
)
from billing.outages.models import Incident, IncidentScope
from billing.outages.planned import planned_grants, told
from billing.outages.terms import Terms
from billing.windows import unix
from tenants.db import OPERATOR, Database
from tenants.models import Agency, Member, PolicyVersion
from tests.billing.outages.generated import FIRST, NOW, PLATFORMS, Bill, Drawn, draw, period

EXAMPLES, SUBSCRIPTIONS = 12, 500
ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu")


POLICIES = st.none() | st.fixed_dictionaries(
    {
        "grants": st.sampled_from(("prorated", "full", "full")),
        "granularity": st.sampled_from(("second", "hour", "day")),
        "gap": st.sampled_from((0, 100_000)),
        "recovery": st.sampled_from((0, 7_200)),
    }
)
SPAN = int((NOW - FIRST).total_seconds())


@dataclass(frozen=True)
class Chosen:
    """An incident. `scope`: 0 is everybody, 1 the first agency, 2 both by name."""

    platform: str
    impact_bp: int
    start: datetime
    end: datetime | None
    scope: int


@st.composite
def incidents(draw: st.DrawFn) -> list[Chosen]:
    """Four that begin before NOW. They share their moments, so that they overlap, touch, and begin or end together."""
    moments = sorted(draw(st.sets(st.integers(3_600, SPAN - 10), min_size=3, max_size=6)))
    found = []
    for _ in range(4):
        start = draw(st.sampled_from(moments[:-1]))
        later = [moment for moment in moments if moment > start]
        end = draw(st.sampled_from([*later, *later, None, SPAN + 80_000]))
        found.append(
            Chosen(
                draw(st.sampled_from(PLATFORMS)), draw(st.sampled_from((10_000, 10_000, 5_000, 3_333, 1))),
                FIRST + timedelta(seconds=start), None if end is None else FIRST + timedelta(seconds=end),
                draw(st.integers(0, 2)),
            )
        )  # fmt: skip
    return found


@dataclass
class Given:
    """What the reference remembers of the first run: per invoice in all, by its ways, and per line."""

    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def of(self, invoice: str) -> dict[str, int]:
        return self.parts.get(invoice, {"refund": 0, "credit": 0, "reduce": 0, "out_of_band": 0})


def ways(bill: Bill, rounded: int, before: dict[str, int]) -> dict[str, int]:
    """The ways back, said once more as the design says them."""
    granted = sum(before.values())
    given = bill.credited + bill.refunded_by_others + bill.disputed
    can = sendable(max(0, min(rounded, max(0, bill.total) - given) - granted), bill.currency)
    step = unit(bill.currency)
    reduce = min(can, (bill.due - before["reduce"]) // step * step)
    rest, paid = can - reduce, bill.by_card + bill.by_balance + bill.outside
    settled = granted - before["reduce"] + rest

    def share(of: int, had: int, at_most: int) -> int:
        whole = round_half_up(Fraction(settled * of, paid * step)) * step if of and rest else 0
        return min(at_most, max(0, whole - had))

    credit = share(bill.by_balance, before["credit"], rest)
    outside = share(bill.outside, before["out_of_band"], rest - credit)
    # Each payment is refunded in sendable amounts; two of them may leave a unit each.
    left = sum(max(0, room) // step * step for room in _rooms(bill)) - before["refund"]
    refund = min(rest - credit - outside, max(0, left))
    return {"refund": refund, "credit": credit, "reduce": reduce, "out_of_band": outside}


def _rooms(bill: Bill) -> list[int]:
    return bill_payments[bill.id]


bill_payments: dict[str, list[int]] = {}


def reference(
    drawn: Drawn,
    outages: dict[int, list[Outage]],
    given: Given,
    planned_for: Outage,
    paid: set[tuple[str, int]],
    policies: dict[int, Terms],
) -> tuple[dict[str, tuple[InvoiceGrant, dict[str, int]]], set[str]]:
    """Every paid or open invoice by the formula, one subscription at a time; and those that the incident touches."""
    schedules = {
        agency: {
            plan: schedule(on, _spans(those, planned_for, agency, paid), unix(NOW), policies[agency].counting)
            for plan, on in drawn.weights.items()
        }
        for agency, those in outages.items()
    }
    together: defaultdict[str, list[Bill]] = defaultdict(list)
    for bill in drawn.bills:
        if bill.status in ("paid", "open"):
            together[bill.subscription].append(bill)
    found = {}
    for bills in together.values():
        bills.sort(key=lambda bill: (bill.created_at, bill.id), reverse=True)
        agency = bills[0].agency
        on, full = schedules[agency], outages[agency] if policies[agency].policy.grants == "full" else []
        whole = {bill.id: _whole(drawn, bill, full, given) for bill in bills}
        free = grants([_invoice(bill, given, 10**12, whole[bill.id]) for bill in bills], on)
        parts = [ways(bill, grant.rounded, given.of(bill.id)) for bill, grant in zip(bills, free, strict=True)]
        made = grants(
            [_invoice(bill, given, sum(way.values()), whole[bill.id]) for bill, way in zip(bills, parts, strict=True)],
            on,
        )
        found.update({bill.id: (grant, way) for bill, grant, way in zip(bills, made, parts, strict=True)})
    return found, {
        bill.id
        for bill in drawn.bills
        if planned_for.covers(bill.agency) and _touched(drawn, bill, planned_for, policies[bill.agency], schedules)
    }


def _touched(
    drawn: Drawn, bill: Bill, outage: Outage, agreed: Terms, schedules: dict[int, dict[str, list[Step]]]
) -> bool:
    """Whether some of its time was lost around the outage, or some of it was paid meanwhile where that goes back."""
    over = NOW if outage.ended_at is None or outage.ended_at > NOW else outage.ended_at
    since, until = agreed.counting.around(unix(outage.started_at), unix(over))
    for line in bill.lines:
        start, end = period(line)
        depends = drawn.weights.get(line["plan_id"], {}).get(outage.platform)
        if depends and start < until and end > since and lost(schedules[bill.agency][line["plan_id"]], start, end):
            return True
    return agreed.policy.grants == "full" and any(
        amount and _meanwhile(drawn, bill, when, outage) for when, amount in bill.came_in
    )


def _spans(outages: list[Outage], planned_for: Outage, agency: int, paid: set[tuple[str, int]]) -> list[OutageSpan]:
    """Those that go on count until NOW where a run of theirs has paid until then, or this one goes on as well."""
    over = planned_for.ended_at if planned_for.ended_at and planned_for.ended_at <= NOW else None
    spans = []
    for one in outages:
        span = one.span(NOW)
        if span.end is None and over and (one.id, agency) not in paid:
            span = replace(span, end=unix(over), recovers=False)
        if span.end is None or span.start < span.end:
            spans.append(span)
    return spans


def _whole(drawn: Drawn, bill: Bill, full: list[Outage], given: Given) -> Fraction:
    """The part that was paid while any of these went on, if the invoice has a plan on the platform that was down."""
    meanwhile = [amount for when, amount in bill.came_in if any(_meanwhile(drawn, bill, when, one) for one in full)]
    gone = bill.credited + bill.refunded_by_others + bill.disputed
    return whole(max(0, min(bill.total, bill.total - gone)), sum(meanwhile), given.of(bill.id)["reduce"])


def _meanwhile(drawn: Drawn, bill: Bill, when: datetime, outage: Outage) -> bool:
    over = min(outage.ended_at or NOW, NOW)
    return outage.started_at <= when < over and any(
        drawn.weights.get(line["plan_id"], {}).get(outage.platform) for line in bill.lines
    )


def _invoice(bill: Bill, given: Given, refundable: int, part: Fraction) -> Invoice:
    elsewhere = bill.credited + bill.refunded_by_others + bill.disputed
    lines = [
        Line(
            line["net"],
            period(line),
            line["plan_id"],
            line["tax"],
            line["metered"],
            given.lines[line["id"]],
            line["id"],
        )
        for line in bill.lines
    ]
    return Invoice(
        lines,
        bill.currency,
        refundable,
        base(bill.total, bill.total, elsewhere),
        sum(given.of(bill.id).values()),
        bill.id,
        part,
    )


class Seen(Exception):
    """An example is over, and nothing of it is to stay."""


KINDS = (
    "a year", "29 February", "a change of plan", "no decimals", "refunded in part before", "two incidents at once",
    "granted before",
)  # fmt: skip


def test_planning_is_the_formula(db: Database) -> None:
    counted: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32), incidents(), POLICIES, st.lists(st.sampled_from(ZONES), min_size=2, max_size=2))
    def agrees(seed: int, chosen: list[Chosen], policy: dict[str, Any] | None, zones: list[str]) -> None:
        with suppress(Seen), db.work(OPERATOR) as session:
            counted.update(_planned(session, Random(seed), chosen, policy, zones))
            raise Seen

    agrees()
    assert counted["subscriptions"] >= EXAMPLES * SUBSCRIPTIONS
    # What nothing is planned for shows little: of every kind there has to be something that goes back.
    assert {kind: counted[kind] for kind in KINDS if counted[kind] < AT_LEAST} == {}


AT_LEAST = 25
"""Grants of each kind, of the thousands that are planned."""


def _planned(
    session: Any, dice: Random, chosen: list[Chosen], policy: dict[str, Any] | None, zones: list[str]
) -> Counter[str]:
    """Plan one example both ways, twice; how many grants of which kind there were."""
    agencies = [Agency(slug=f"a{number}", name="A", time_zone=zone) for number, zone in enumerate(zones)]
    people = [Member(email=f"{role}@x.example", role=role) for role in ("finance", "approver")]
    session.add_all([*agencies, *people])
    session.flush()
    ids = [agency.id for agency in agencies]
    if policy is not None:
        session.add_all(
            PolicyVersion(agency_id=id, no=1, settings=policy, set_by=people[0].id, set_at=NOW) for id in ids
        )
        session.flush()
    policies = terms.now(session, ids)
    drawn = draw(session, dice, ids, SUBSCRIPTIONS, "s")
    drawn.insert(session)
    # PostgreSQL knows nothing of rows that are never committed: by its plans each of them would be looked at for each.
    session.execute(sa.text("SET LOCAL enable_nestloop = off"))
    bill_payments.clear()
    for bill in drawn.bills:
        bill_payments[bill.id] = []
    for row in drawn.rows.get(Payment, []):
        bill_payments[row["invoice_id"]].append(row["captured"] - row["elsewhere"] - row["disputed"])
    given, paid = Given(), set[tuple[str, int]]()
    in_force: list[Outage] = []
    counted = Counter(subscriptions=SUBSCRIPTIONS)
    for number, choice in enumerate(chosen):
        outage, incident = _outage(session, choice, ids, people[0], number)
        in_force.append(outage)
        if number % 2 == 0:
            continue
        covering = {agency: [one for one in in_force if one.covers(agency)] for agency in ids}
        plan = planning.plan(session, outage, NOW)
        expected, touched = reference(drawn, covering, given, outage, paid, policies)
        listed = list(planned_grants(session, plan.losses))
        planned = {one.grant.invoice.id: one for one in listed}
        assert list(told(session, plan.losses)) == [one.to_json() for one in listed]
        _agree(drawn, touched, expected, planned)
        for bill in drawn.bills:
            if bill.id in planned:
                counted.update(_kinds(drawn, bill, covering[bill.agency], given))
        made = runs.freeze(session, plan, incident, people[0], "declare")
        waiting = [run for run in made if run.state == "waiting"]
        for run in waiting:
            run.state, run.approval, run.approved_by = "running", "person", people[1].id
            run.approved_fingerprint = run.fingerprint
        session.flush()
        paid |= {(outage.id, run.agency_id) for run in waiting}
        runs.claim_the_past(session, [run.id for run in waiting])
        runs.make_steps(session, [run.id for run in waiting])
        for id, one in planned.items():
            before = given.of(id)
            given.parts[id] = {way: before[way] + one.parts[way] for way in before}
            for line in one.grant.lines:
                given.lines[line.line.id] += line.amount
        of_grants = session.execute(sa.text("SELECT coalesce(sum(amount), 0) FROM grants")).scalar_one()
        of_lines = session.execute(sa.text("SELECT coalesce(sum(amount), 0) FROM grant_lines")).scalar_one()
        assert of_grants == of_lines == sum(sum(parts.values()) for parts in given.parts.values())
        steps = session.execute(
            sa.text("SELECT coalesce(sum(amount), 0) FROM steps WHERE kind <> 'refund'")
        ).scalar_one()
        assert steps == of_grants
    return counted


def _kinds(drawn: Drawn, bill: Bill, outages: list[Outage], given: Given) -> list[str]:
    """What there is to get wrong about an invoice that something is planned for."""
    leap_day = datetime(2020, 2, 29, tzinfo=UTC)
    holds = {
        "a year": any(line["period_end"] - line["period_start"] > timedelta(days=200) for line in bill.lines),
        "29 February": any(line["period_start"] <= leap_day < line["period_end"] for line in bill.lines),
        "a change of plan": bill.id.endswith("_c"),
        "no decimals": bill.currency == "jpy",
        "refunded in part before": 0 < bill.refunded_by_others < bill.total,
        "two incidents at once": any(
            _both_touch(drawn, line, first, second) for line in bill.lines for first, second in combinations(outages, 2)
        ),
        "granted before": bill.id in given.parts,
    }
    return [kind for kind in KINDS if holds[kind]]


def _both_touch(drawn: Drawn, line: dict[str, Any], first: Outage, second: Outage) -> bool:
    start = max(line["period_start"], first.started_at, second.started_at)
    end = min(line["period_end"], first.ended_at or NOW, second.ended_at or NOW, NOW)
    return start < end and {first.platform, second.platform} <= drawn.weights.get(line["plan_id"], {}).keys()


def _outage(session: Any, chosen: Chosen, agencies: list[int], by: Member, number: int) -> tuple[Outage, Incident]:
    start, end, slug = chosen.start, chosen.end, chosen.platform
    scope = frozenset(([EVERYBODY], [agencies[0]], agencies)[chosen.scope])
    platform = session.scalars(sa.select(Platform.id).where(Platform.slug == slug)).one()
    incident = Incident(
        id=f"inc_{number}", platform_id=platform, title="", state="declared", started_at=start, ended_at=end,
        impact_bp=chosen.impact_bp, declared_by=by.id, declared_at=NOW, promise_at=NOW,
    )  # fmt: skip
    session.add(incident)
    session.flush()
    session.add_all(
        IncidentScope(
            incident_id=incident.id, agency_id=agency, platform_id=platform, impact_bp=incident.impact_bp,
            during=Range(start, end), live=False,
        )
        for agency in scope
    )  # fmt: skip
    session.flush()
    return Outage(incident.id, slug, start, end, incident.impact_bp, scope), incident


def _agree(drawn: Drawn, touched: set[str], expected: dict[str, Any], planned: dict[str, Any]) -> None:
    """Where the incident touches an invoice the two say the same; elsewhere nothing is planned."""
    for bill in drawn.bills:
        grant, parts = expected.get(bill.id, (None, {}))
        one = planned.get(bill.id)
        if bill.id not in touched or grant is None or grant.amount == 0:
            assert one is None
            continue
        assert one is not None, (bill, grant)
        assert (one.grant.exact, one.grant.rounded) == (grant.exact, grant.rounded)
        assert one.grant.invoice.base == grant.invoice.base
        assert one.grant.invoice.whole == grant.invoice.whole
        assert one.parts == parts, bill
        assert [(line.line, line.amount, line.owed, line.lost) for line in one.grant.lines] == [
            (line.line, line.amount, line.owed, line.lost) for line in grant.lines
        ]
