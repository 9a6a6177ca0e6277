"""Who says yes: a limit that somebody else set before, else a second person, to exactly the plan they looked at.

90 h of a month of 31.00 USD are 3.75; 120 h are 5.00.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from billing.errors import BadRequest, Conflict, NotAllowed, NotFound, PlanChanged
from billing.models import Payment
from billing.outages import approvals, automatic, incidents, settling
from billing.outages.planning import Declaration
from tenants import policy
from tenants.clock import FixedClock
from tenants.db import OPERATOR
from tenants.models import Agency, Member
from tests.billing.outages.august import DECLARED, FACEBOOK_IS_DOWN, RESOLVED, STARTED, August, at
from tests.factories import AgencyFactory, MemberFactory, PlanFactory, PlatformFactory, building
from tests.web import house_of

BEFORE = at(20)


def limit(
    august: August,
    per_run: int,
    per_day: int,
    *,
    now: datetime = BEFORE,
    by: Member | None = None,
    currency: str = "usd",
) -> None:
    with august.db.work(OPERATOR) as session:
        agency = session.get_one(Agency, august.agency.id)
        automatic.set_limit(session, now, agency, currency, per_run, per_day, by or august.approver, "test")


def used(august: August) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in august.rows("SELECT day::text, used FROM limit_days ORDER BY day")]


def run_states(august: August, incident: str) -> list[tuple[str, str | None]]:
    return [(run["state"], run["approval"]) for run in august.shown(incident)["runs"]]


def test_what_is_within_the_limit_approves_itself(august: August) -> None:
    limit(august, 375, 1_000)
    incident = august.declare()
    assert run_states(august, incident) == [("running", "automatic")]
    assert used(august) == [("2019-08-26", 375)]
    assert august.rows("SELECT state FROM steps") == [("approved",)]
    (run,) = august.rows("SELECT approved_by, limit_set_by, approved_fingerprint = fingerprint AS same FROM runs")
    assert tuple(run) == (None, august.approver.id, True)
    (entry,) = august.rows("SELECT actor, after FROM audit_entries WHERE action = 'run.approved'")
    assert (entry.actor, entry.after["limits"][0]["per_run"]) == ("engine", 375)
    with pytest.raises(Conflict, match="Nothing of this incident waits"):
        august.approve(incident, "f")


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ([], "nobody set one"),
        ([{"per_run": 374, "per_day": 1_000}], "a cent too little for the run"),
        ([{"per_run": 0, "per_day": 0}], "nothing approves itself"),
        ([{"per_run": 1_000, "per_day": 1_000, "currency": "eur"}], "it is for another currency"),
        ([{"per_run": 1_000, "per_day": 1_000, "now": DECLARED}], "it is not older than the declaration"),
        ([{"per_run": 1_000, "per_day": 1_000}, {"per_run": 10, "per_day": 10}], "it was lowered since"),
    ],
)
def test_where_no_limit_can_be_used_a_person_must_approve(
    august: August, limits: list[dict[str, Any]], why: str
) -> None:
    for one in limits:
        limit(august, **one)
    incident = august.declare()
    assert run_states(august, incident) == [("waiting", None)], why
    assert used(august) == []
    assert august.give_back(incident) != {}


def test_of_each_currency_the_limit_that_was_set_last_is_in_force(august: August) -> None:
    for currency, per_run in (("usd", 10), ("eur", 20), ("usd", 30)):
        limit(august, per_run, 100, currency=currency)
    with august.db.work(OPERATOR) as session:
        found = automatic.limits_of(session, august.agency.id)
    assert [(one.currency, one.per_run) for one in found] == [("eur", 20), ("usd", 30)]


def test_a_limit_of_the_declarer_is_none(august: August) -> None:
    limit(august, 1_000, 1_000, by=august.finance)
    assert run_states(august, august.declare()) == [("waiting", None)]


def test_a_limit_of_whoever_changed_the_incident_is_none_for_what_a_settling_run_plans_either(august: August) -> None:
    with august.db.work(OPERATOR) as session:
        policy.set_policy(
            session, BEFORE, session.get_one(Agency, august.agency.id), {"settle": "every", "settle_days": 1},
            august.finance, "test",
        )  # fmt: skip
    with building(august.db):
        other = MemberFactory(email="other@operator.example")
    limit(august, 10_000, 10_000, by=other)
    incident = august.declare()
    august.change(incident, DECLARED, by=other, started_at=at(22, 8))
    assert run_states(august, incident) == [("running", "automatic"), ("waiting", None)]
    settling.settle_due(house_of(august.db, clock=FixedClock(at(27, 15))), 10)
    assert run_states(august, incident) == [("running", "automatic"), ("superseded", None), ("waiting", None)]


def test_a_limit_that_was_raised_after_the_declaration_does_not_help_the_run_that_follows(august: August) -> None:
    limit(august, 375, 1_000)
    incident = august.declare()
    limit(august, 1_000, 10_000, now=at(27))
    august.resolve(incident)  # 3.75 more
    assert run_states(august, incident) == [("running", "automatic"), ("waiting", None)]


def test_one_incident_split_into_small_changes_meets_its_limit(august: August) -> None:
    limit(august, 400, 10_000)
    incident = august.declare()
    august.change(incident, DECLARED, started_at=at(22, 15))  # 5 h more, 0.21: together 3.96
    august.change(incident, DECLARED, started_at=at(22, 10))  # 5 h more, 0.21: together 4.17
    assert run_states(august, incident) == [("running", "automatic"), ("running", "automatic"), ("waiting", None)]
    assert used(august) == [("2019-08-26", 396)]


def test_many_incidents_of_many_people_meet_the_limit_of_the_day(august: August) -> None:
    with building(august.db):
        second = MemberFactory(email="second@operator.example")
        for slug in ("x", "linkedin"):
            august.sell(PlanFactory(weights={PlatformFactory(slug=slug): 10_000}))
    limit(august, 200, 300)
    first = august.declare(Declaration("facebook", at(10), at(12)))  # 48 h: 2.00
    with august.db.work(OPERATOR) as session:
        again = Declaration("x", at(13), at(15))  # 2.00, where 1.00 is left of the day
        other = incidents.declare(session, DECLARED, again, session.get_one(Member, second.id), "test").id
    small = august.declare(Declaration("linkedin", at(16), at(17)))  # 24 h: 1.00
    assert [run_states(august, one)[0][0] for one in (first, other, small)] == ["running", "waiting", "running"]
    assert used(august) == [("2019-08-26", 300)]
    next_day = august.declare(Declaration("linkedin", at(18), at(20)), at(27))
    assert run_states(august, next_day)[0] == ("running", "automatic")
    assert used(august) == [("2019-08-26", 300), ("2019-08-27", 200)]


def test_a_day_whose_limit_is_lowered_below_what_was_used_gives_no_more(august: August) -> None:
    limit(august, 200, 300)
    august.declare(Declaration("facebook", at(10), at(12)))
    limit(august, 100, 100, now=at(25))
    assert run_states(august, august.declare(Declaration("facebook", at(13), at(14))))[0] == ("waiting", None)
    assert used(august) == [("2019-08-26", 200)]


def test_whoever_races_for_the_budget_of_a_day_never_has_more_than_it(august: August) -> None:
    limit(august, 3_500, 3_500)
    with august.db.work(OPERATOR) as session:
        in_force = automatic.limit_of(session, august.agency.id, "usd")
        assert in_force is not None

    def take(_: int) -> bool:
        with suppress(sa.exc.IntegrityError), august.db.work(OPERATOR) as session:
            automatic.use_up(session, in_force, DECLARED.date(), 100)
            return True
        return False

    with ThreadPoolExecutor(4) as threads:
        had = list(threads.map(take, range(60)))
    assert sum(had) == 35
    assert used(august) == [("2019-08-26", 3_500)]


def test_declarations_at_once_share_one_budget(august: August) -> None:
    limit(august, 200, 500)

    def one(day: int) -> str:
        return august.declare(Declaration("facebook", at(day), at(day + 2), impact_bp=10_000 - day))  # 48 h: 2.00

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(one, (2, 5, 8, 11, 14)))
    states = [run_states(august, incident)[0][0] for incident in made]
    assert states.count("running") == 2  # of each about 2.00, with room for 5.00
    (row,) = august.rows("SELECT used, allowed FROM limit_days")
    assert row.used <= row.allowed == 500


@pytest.mark.parametrize(
    ("words", "refusal", "sentence"),
    [
        ({"currency": "dollars"}, BadRequest, "is no currency"),
        ({"currency": "USD"}, BadRequest, "is no currency"),
        ({"per_run": -1}, BadRequest, "0 or more"),
        ({"per_run": 1_001}, BadRequest, "per run no more than per day"),
        ({"per_day": 10**15}, BadRequest, "A limit is"),
    ],
)
def test_what_is_no_limit_is_refused(august: August, words: dict[str, Any], refusal: Any, sentence: str) -> None:
    with pytest.raises(refusal, match=sentence):
        limit(august, **{"per_run": 10, "per_day": 1_000} | words)
    assert august.rows("SELECT 1 FROM approval_limits") == []


@pytest.mark.parametrize(("role", "own", "may"), [
    ("finance", False, True), ("approver", False, True), ("auditor", False, False), ("agency-admin", True, True),
    ("agency-admin", False, False), ("agency-finance", True, False),
])  # fmt: skip
def test_who_sets_limits(august: August, role: str, own: bool, may: bool) -> None:
    with building(august.db):
        agency = august.agency if own else AgencyFactory(slug="umbra")
        person = MemberFactory(role=role, agency_id=agency.id if role.startswith("agency") else None)
    if may:
        limit(august, 1, 1, by=person)
    else:
        with pytest.raises(NotAllowed, match=role):
            limit(august, 1, 1, by=person)


def test_limits_are_versions_that_nobody_alters(august: August) -> None:
    limit(august, 1, 1)
    limit(august, 2, 3, now=at(21))
    assert august.rows("SELECT no, per_run, per_day FROM approval_limits ORDER BY no") == [(1, 1, 1), (2, 2, 3)]
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        august.rows("UPDATE approval_limits SET per_run = 9 RETURNING no")
    (entry,) = august.rows("SELECT before, after FROM audit_entries WHERE action = 'agency.limit' AND seq = 2")
    assert (entry.before["per_run"], entry.after["per_run"]) == (1, 2)


def decline(august: August, incident: str, reason: str = "The weights are wrong.", by: Member | None = None) -> None:
    with august.db.work(OPERATOR) as session:
        approvals.decline(session, incident, by or august.approver, reason, "test")


def test_declined_nothing_is_sent_and_all_stays_owed(august: August) -> None:
    incident = august.declare()
    decline(august, incident)
    (run,) = august.shown(incident)["runs"]
    assert (run["state"], run["decline_reason"]) == ("declined", "The weights are wrong.")
    assert august.rows("SELECT state, reason FROM grants") == [("cancelled", "Declined: The weights are wrong.")]
    assert august.shown(incident)["totals"] == []
    with pytest.raises(Conflict, match="Nothing of this incident waits"):
        decline(august, incident)
    august.change(incident, DECLARED, started_at=at(22, 14))  # 6 h more: 4.00 in all
    assert sorted(august.give_back(incident).values()) == [400]


def test_what_was_declined_is_planned_again_when_somebody_asks(august: August) -> None:
    with building(august.db):
        later = august.sell(status="canceled").id
        auditor = MemberFactory(role="auditor")
    incident = august.declare(replace(FACEBOOK_IS_DOWN, ended_at=DECLARED))
    august.resolve(incident, now=DECLARED, at=DECLARED)
    with pytest.raises(Conflict, match="Nothing of this incident was declined"):
        plan_again(august, incident)
    decline(august, incident)
    with pytest.raises(NotAllowed, match="planned by the operator's finance"):
        plan_again(august, incident, by=auditor)
    plan_again(august, incident)
    assert settling.settle_due(house_of(august.db, clock=FixedClock(DECLARED)), 10) == 1
    assert later in august.give_back(incident)
    with pytest.raises(Conflict, match="planned again since"):
        plan_again(august, incident)


def test_what_is_planned_after_a_no_waits_for_a_yes_whatever_the_limit_says(august: August) -> None:
    limit(august, 374, 10_000)
    incident = august.declare()  # 3.75
    decline(august, incident)
    limit(august, 10_000, 10_000, now=at(20))
    plan_again(august, incident)
    settling.settle_due(house_of(august.db, clock=FixedClock(DECLARED)), 10)
    assert run_states(august, incident) == [("declined", None), ("waiting", None)]
    august.give_back(incident)
    august.resolve(incident)  # what follows a yes is judged by the limit again
    assert run_states(august, incident)[2:] == [("running", "automatic")]


def plan_again(august: August, incident: str, by: Member | None = None) -> None:
    with august.db.work(OPERATOR) as session:
        approvals.plan_again(session, incident, by or august.finance, "test")


def test_declining_takes_an_approver_and_a_reason(august: August) -> None:
    incident = august.declare()
    with pytest.raises(NotAllowed, match="approved or declined by an approver"):
        decline(august, incident, by=august.finance)
    with pytest.raises(BadRequest, match="Say why"):
        decline(august, incident, " ")
    with pytest.raises(NotFound, match="no agency called"), august.db.work(OPERATOR) as session:
        approvals.decline(session, incident, august.approver, "x", "test", agencies=["nobody"])
    assert run_states(august, incident) == [("waiting", None)]


def test_what_changed_since_somebody_looked_is_said_line_by_line(august: August) -> None:
    with building(august.db):
        gone, other = august.sell().id, august.sell().id
    incident = august.declare(FACEBOOK_IS_DOWN)
    looked_at = august.shown(incident)["fingerprint"]
    with building(august.db) as session:
        came = august.sell().id
        # Somebody gave all of one back in Stripe, and 30.00 of the 31.00 of another: 1.00 of 3.75 is left there.
        session.execute(sa.update(Payment).where(Payment.invoice_id == gone).values(elsewhere=3_100))
        session.execute(sa.update(Payment).where(Payment.invoice_id == other).values(elsewhere=1_550))
    with pytest.raises(PlanChanged) as refused:
        august.approve(incident, looked_at)
    # 15.50 of 31.00 still stand: half of 3.75, half up.
    for line in (f"{came} came with 3.75 USD", f"{gone} went, which had 3.75 USD",
                 f"{other} gets 1.88 USD instead of 3.75 USD"):  # fmt: skip
        assert line in refused.value.message
    shown = august.shown(incident)
    assert shown["fingerprint"] in refused.value.message
    assert {one["invoice"]: (one["before"], one["after"]) for one in shown["changed"]} == {
        came: (None, 375), gone: (375, None), other: (375, 188),
    }  # fmt: skip
    assert sorted(august.give_back(incident).values()) == [188, 375, 375]


def test_of_many_differences_a_sentence_says_the_first(august: August) -> None:
    incident = august.declare(FACEBOOK_IS_DOWN)
    looked_at = august.shown(incident)["fingerprint"]
    with building(august.db):
        for _ in range(8):
            august.sell()
    with pytest.raises(PlanChanged, match=r"and 3 more\. Review them again"):
        august.approve(incident, looked_at)
    assert len(august.shown(incident)["changed"]) == 8


def test_an_old_fingerprint_does_not_approve_what_a_change_planned(august: August) -> None:
    incident = august.declare(Declaration("facebook", STARTED))
    looked_at = august.shown(incident)["fingerprint"]
    august.change(incident, DECLARED, started_at=at(22, 8))
    with pytest.raises(PlanChanged, match="changed since you looked"):
        august.approve(incident, looked_at)
    august.retract(incident, RESOLVED)
    with pytest.raises(Conflict, match="Nothing of this incident waits"):
        august.approve(incident, looked_at)
