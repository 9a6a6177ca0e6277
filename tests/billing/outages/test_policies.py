"""What an agency's policy makes of one outage, worked out by hand.

August has 744 hours and the outage began on the 22nd at 20:00 UTC: 90 hours to the declaration, 180 to the end on the
30th at 08:00. Of 31.00 for the month an hour is 31.00 / 744 = 0.041666…, so 90 hours are 3.75 and 180 are 7.50.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from billing.outages import approvals, incidents, newcomers, report, settlements, settling, terms
from billing.outages.attributed import attributed
from billing.outages.explain import of_grant
from billing.outages.models import Incident, Pause, Run
from billing.outages.planning import Declaration
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tenants.models import OPERATOR_AGENCY, Agency
from tenants.policy import set_policy
from tests.billing.outages.august import DECLARED, FACEBOOK_IS_DOWN, RESOLVED, August, at, parts
from tests.factories import AgencyFactory, CustomerFactory, PlanFactory, building, paid_invoice, subscribed
from tests.web import house_of


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


def says(august: August, **changes: Any) -> None:
    with august.db.work(OPERATOR) as session:
        set_policy(session, DECLARED, session.get_one(Agency, august.agency.id), changes, august.finance, "test")


def sold(august: August, **of_invoice: Any) -> str:
    with building(august.db):
        return august.sell(**of_invoice).id


def given(august: August, declaration: Any = FACEBOOK_IS_DOWN, now: datetime = DECLARED) -> dict[str, int]:
    return {grant["invoice"]: grant["amount"] for grant in august.preview(declaration, now).grants}


def waits(august: August) -> dict[str, int]:
    return {one["reason"]: sum(part["amount"] for part in one["amount"]) for one in august.preview().left_out}


def plan_without_platforms() -> Any:
    return PlanFactory(id="price_plain", weights={})


def test_a_month_on_facebook_gets_ninety_hours_back(august: August) -> None:
    invoice = sold(august)
    assert given(august) == {invoice: 375}


def test_days_of_the_agencys_own_zone(august: August) -> None:
    """In Berlin (UTC+2) from the 22nd, 22:00, to the 26th, 16:00: five days are touched, 31.00 x 120 h / 744 h."""
    invoice = sold(august)
    with august.db.work(OPERATOR) as session:
        session.execute(sa.update(Agency).where(Agency.id == august.agency.id).values(time_zone="Europe/Berlin"))
    says(august, granularity="day")
    assert given(august) == {invoice: 500}


def test_hours_are_rounded_outward(august: August) -> None:
    """From 20:10 to 14:00 are 89 h 50 min, counted as 90 h."""
    invoice = sold(august)
    says(august, granularity="hour")
    assert given(august, replace(FACEBOOK_IS_DOWN, started_at=at(22, 20, 10))) == {invoice: 375}


def test_an_invoice_that_only_the_rounding_reaches_gets_its_part(august: August) -> None:
    """Its day ends at 20:00, as the outage begins; rounding to the 22nd adds its last 20 hours of 24: 24.00 x 20/24."""
    invoice = sold(august, net=2400, period=(at(21, 20), at(22, 20)))
    assert given(august) == {}
    says(august, granularity="day")
    assert given(august) == {invoice: 2000}


def test_recovery_counts_as_lost(august: August) -> None:
    """90 h and 6 of recovery: 31.00 x 96 / 744 = 4.00; while it goes on there is nothing to recover from."""
    invoice = sold(august)
    says(august, recovery=6 * 3600)
    assert given(august) == {invoice: 375}
    assert given(august, replace(FACEBOOK_IS_DOWN, ended_at=DECLARED)) == {invoice: 400}


def test_full_gives_whole_payments_since_it_began_and_the_formula_for_those_before(august: August) -> None:
    with building(august.db):
        before = august.sell().id
        since = august.sell(created_at=at(23)).id  # paid on the 23rd, whole
        late = august.sell(net=2000, period=(at(1, month=7), at(1)), created_at=at(24)).id  # July, paid by a late retry
        unrelated = august.sell(created_at=at(23), plan=plan_without_platforms()).id
    says(august, grants="full")
    assert given(august) == {before: 375, since: 3100, late: 2000}
    assert unrelated not in given(august)


def test_full_sweeps_what_is_paid_until_it_is_resolved(august: August) -> None:
    """The 28th's payment is given whole by the next run; the one of 31 August, after the end, only by the formula."""
    says(august, grants="full")
    early = sold(august, created_at=at(23))
    incident = august.declare()
    assert august.give_back(incident) == {early: 3100}
    late = sold(august, created_at=at(28))
    after = sold(august, created_at=at(30, 9))
    august.resolve(incident, now=at(30, 12), at=RESOLVED)
    assert august.give_back(incident) == {late: 3100, after: 750}  # 180 h of 744 are 7.50


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("paid", "whole"), [(at(30, 7), True), (at(30, 8), False)])
def test_full_gives_what_was_paid_before_the_end_although_that_is_heard_of_after_the_last_run(
    august: August, paid: datetime, whole: bool, before: bool
) -> None:
    """20.00 for July, of which nothing was lost, paid an hour before the end of the outage, or as it ended.

    Whether or not anybody else of the agency had anything to get `before`, so that there was a run.
    """
    says(august, grants="full")
    if before:
        sold(august)
    incident = august.declare()
    august.resolve(incident)
    assert bool(august.give_back(incident)) == before
    late = sold(august, net=2000, period=(at(1, month=7), at(1)), created_at=paid)
    for planned in (whole, False):  # heard of once more, it is given already
        with august.db.work(OPERATOR) as session:
            settlements.late_payment(session, late)
        assert settled(august, at(30, 14)) == int(planned)
        assert august.give_back(incident) == ({late: 2000} if planned else {})


