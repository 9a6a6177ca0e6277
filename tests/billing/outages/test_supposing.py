"""What each policy would cost, and what a year of incidents would have: the sums by hand, and nothing changed.

Of 31.00 for August (744 h), 90 hours are 3.75; see `test_policies`.
"""

from dataclasses import replace
from typing import Any

import pytest

from billing.errors import BadRequest
from billing.outages import supposing
from billing.outages.planning import Declaration
from tenants.db import OPERATOR, Database
from tests.billing.outages.august import DECLARED, FACEBOOK_IS_DOWN, August, at
from tests.factories import building

OVER = replace(FACEBOOK_IS_DOWN, ended_at=DECLARED)


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


def amounts(totals: list[dict[str, Any]]) -> dict[str, int]:
    return {one["currency"]: one["amount"] for one in totals}


def compared(august: August, declaration: Declaration = FACEBOOK_IS_DOWN) -> dict[str, dict[str, int]]:
    with august.db.work(OPERATOR) as session:
        found = supposing.compare(session, DECLARED, declaration)
    return {name: amounts(one["totals"]) for name, one in found.items()}


def simulated(august: August, policy: str = "prorated", months: int = 12, now: Any = None) -> dict[str, Any]:
    with august.db.work(OPERATOR) as session:
        return supposing.simulate(session, now or at(15, month=9), policy, months)


def test_every_policy_side_by_side_whatever_was_asked_for(august: August) -> None:
    """One paid before it began, 3.75; one on the 23rd, 3.75 or all of its 31.00."""
    with building(august.db):
        august.sell()
        august.sell(created_at=at(23))
    side_by_side = {"prorated": {"usd": 750}, "full": {"usd": 3475}, "credit": {"usd": 750}, "none": {}}
    assert compared(august) == side_by_side
    assert compared(august, replace(FACEBOOK_IS_DOWN, policy="none")) == side_by_side
    assert august.rows("SELECT count(*) FROM runs") == [(0,)]


def test_a_year_of_incidents_as_if_nothing_had_been_given(august: August) -> None:
    """Facebook 90 h: 3.75, given long since. Instagram over 48 of the same hours takes two fifths of the duo as well.

    Pages (31.00, Facebook alone): 3.75. Duo (31.00): 0.6 x 3.75 = 2.25, and 0.4 x 31.00 x 48 / 744 = 0.80.
    Alone: 3.75 + 2.25 = 6.00 and 0.80. Together 3.75 + 3.05 = 6.80.
    """
    with building(august.db):
        august.sell()
        august.sell(august.duo)
    first = august.declare(OVER)
    assert august.give_back(first)
    second = august.declare(Declaration("instagram", at(23), at(25)))
    told = simulated(august)
    assert {one["id"]: amounts(one["totals"]) for one in told["incidents"]} == {
        first: {"usd": 600},
        second: {"usd": 80},
    }
    assert amounts(told["totals"]) == {"usd": 680}
    assert amounts(simulated(august, "none")["totals"]) == {}


def test_seconds_that_two_incidents_share_count_once(august: August) -> None:
    """50 % for 90 h beside 100 % of the same hours: 1.88 (1.875) and 3.75 alone, 3.75 together."""
    with building(august.db):
        august.sell()
    august.declare(OVER)
    august.declare(replace(OVER, impact_bp=5_000))
    told = simulated(august)
    assert sorted(amounts(one["totals"])["usd"] for one in told["incidents"]) == [188, 375]
    assert amounts(told["totals"]) == {"usd": 375}


def test_full_over_a_year_gives_each_payment_once(august: August) -> None:
    with building(august.db):
        august.sell(created_at=at(23))
    august.declare(OVER)
    august.declare(replace(OVER, impact_bp=5_000))
    assert amounts(simulated(august, "full")["totals"]) == {"usd": 3100}


def test_what_lies_further_back_is_left_out(august: August) -> None:
    with building(august.db):
        august.sell()
    august.declare(OVER)
    assert simulated(august, months=1, now=at(22, 21, month=9))["incidents"] == []
    assert len(simulated(august, months=1, now=at(22, 19, month=9))["incidents"]) == 1


def test_a_month_before_the_31st_is_the_last_of_a_shorter_one(august: August) -> None:
    assert simulated(august, months=6, now=at(31, 12))["since"] == "2019-02-28T12:00:00Z"


def test_nothing_is_written(august: August) -> None:
    with building(august.db):
        august.sell()
    august.declare(OVER)
    tables = ("runs", "grants", "incidents", "pauses", "audit_entries")
    before = [august.rows(f"SELECT count(*) FROM {table}") for table in tables]
    simulated(august)
    assert [august.rows(f"SELECT count(*) FROM {table}") for table in tables] == before


@pytest.mark.parametrize(
    ("policy", "months", "sentence"),
    [("generous", 12, "prorated, full, credit or none"), ("full", 0, "1 to 120 months"), ("full", 121, "1 to 120")],
)
def test_what_cannot_be_supposed_is_refused(august: August, policy: str, months: int, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        simulated(august, policy, months)
