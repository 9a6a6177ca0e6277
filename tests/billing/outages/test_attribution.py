"""Whose second it was: parts that add up to the whole, whatever overlaps."""

from fractions import Fraction
from random import Random

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from billing.models import PlanWeight
from billing.outages.attributed import attributed
from billing.outages.attribution import Claimant, shares
from billing.outages.loss import WHOLE, OutageSpan, lost, schedule
from billing.outages.planning import Declaration
from billing.outages.report import report
from tenants.db import OPERATOR, Database
from tests.billing.outages.august import DECLARED, RESOLVED, STARTED, August, at
from tests.factories import building

DUO = {"facebook": 6_000, "instagram": 4_000}


def taken(*spans: tuple[str, int, int | None, int], weights: dict[str, int] | None = None) -> dict[str, int]:
    """What incidents a, b, c, … (in the order of their declaration) took of [0, 100), in whole lost seconds."""
    claimants = [Claimant(name, OutageSpan(*span)) for name, span in zip("abc", spans, strict=False)]
    found = shares(weights or DUO, claimants, 100, 0, 100)
    return {incident: int(part / WHOLE) for incident, part in found.items()}


def test_the_larger_impact_takes_the_second() -> None:
    # 40 % of a for the first 50 s, then b takes 60 % x 100 % of 50 s; a's 20 % there are not counted
    assert taken(("facebook", 0, 100, 5_000), ("facebook", 50, 100, 10_000)) == {"a": 15, "b": 30}


def test_of_equal_impacts_the_earlier_declared_takes_it() -> None:
    assert taken(("facebook", 50, 100, 10_000), ("facebook", 0, 100, 10_000)) == {"a": 30, "b": 30}


def test_two_platforms_take_their_weights() -> None:
    assert taken(("facebook", 0, 100, 10_000), ("instagram", 0, None, 5_000)) == {"a": 60, "b": 20}


def test_more_than_the_whole_is_shared_in_proportion() -> None:
    # 90 % + 60 % are 150 %: of each lost second 3/5 are a's and 2/5 b's
    heavy = {"facebook": 9_000, "instagram": 6_000}
    assert taken(("facebook", 0, 100, 10_000), ("instagram", 0, 100, 10_000), weights=heavy) == {"a": 60, "b": 40}


SPANS = st.tuples(
    st.sampled_from(("facebook", "instagram", "x")),
    st.integers(0, 90),
    st.none() | st.integers(91, 150),
    st.sampled_from((1, 3_333, 5_000, 10_000)),
)


@given(
    st.lists(SPANS, max_size=5),
    st.dictionaries(st.sampled_from(("facebook", "instagram", "x")), st.integers(1, 9_999)),
    st.integers(0, 60),
    st.integers(61, 120),
)
def test_the_parts_add_up_to_the_loss(
    spans: list[tuple[str, int, int | None, int]], weights: dict[str, int], start: int, end: int
) -> None:
    outages = [OutageSpan(*span) for span in spans]
    claimants = [Claimant(str(number), outage) for number, outage in enumerate(outages)]
    parts = shares(weights, claimants, 100, start, end)
    assert sum(parts.values(), Fraction(0)) == lost(schedule(weights, outages, 100), start, end)
    assert all(part > 0 for part in parts.values())


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


def because_of(august: August, *incidents: str) -> list[tuple[int, int]]:
    """(granted, goodwill) of each incident, in USD cents."""
    with august.db.work(OPERATOR) as session:
        found = [attributed(session, incident, RESOLVED).to_json() for incident in incidents]
    return [
        tuple(sum(entry["amount"] for entry in one[kind]) for kind in ("granted", "goodwill"))  # type: ignore[misc]
        for one in found
    ]