def test_what_full_gave_is_not_given_again_by_prorated(august: August) -> None:
    says(august, grants="full")
    invoice = sold(august, created_at=at(23))
    incident = august.declare()
    august.give_back(incident)
    august.resolve(incident)
    says(august, grants="prorated")
    later = august.declare(replace(FACEBOOK_IS_DOWN, started_at=at(30, 10)), now=at(31))
    assert august.give_back(later) == {}
    assert august.goodwill(later) == {}
    assert august.grants(incident)[invoice].whole == "1/1"


def test_full_takes_off_what_was_refunded_by_hand(august: August) -> None:
    """31.00 paid on the 23rd, of which somebody refunded 11.00: 20.00 are left to give back."""
    invoice = sold(august, created_at=at(23))
    with august.db.work(OPERATOR) as session:
        session.execute(sa.text("UPDATE payments SET elsewhere = 1100"))
    says(august, grants="full")
    assert given(august) == {invoice: 2000}


def test_full_says_why_in_words(august: August) -> None:
    says(august, grants="full")
    sold(august, created_at=at(23))
    incident = august.declare()
    (grant,) = august.grants(incident).values()
    with august.db.work(OPERATOR) as session:
        told = of_grant(session, session.merge(grant, load=False))
    assert told["whole"] == "1/1"
    assert any("It was paid while the outage went on, so all of it goes back: $31.00." in line for line in told["text"])


def test_below_the_minimum_it_waits_and_joins_the_next(august: August) -> None:
    invoice = sold(august)
    says(august, minimums={"usd": 400})
    assert given(august) == {}
    assert waits(august) == {"below_minimum": 375}
    incident = august.declare()
    august.resolve(incident)
    assert august.give_back(incident) == {invoice: 750}


def test_what_waited_joins_the_grant_of_another_incident_on_another_invoice(august: August) -> None:
    """3.75 of August waits. In September (720 h) 72 hours are lost: 3.10. Together 6.85 is enough."""
    with building(august.db):
        customer = august.customer()
        subscription = subscribed(customer, august.pages)
        first = paid_invoice(customer, august.pages, subscription=subscription).id
        second = paid_invoice(
            customer, august.pages, subscription=subscription, period=(at(1, month=9), at(1, month=10))
        ).id
    says(august, minimums={"usd": 400})
    incident = august.declare(replace(FACEBOOK_IS_DOWN, ended_at=DECLARED))
    assert august.give_back(incident) == {}
    later = august.declare(
        replace(FACEBOOK_IS_DOWN, started_at=at(3, month=9), ended_at=at(6, month=9)), now=at(7, month=9)
    )
    assert august.give_back(later) == {first: 375, second: 310}


def test_what_waited_goes_out_when_the_subscription_has_ended(august: August) -> None:
    invoice = sold(august, status="canceled")
    says(august, minimums={"usd": 400})
    assert given(august) == {invoice: 375}


def test_below_the_minimum_it_can_go_to_the_balance(august: August) -> None:
    invoice = sold(august)
    says(august, minimums={"usd": 400, "eur": 1}, below_minimum="credit")
    incident = august.declare()
    assert parts(august.grants(incident)[invoice]) == {"credit": 375}


def test_below_the_minimum_it_waits_where_the_balance_is_of_no_use_any_more(august: August) -> None:
    """They end with the period: then it goes out as money."""
    with building(august.db):
        customer = august.customer()
        ending = subscribed(customer, august.pages, cancel_at_period_end=True)
        paid_invoice(customer, august.pages, subscription=ending)
    says(august, minimums={"usd": 400}, below_minimum="credit")
    assert given(august) == {}
    assert waits(august) == {"below_minimum": 375}


def test_at_resolution_alone(august: August) -> None:
    invoice = sold(august)
    says(august, settle="resolution")
    assert waits(august) == {"settled_later": 375}
    incident = august.declare()
    assert august.give_back(incident) == {}
    august.resolve(incident)
    assert august.give_back(incident) == {invoice: 750}


def settled(august: August, now: datetime) -> int:
    """What a worker finds due by then."""
    return settling.settle_due(house_of(august.db, clock=FixedClock(now)), 10)


def test_settled_at_the_resolution_another_one_does_not_pay_for_what_goes_on(august: August) -> None:
    invoice = sold(august)
    says(august, settle="resolution")
    incident = august.declare()
    other = august.declare(Declaration("facebook", at(24, 8), impact_bp=5_000), DECLARED)
    assert (august.give_back(incident), august.give_back(other)) == ({}, {})
    august.resolve(incident, at=at(24, 8))
    assert august.give_back(incident) == {invoice: 150}  # 36 h at 1/24 USD, and none of the other's 27 until then
    august.resolve(other)
    assert august.give_back(other) == {invoice: 300}  # half of the 144 h until 30 August, 8:00


def test_every_two_days_until_it_is_resolved(august: August) -> None:
    """90 hours are 3.75, two days more 2.00, two more 2.00; and 18 hours before the last run it was over."""
    invoice = sold(august)
    says(august, settle="every", settle_days=2)
    incident = august.declare()
    assert august.give_back(incident) == {invoice: 375}
    assert (settled(august, at(28, 13)), settled(august, at(28, 14)), settled(august, at(28, 15))) == (0, 1, 0)
    assert august.give_back(incident) == {invoice: 200}
    # Nobody looked for a while: it is done once, and the next is due two days later.
    assert (settled(august, at(30, 2)), settled(august, at(30, 15))) == (0, 1)
    # The 28th, 14:00 to the 30th, 15:00 are 49 hours: 2.04 (187 hours are 7.79, of which 5.75 were given).
    assert august.give_back(incident) == {invoice: 204}
    august.resolve(incident, at(30, 16), at=at(30, 8))
    assert august.goodwill(incident) == {invoice: 29}
    assert settled(august, at(31, 23)) == 0
    assert settled(august, at(1, 15, month=9)) == 1  # the last: nothing is owed, and nothing is due any more
    assert august.give_back(incident) == {}
    assert settled(august, at(20, month=9)) == 0


def looked_at(august: August, now: datetime) -> None:
    """A worker looks at what goes on, as it does every minute."""
    with august.db.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(followed_at=sa.func.now() - newcomers.EVERY))
    assert newcomers.look_due(house_of(august.db, clock=FixedClock(now)), 10) == 1


@pytest.mark.parametrize("settle", ["both", "resolution"])
def test_what_was_due_every_so_many_days_is_not_once_that_is_said_no_more(august: August, settle: str) -> None:
    """90 hours are 3.75, and so are the 90 from the declaration to the resolution."""
    invoice = sold(august)
    says(august, settle="every", settle_days=2)
    incident = august.declare()
    assert august.give_back(incident) == {invoice: 375}
    says(august, settle=settle)
    assert (settled(august, at(28, 14)), settled(august, at(28, 15))) == (1, 0)  # looked at, and due no more
    assert len(august.shown(incident)["runs"]) == 1
    with august.db.work(OPERATOR) as session:
        settlements.at_once(session, august.agency.id, incident)
    assert settled(august, at(28, 15)) == 1  # what was found has to be planned all the same
    assert len(august.shown(incident)["runs"]) == 2
    august.resolve(incident)
    assert august.give_back(incident) == {invoice: 375}