def test_what_one_run_granted_is_attributed_to_whom_it_was_because_of(august: August) -> None:
    with building(august.db):
        august.sell(august.duo)
    facebook = august.declare(Declaration("facebook", STARTED, DECLARED), DECLARED)
    instagram = august.declare(Declaration("instagram", STARTED, DECLARED), DECLARED)
    # The second run grants both: 60 % and 40 % of 3.75.
    assert list(august.give_back(instagram).values()) == [375]
    assert august.give_back(facebook) == {} if august.shown(facebook)["fingerprint"] is None else True
    assert because_of(august, facebook, instagram) == [(225, 0), (150, 0)]


def test_attribution_moves_when_an_incident_is_retracted(august: August) -> None:
    with building(august.db):
        august.sell()
    first = august.declare(Declaration("facebook", STARTED, at(26, 8)), DECLARED)  # 84 h: 3.50
    august.give_back(first)
    second = august.declare(Declaration("facebook", at(24, 8), at(26, 8), impact_bp=5_000), DECLARED)
    assert august.give_back(second) == {}
    assert because_of(august, first, second) == [(350, 0), (0, 0)]
    august.retract(first)  # half of 48 h is lost still, 1.00: now because of the second
    assert because_of(august, first, second) == [(0, 250), (100, 0)]


def test_to_weigh_a_plan_anew_moves_nothing_that_was_granted(august: August) -> None:
    with building(august.db):
        august.sell(august.duo)
    facebook = august.declare(Declaration("facebook", STARTED, at(25)))
    august.give_back(facebook)  # 52 h of 31.00: 2.1667, of which 60 % are 1.30
    instagram = august.declare(Declaration("instagram", STARTED, at(25)))
    august.give_back(instagram)  # 2.17 together
    assert because_of(august, facebook, instagram) == [(130, 0), (87, 0)]
    with august.db.work(OPERATOR) as session:
        session.execute(sa.update(PlanWeight).values(weight_bp=5_000))
        session.execute(sa.delete(PlanWeight).where(PlanWeight.platform_id == august.instagram.id))
    assert because_of(august, facebook, instagram) == [(130, 0), (87, 0)]


def test_a_report_says_what_its_own_seconds_cost(august: August) -> None:
    with building(august.db):
        august.sell()
    first = august.declare(Declaration("facebook", STARTED, at(26, 8)), DECLARED)  # 84 h: 3.50
    august.give_back(first)
    august.change(first, DECLARED, ended_at=at(25, 8))  # 60 h: 2.50
    with august.db.work(OPERATOR) as session:
        for agency, cents in ((None, 250), ("acme", 250), ("umbra", 0)):
            found = report(session, RESOLVED, first, agency)["because_of_it"]
            assert [one["amount"] for one in found["granted"]] == [cents] * bool(cents)
            assert [one["amount"] for one in found["goodwill"]] == [100] * bool(cents)


@pytest.mark.parametrize("seed", range(3))
def test_everything_granted_is_somebodys(august: August, seed: int) -> None:
    dice = Random(seed)
    with building(august.db):
        for _ in range(7):
            august.sell(dice.choice((august.pages, august.duo)), dice.choice((1, 999, 3_100, 12_345)))
    incidents = []
    for _ in range(4):
        start = at(dice.randrange(2, 24), dice.randrange(24))
        incidents.append(
            august.declare(
                Declaration(
                    dice.choice(("facebook", "instagram")), start, start.replace(day=start.day + dice.randint(1, 5)),
                    impact_bp=9_999 - dice.randrange(9_000),
                ),
                RESOLVED,
            )
        )  # fmt: skip
        august.give_back(incidents[-1])
    august.retract(dice.choice(incidents))
    august.change(dice.choice([one for one in incidents if august.shown(one)["state"] != "retracted"]), impact_bp=1)
    (granted,) = august.rows("SELECT sum(amount) AS amount FROM grants WHERE state <> 'cancelled'")
    parts = because_of(august, *incidents)
    assert sum(sum(part) for part in parts) == granted.amount
    assert sum(goodwill for _, goodwill in parts) > 0