@pytest.mark.parametrize(
    ("begins", "granularity", "recovery", "owed"),
    [
        (at(30, 12), "day", 0, 50),  # 12 of its 744 hours, until the 31st: 31.00 x 12 / 744
        (at(30, 8, 30), "hour", 0, 0),  # what ended at 8:00 ended with the hour
        (at(30, 8, 30), "hour", 600, 2),  # until 9:00: 31.00 x 0.5 / 744 = 0.0208
        (at(30, 10), "second", 4 * 3600, 8),  # until 12:00: 31.00 x 2 / 744 = 0.0833
        (at(30, 12), "second", 4 * 3600, 0),
        (at(22, 12, month=7), "day", 0, 50),  # its last 12 hours, from the 22nd, 0:00, to 12:00
        (at(22, 12, month=7), "second", 0, 0),
        (at(21, 23, month=7), "day", 0, 0),
    ],
)
def test_what_is_billed_after_the_last_run_is_found_however_an_agency_counts(
    august: August, begins: datetime, granularity: str, recovery: int, owed: int
) -> None:
    says(august, granularity=granularity, recovery=recovery)
    incident = august.declare()
    august.resolve(incident)
    late = sold(august, period=(begins, begins + timedelta(hours=744)), created_at=at(30, 13), finalized_at=at(30, 13))
    with august.db.work(OPERATOR) as session:
        settlements.came_late(session, late)
    assert settled(august, at(30, 14)) == int(owed > 0)
    assert august.give_back(incident) == ({late: owed} if owed else {})


def test_every_so_many_days_is_followed_from_when_it_is_said(august: August) -> None:
    """Said a day after the declaration: from that to the 29th are 72 hours, 3.00; a day more is 1.00."""
    invoice = sold(august)
    incident = august.declare()
    assert august.give_back(incident) == {invoice: 375}
    says(august, settle="every", settle_days=2)
    for hour in (14, 15):
        looked_at(august, at(27, hour))
    assert (settled(august, at(29, 13)), settled(august, at(29, 14))) == (0, 1)
    assert august.give_back(incident) == {invoice: 300}
    says(august, settle_days=1)
    looked_at(august, at(29, 14))  # the 31st was noted
    assert (settled(august, at(30, 13)), settled(august, at(30, 14))) == (0, 1)
    assert august.give_back(incident) == {invoice: 100}
    august.resolve(incident, at(30, 14), at=at(30, 14))
    assert settled(august, at(31, 14)) == 1
    assert settled(august, at(20, month=9)) == 0


def test_an_agency_that_is_made_while_it_goes_on_is_settled_like_the_others(august: August) -> None:
    """Of August its customer lost 162 hours until the 29th, 14:00: 31.00 x 162 / 744 = 6.75."""
    with august.db.work(OPERATOR) as session:
        operator = session.get_one(Agency, OPERATOR_AGENCY)
        set_policy(session, DECLARED, operator, {"settle": "every", "settle_days": 2}, august.finance, "test")
    incident = august.declare()
    with building(august.db):
        customer = CustomerFactory(agency=AgencyFactory(slug="late"))
        theirs = paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages)).id
    looked_at(august, at(27, 14))
    assert settled(august, at(29, 14)) == 1
    assert august.give_back(incident) == {theirs: 675}


def test_a_run_that_was_due_stands_beside_what_waits_for_others(august: August) -> None:
    """An agency that is settled every day, and one whose first run nobody has approved yet."""
    invoice = sold(august)
    with building(august.db):
        other = AgencyFactory(slug="other")
        customer = CustomerFactory(agency=other)
        theirs = paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages)).id
    says(august, settle="every", settle_days=1)
    incident = august.declare()
    assert settled(august, at(27, 14)) == 1
    # 114 hours: 4.75. The other one keeps its plan of 90.
    assert august.give_back(incident) == {invoice: 475, theirs: 375}


def test_workers_that_settle_at_once_make_one_run(august: August) -> None:
    sold(august)
    says(august, settle="every", settle_days=2)
    incident = august.declare()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: settled(august, at(28, 14)), range(8)))
    assert [run["purpose"] for run in august.shown(incident)["runs"]] == ["declare", "settle"]


def test_billing_is_paused_from_the_share_that_the_policy_names(august: August) -> None:
    with building(august.db):
        whole = august.sell()
        august.sell(august.duo)  # three fifths of it are Facebook's
    says(august, pause_from_bp=6_001, hold="void")
    assert august.preview().pauses == 1
    incident = august.declare()
    (pause,) = august.rows("SELECT subscription_id, behavior FROM pauses WHERE incident_id = :id", id=incident)
    assert tuple(pause) == (whole.subscription_id, "void")
    says(august, pause_from_bp=6_000)
    assert august.preview().pauses == 2


def test_a_run_keeps_its_terms(august: August) -> None:
    """The policy changes while the run waits: what was reviewed is approved; the next follows the new one."""
    invoice = sold(august)
    says(august, granularity="hour")
    incident = august.declare()
    says(august, granularity="day", grants="none")
    assert august.give_back(incident) == {invoice: 375}
    with august.db.work(OPERATOR) as session:
        run = session.scalars(sa.select(Run).where(Run.incident_id == incident)).one()
    assert run.terms is not None
    assert terms.of_json(run.terms).counting.granularity == "hour"
    august.resolve(incident)
    assert august.give_back(incident) == {}


def test_an_incident_may_ask_for_something_else(august: August) -> None:
    invoice = sold(august)
    says(august, grants="none", granularity="hour")
    assert given(august) == {}
    assert given(august, replace(FACEBOOK_IS_DOWN, started_at=at(22, 20, 10), policy="credit")) == {invoice: 375}


def test_what_is_to_give_nothing_is_given_by_no_other_incident(august: August) -> None:
    """The 90 h of the one that gives nothing are nobody's; a day of another one is 24 of 744 hours, which are 1.00."""
    invoice = sold(august)
    nothing = august.declare(replace(FACEBOOK_IS_DOWN, policy="none"))
    incident = august.declare(Declaration("facebook", at(10), at(11)))
    assert august.give_back(incident) == {invoice: 100}
    with august.db.work(OPERATOR) as session:
        assert attributed(session, nothing, DECLARED).granted.to_json() == []
        assert attributed(session, incident, DECLARED).granted["usd"].amount == 100
    august.resolve(nothing)
    assert august.give_back(nothing) == {}


def shares(august: August, *incidents: str) -> list[list[dict[str, Any]]]:
    """What the report says of each."""
    with august.db.work(OPERATOR) as session:
        return [attributed(session, one, RESOLVED).granted.to_json() for one in incidents]


def test_what_an_incident_gave_before_it_was_to_give_nothing_more_stays_its_own(august: August) -> None:
    """90 h are 3.75; of the 90 h since then nobody gives anything. A day of another one is 24 of 744 hours: 1.00."""
    invoice = sold(august)
    stopped = august.declare()
    assert august.give_back(stopped) == {invoice: 375}
    says(august, grants="none")
    august.resolve(stopped)
    assert august.give_back(stopped) == {}
    says(august, grants="prorated")
    incident = august.declare(Declaration("facebook", at(10), at(11)), RESOLVED)
    assert august.give_back(incident) == {invoice: 100}
    assert shares(august, stopped, incident) == [
        [{"currency": "usd", "amount": 375}], [{"currency": "usd", "amount": 100}],
    ]  # fmt: skip


def test_what_was_declined_before_it_was_to_give_nothing_is_given_by_no_other_incident(august: August) -> None:
    invoice = sold(august)
    stopped = august.declare()
    with august.db.work(OPERATOR) as session:
        approvals.decline(session, stopped, august.approver, "Not ours.", "test")
    says(august, grants="none")
    august.resolve(stopped)
    says(august, grants="prorated")
    incident = august.declare(Declaration("facebook", at(10), at(11)), RESOLVED)
    assert august.give_back(incident) == {invoice: 100}
    assert shares(august, stopped, incident) == [[], [{"currency": "usd", "amount": 100}]]


def test_what_was_given_for_good_stays_given_whatever_the_policy_becomes(august: August) -> None:
    """From the 22nd, 20:00 to the end of August are 220 hours: 9.17 (9.1666), of which 3.75 were given. A day: 1.00."""
    invoice = sold(august)
    gone = august.declare()
    assert august.give_back(gone) == {invoice: 375}
    with august.db.work(OPERATOR) as session:
        incidents.retire(session, at(28), gone, august.finance, "test", reason="Gone for good.")
    assert august.give_back(gone) == {invoice: 542}
    says(august, grants="none")
    with august.db.work(OPERATOR) as session:
        settlements.at_once(session, august.agency.id, gone)
    assert settled(august, at(28, 12)) == 1
    says(august, grants="prorated")
    incident = august.declare(Declaration("facebook", at(10), at(11)), RESOLVED)
    assert august.give_back(incident) == {invoice: 100}
    assert shares(august, gone, incident) == [
        [{"currency": "usd", "amount": 917}], [{"currency": "usd", "amount": 100}],
    ]  # fmt: skip


def test_the_promise_is_the_agencys(august: August) -> None:
    """Monday 26 August and two business days: Wednesday the 28th."""
    sold(august)
    says(august, promise_days=2)
    assert august.shown(august.declare())["promise_at"] == "2019-08-28T14:00:00Z"


@pytest.mark.parametrize(
    ("changes", "promise_at"),
    [
        # 30 days after Monday 26 August is Wednesday 25 September; two business days later is Friday.
        ({"choice_days": 30}, "2019-09-27T14:00:00Z"),
        # 5 days after it is Saturday the 31st; two business days later is Tuesday.
        ({"choice_days": 5}, "2019-09-03T14:00:00Z"),
        ({"choice_days": 30, "grants": "none"}, "2019-08-28T14:00:00Z"),
    ],
    ids=["choose", "choose until a Saturday", "nothing to choose"],
)
def test_what_customers_choose_first_is_promised_from_when_they_have_chosen(
    august: August, changes: dict[str, Any], promise_at: str
) -> None:
    says(august, promise_days=2, **changes)
    assert august.shown(august.declare())["promise_at"] == promise_at


def test_the_promise_is_the_soonest_unless_customers_of_some_choose_first(august: August) -> None:
    """Three days after Monday 26 August is Thursday the 29th, and seven business days later is Monday 9 September."""
    with building(august.db):
        AgencyFactory(slug="elm")  # promises the usual seven business days: Wednesday 4 September
    says(august, promise_days=2)
    assert august.shown(august.declare())["promise_at"] == "2019-08-28T14:00:00Z"
    says(august, promise_days=7, choice_days=3)
    incident = august.declare(replace(FACEBOOK_IS_DOWN, platform="instagram"))
    assert august.shown(incident)["promise_at"] == "2019-09-09T14:00:00Z"


def test_each_agency_keeps_its_own_promise(august: August) -> None:
    """Acme's customers choose for three days, the other's are paid by its own two days: Wednesday 28 August."""
    with building(august.db):
        august.sell()
        other = AgencyFactory(slug="elm")
        customer = CustomerFactory(agency=other)
        paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages))
        AgencyFactory(slug="ash")  # has nothing to do with it
    says(august, choice_days=3)
    with august.db.work(OPERATOR) as session:
        set_policy(session, DECLARED, session.get_one(Agency, other.id), {"promise_days": 2}, august.finance, "test")
    incident = august.declare()
    says(august, choice_days=0, promise_days=90)  # what was promised stands

    def promises(now: datetime) -> list[tuple[str, bool | None]]:
        with august.db.work(OPERATOR) as session:
            told = [report.report(session, now, incident, slug)["promise"] for slug in ("elm", "acme", "ash", None)]
        return [(one["by"], one["kept"]) for one in told]

    by = ["2019-08-28T14:00:00Z", *["2019-09-09T14:00:00Z"] * 3]
    assert promises(at(28, 14)) == list(zip(by, [None] * 4, strict=True))
    assert promises(at(28, 15)) == list(zip(by, [False, None, None, None], strict=True))


def test_nothing_is_paused_twice_for_a_plan_that_lost_nothing(august: August) -> None:
    with building(august.db):
        august.sell(plan_without_platforms())
    incident = august.declare()
    with august.db.work(OPERATOR) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Pause).where(Pause.incident_id == incident)) == 0
