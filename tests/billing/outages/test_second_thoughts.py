"""Change, extend, reopen, retract: the next run pays the difference, and nothing that was given is taken back.

A month of 31.00 USD has 744 hours, so an hour is 1/24 USD: 90 h are 3.75, 135 h 5.625, 180 h 7.50.
"""

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from billing.errors import AlreadyDeclared, BadRequest, Conflict, NotAllowed, NotFound, PlanChanged, Refused
from billing.outages import approvals, claims, incidents, invariants, planning, report, settling, steps
from billing.outages.decisions import Retirement
from billing.outages.models import Grant, Incident, Step
from billing.outages.planning import Declaration
from billing.outages.waits import LEASE
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tenants.models import Member
from tests.billing.outages.august import DECLARED, FACEBOOK_IS_DOWN, RESOLVED, STARTED, August, at, begun
from tests.databases import waiting
from tests.factories import AgencyFactory, MemberFactory, PlanFactory, building, paid_invoice, subscribed
from tests.web import house_of


@pytest.fixture
def august(db: Database) -> August:
    return August(db)


@pytest.fixture
def invoice(august: August) -> str:
    with building(august.db):
        return august.sell().id


def resolved(august: August) -> str:
    """90 h given at the declaration, 90 h more at the resolution: 7.50 in all."""
    incident = august.declare()
    august.give_back(incident)
    august.resolve(incident)
    august.give_back(incident)
    return incident


def states(august: August, incident: str, table: str = "pauses") -> list[str]:
    statement = f"SELECT state FROM {table} WHERE incident_id = :id ORDER BY id"
    return [row.state for row in august.rows(statement, id=incident)]


def nothing_is_planned(august: August, incident: str, now: datetime = RESOLVED) -> bool:
    with august.db.work(OPERATOR) as session:
        return planning.plan(session, planning.standing(session, incident), now).totals == []


def test_an_earlier_start_pays_the_difference(august: August, invoice: str) -> None:
    incident = resolved(august)
    august.change(incident, started_at=at(22, 8))  # 12 h more: 8.00 - 7.50
    assert august.give_back(incident) == {invoice: 50}
    assert nothing_is_planned(august, incident)


def test_a_later_end_pays_the_difference(august: August, invoice: str) -> None:
    incident = resolved(august)
    august.change(incident, at(31), ended_at=at(30, 20))  # 12 h more
    assert august.give_back(incident) == {invoice: 50}


def test_a_larger_impact_pays_the_difference(august: August, invoice: str) -> None:
    incident = august.declare(Declaration("facebook", STARTED, impact_bp=5_000))
    assert august.give_back(incident) == {invoice: 188}  # half of 3.75, half up
    august.change(incident, DECLARED, impact_bp=7_500)
    assert august.give_back(incident) == {invoice: 93}  # three quarters are 2.81


def test_an_earlier_end_leaves_goodwill_and_takes_nothing_back(august: August, invoice: str) -> None:
    incident = resolved(august)
    august.change(incident, ended_at=DECLARED)  # 3.75 was owed, 7.50 given
    assert august.give_back(incident) == {}
    assert august.goodwill(incident) == {invoice: 375}
    assert [run["state"] for run in august.shown(incident)["runs"]] == ["done", "done"]


def test_a_resolution_in_the_past_of_a_run_leaves_goodwill(august: August, invoice: str) -> None:
    incident = august.declare()
    august.give_back(incident)
    august.resolve(incident, at=at(24, 8))  # 36 h: 1.50 of the 3.75
    assert august.goodwill(incident) == {invoice: 225}


def test_goodwill_is_not_held_against_a_later_incident(august: August, invoice: str) -> None:
    incident = resolved(august)
    august.change(incident, ended_at=DECLARED)
    later = august.declare(Declaration("facebook", at(28), at(30)), RESOLVED)
    assert august.give_back(later) == {invoice: 200}  # 48 h, although 3.75 too much had been given before
    assert august.goodwill(later) == {}
    assert august.goodwill(incident) == {invoice: 375}


def test_the_same_incident_uses_its_goodwill_up_first(august: August, invoice: str) -> None:
    incident = resolved(august)
    august.change(incident, ended_at=DECLARED)
    august.change(incident, at(31, 12), ended_at=at(28, 11))  # 135 h: 5.63 of the 7.50 that were given
    assert (august.give_back(incident), august.goodwill(incident)) == ({}, {invoice: 187})
    august.change(incident, at(31, 12), ended_at=at(31, 8))  # 204 h: 8.50
    assert (august.give_back(incident), august.goodwill(incident)) == ({invoice: 100}, {invoice: 0})


def test_what_another_incident_takes_as_well_is_no_goodwill(august: August, invoice: str) -> None:
    incident = august.declare()
    august.give_back(incident)  # 3.75
    other = august.declare(Declaration("facebook", at(24, 8), at(26, 8), impact_bp=5_000), DECLARED)
    assert august.give_back(other) == {}  # those 48 h are lost once
    august.retract(incident)
    assert august.goodwill(incident) == {invoice: 275}  # half of 48 h, 1.00, is owed still
    assert nothing_is_planned(august, other)


def test_an_invoice_with_lines_of_other_platforms_keeps_what_those_lost(august: August) -> None:
    with building(august.db):
        invoice = august.sell(august.duo).id
    insta = august.declare(Declaration("instagram", STARTED))
    assert august.give_back(insta) == {invoice: 150}  # 40 % of 3.75
    facebook = august.declare(FACEBOOK_IS_DOWN)
    assert august.give_back(facebook) == {invoice: 225}
    august.retract(facebook, DECLARED)
    assert (august.goodwill(facebook), august.goodwill(insta)) == ({invoice: 225}, {})
    assert nothing_is_planned(august, insta, DECLARED)


def test_an_incident_that_alone_gave_nothing_leaves_goodwill_where_it_made_up_a_cent_of_another(august: August) -> None:
    with building(august.db):
        invoice = august.sell(august.duo, 1).id
    # 200 h of Instagram's two fifths: 0.4 · 200 / 744 = 0.1075 cents are nothing, so it has no run.
    instagram = august.declare(Declaration("instagram", at(3, 16), at(12)))
    assert august.shown(instagram)["runs"] == []
    # 550 h of Facebook's three fifths: 0.4435 cents; together 0.5511.
    assert august.give_back(august.declare(Declaration("facebook", at(3, 16)))) == {invoice: 1}
    august.retract(instagram, DECLARED)
    assert august.goodwill(instagram) == {invoice: 1}


def test_what_another_incident_that_goes_on_has_paid_since_is_no_goodwill(august: August) -> None:
    with building(august.db):
        invoice = august.sell(august.duo).id
    instagram = august.declare(Declaration("instagram", STARTED))
    assert august.give_back(instagram) == {invoice: 150}  # 40 % of 90 h
    facebook = august.declare(Declaration("facebook", STARTED, at(25)), DECLARED)
    assert august.give_back(facebook) == {invoice: 130}  # 60 % of 52 h, which are 1.30, although Instagram had 1.50
    august.change(facebook, DECLARED, ended_at=at(24, 8))  # 36 h: 0.90
    assert (august.goodwill(facebook), august.give_back(facebook)) == ({invoice: 40}, {})


def test_what_another_incident_goes_on_taking_and_had_nothing_to_pay_for_is_no_goodwill(
    august: August, invoice: str
) -> None:
    incident = august.declare()
    august.give_back(incident)  # 90 h until 26 August, 14:00: 3.75
    other = august.declare(Declaration("facebook", at(24, 8), impact_bp=5_000), DECLARED)
    assert august.give_back(other) == {}  # half of 54 h that are paid for already
    august.resolve(incident, at=at(24, 8))
    # 36 h are 1.50, the other's 27 h 1.125: together 2.63 of the 3.75.
    assert (august.give_back(incident), august.goodwill(incident)) == ({}, {invoice: 112})
    august.resolve(other, at=DECLARED)
    assert (august.give_back(other), august.goodwill(other)) == ({}, {})


def test_what_another_incident_takes_and_waits_to_pay_for_stays_owed(august: August, invoice: str) -> None:
    incident = august.declare()
    august.give_back(incident)  # 3.75 for the 90 h until 26 August, 14:00
    other = august.declare(Declaration("facebook", at(28), impact_bp=5_000), RESOLVED)  # half of 56 h: 1.17
    august.resolve(incident, at=at(24, 8))  # 36 h: 1.50 of the 3.75
    assert august.goodwill(incident) == {invoice: 225}
    august.resolve(other)
    assert august.give_back(other) == {invoice: 117}


def test_a_retraction_stops_what_has_not_begun(august: August, invoice: str) -> None:
    incident = august.declare()
    august.approve(incident)
    august.retract(incident, DECLARED)
    assert august.grants(incident) == {}
    assert august.goodwill(incident) == {}  # nothing was given
    assert [row.state for row in august.rows("SELECT state FROM steps")] == ["cancelled"]
    assert august.rows("SELECT from_state, to_state FROM step_events") == [("approved", "cancelled")]
    assert august.rows("SELECT approved, sent FROM run_totals") == [(0, 0)]
    assert states(august, incident) == ["planned"]  # and released at the workers' next look
    with pytest.raises(Conflict, match="Nothing of this incident waits"):
        august.approve(incident, "f")


def test_what_is_in_flight_at_a_retraction_ends_known(august: August, invoice: str) -> None:
    with building(august.db):
        other = august.sell().id
    incident = august.declare()
    august.approve(incident)
    with august.db.work(OPERATOR) as session:
        of_invoice = sa.select(Grant.id).where(Grant.invoice_id == invoice).scalar_subquery()
        begun(session, session.scalars(sa.select(Step).where(Step.grant_id == of_invoice)).one())
    august.retract(incident, DECLARED)
    assert {one.invoice_id: one.state for one in august.grants(incident).values()} == {invoice: "sent"}
    assert august.goodwill(incident) == {invoice: 375}
    assert august.rows("SELECT state FROM grants WHERE invoice_id = :one", one=other) == [("cancelled",)]
    assert august.rows("SELECT approved FROM run_totals") == [(375,)]


def begun_and_not_sent(august: August, incident: str) -> None:
    """Its one grant is approved, and Stripe had no room for its one attempt: it is tried again later."""
    august.approve(incident)
    with august.db.work(OPERATOR) as session:
        of_incident = sa.select(Grant.id).where(Grant.incident_id == incident)
        begun(session, session.scalars(sa.select(Step).where(Step.grant_id.in_(of_incident))).one())


def turned_away(august: August, incident: str) -> None:
    """A worker takes up again what waits of the incident, and does not send it."""
    with august.db.work(OPERATOR) as session:
        of_incident = sa.select(Grant.id).where(Grant.incident_id == incident)
        waiting = sa.select(Step).where(Step.grant_id.in_(of_incident), Step.state.in_(("sent", "approved")))
        step = session.scalars(waiting.with_for_update()).one()
        claims.turn_away(session, step, steps.Move("cancelled", "It is not to be sent."))


def came_back(august: August, incident: str) -> None:
    with august.db.work(OPERATOR) as session:
        of_incident = sa.select(Grant.id).where(Grant.incident_id == incident)
        step = session.scalars(sa.select(Step).where(Step.grant_id.in_(of_incident)).with_for_update()).one()
        steps.move(session, step, steps.Move("failed", "The refund came back.", step.stripe_id))


def pays_once(august: August) -> None:
    """Declared again it pays its 90 h, 3.75, and the 90 h until its resolution, 3.75 more: 7.50 for 7.50 owed."""
    again = august.declare()
    given = list(august.give_back(again).values())
    august.resolve(again)
    assert given + list(august.give_back(again).values()) == [375, 375]
    with august.db.work(OPERATOR) as session:
        assert invariants.breaches(session, "I6 nothing is given twice") == []


def test_what_was_in_flight_at_a_retraction_and_never_went_out_is_no_goodwill(august: August, invoice: str) -> None:
    incident = august.declare()
    begun_and_not_sent(august, incident)
    august.retract(incident, DECLARED)
    assert august.goodwill(incident) == {invoice: 375}
    turned_away(august, incident)
    assert august.rows("SELECT amount, highest FROM goodwill") == [(0, 0)]
    pays_once(august)


def test_what_ends_while_a_retraction_is_written_down_is_no_goodwill(august: August, invoice: str) -> None:
    incident = august.declare()
    begun_and_not_sent(august, incident)
    with ThreadPoolExecutor(1) as worker:
        with august.db.work(OPERATOR) as session:
            incidents.retract(session, DECLARED, incident, august.finance, "test", reason="It was our own fault.")
            turning_away = worker.submit(turned_away, august, incident)
            while not (turning_away.done() or waiting(session)):
                wait([turning_away], timeout=0.05)
        turning_away.result()
    assert august.goodwill(incident) == {invoice: 0}
    pays_once(august)


def test_what_came_back_after_a_retraction_is_goodwill_until_it_stays_with_us(august: August, invoice: str) -> None:
    incident = august.declare()
    august.give_back(incident)
    august.retract(incident, DECLARED)
    came_back(august, incident)
    assert august.goodwill(incident) == {invoice: 375}  # on its way to the customer's balance
    turned_away(august, incident)
    assert august.goodwill(incident) == {invoice: 0}
    pays_once(august)


def test_goodwill_that_never_went_out_may_be_of_the_grant_of_another_incident(august: August, invoice: str) -> None:
    incident = august.declare()
    begun_and_not_sent(august, incident)
    half = august.declare(Declaration("facebook", STARTED, impact_bp=5_000), DECLARED)  # 1.88, granted already
    august.retract(incident, DECLARED)
    august.retract(half, DECLARED)
    assert (august.goodwill(incident), august.goodwill(half)) == ({invoice: 187}, {invoice: 188})
    turned_away(august, incident)
    assert (august.goodwill(incident), august.goodwill(half)) == ({invoice: 0}, {invoice: 0})
    pays_once(august)


def test_goodwill_stays_where_a_later_grant_of_another_incident_never_went_out(august: August, invoice: str) -> None:
    incident = august.declare()
    august.give_back(incident)
    august.retract(incident, DECLARED)
    again = august.declare()
    begun_and_not_sent(august, again)
    turned_away(august, again)
    assert august.goodwill(incident) == {invoice: 375}
    august.resolve(again)
    assert august.give_back(again) == {invoice: 750}  # 180 h, in full


def test_what_a_cut_calls_off_is_no_goodwill_of_another_incident(august: August) -> None:
    """90 of 744 h of 31.00 are 3.75, of which 2/5 are Instagram's: 1.50. Of Facebook's 36 h are left: 0.90, once."""
    with building(august.db):
        invoice = august.sell(august.duo).id
    instagram = august.declare(Declaration("instagram", STARTED))
    facebook = august.declare()
    august.approve(facebook)  # for both
    august.retract(instagram, DECLARED)
    assert august.goodwill(instagram) == {invoice: 150}
    august.resolve(facebook, at=at(24, 8))
    assert august.goodwill(instagram) == {invoice: 0}
    assert august.give_back(facebook) == {invoice: 90}
    assert nothing_is_planned(august, facebook)


def test_a_halted_run_of_which_nothing_is_left_is_over(august: August, invoice: str) -> None:
    incident = august.declare()
    august.approve(incident)
    august.rows("UPDATE runs SET state = 'halted' RETURNING id")
    august.retract(incident, DECLARED)
    assert [run["state"] for run in august.shown(incident)["runs"]] == ["done"]


def test_what_was_called_off_is_owed_by_whoever_took_it_as_well(august: August, invoice: str) -> None:
    incident = august.declare()
    august.approve(incident)
    half = august.declare(Declaration("facebook", STARTED, impact_bp=5_000), DECLARED)
    assert august.give_back(half) == {}  # the first one has been approved for all of it
    august.retract(incident, DECLARED)
    assert august.give_back(incident) == {}
    settling.settle_due(house_of(august.db, clock=FixedClock(DECLARED)), 10)
    assert august.give_back(half) == {invoice: 188}  # half of 3.75, half up, that nobody has sent


@pytest.mark.parametrize("approved", [True, False])
def test_nothing_of_another_incident_is_planned_in_the_name_of_a_retracted_one(
    august: August, invoice: str, approved: bool
) -> None:
    half = august.declare(Declaration("facebook", STARTED, impact_bp=5_000))
    given = sum(august.give_back(half).values()) if approved else 0  # half of 3.75, half up: 1.88
    incident = august.declare()
    august.retract(incident, at(27, 14))
    (run,) = [one for one in august.shown(incident)["runs"] if one["purpose"] == "retract"]
    assert (run["state"], run["totals"]) == ("done", [])
    with august.db.work(OPERATOR) as session:
        assert report.report(session, at(27, 14), incident)["money"] == []
    settling.settle_due(house_of(august.db, clock=FixedClock(at(27, 14))), 10)
    # 114 h until the 27th, 14:00, of which half: 2.38 (2.375) in all, once.
    assert given + sum(august.give_back(half).values()) == 238


def test_retracting_what_is_over_and_done_with_has_nobody_plan_anew(august: August, invoice: str) -> None:
    half = august.declare(Declaration("facebook", STARTED, impact_bp=5_000))
    august.give_back(half)
    incident = august.declare()
    august.give_back(incident)
    august.retract(incident, at(27, 14))
    settling.settle_due(house_of(august.db, clock=FixedClock(at(27, 14))), 10)
    assert [run["purpose"] for run in august.shown(half)["runs"]] == ["declare"]


def test_a_cut_calls_off_what_an_approved_run_has_not_begun(august: August, invoice: str) -> None:
    incident = august.declare()
    august.approve(incident)
    august.resolve(incident, at=at(24, 8))
    assert august.give_back(incident) == {invoice: 150}  # 36 h; the 3.75 never left
    assert august.goodwill(incident) == {}


def test_growth_leaves_an_approved_run_alone(august: August, invoice: str) -> None:
    incident = august.declare()
    august.approve(incident)
    august.resolve(incident)
    assert august.give_back(incident) == {invoice: 375}
    amounts = august.rows("SELECT amount, state FROM grants ORDER BY id")
    assert amounts == [(375, "succeeded"), (375, "succeeded")]


def test_a_retracted_outage_can_be_declared_again_and_pays_in_full(august: August, invoice: str) -> None:
    incident = august.declare()
    august.give_back(incident)
    with pytest.raises(AlreadyDeclared):
        august.declare()
    august.retract(incident, DECLARED)
    again = august.declare()
    assert august.give_back(again) == {invoice: 375}  # goodwill is for nothing that a different incident takes


def test_reopened_holds_again_whatever_had_been_let_go(august: August) -> None:
    with building(august.db):
        for _ in range(5):
            august.sell()
    incident = august.declare()
    august.resolve(incident)
    for number, state in enumerate(("released", "cancelled", "left", "releasing", "needs_person")):
        august.rows(
            "UPDATE pauses SET state = :state WHERE id = (SELECT id FROM pauses ORDER BY id OFFSET :n LIMIT 1)"
            " RETURNING id", state=state, n=number,
        )  # fmt: skip
    august.reopen(incident)
    assert states(august, incident) == ["planned", "planned", "planned", "planned", "needs_person"]
    shown = august.shown(incident)
    assert (shown["state"], shown["ended_at"]) == ("declared", None)
    with pytest.raises(Conflict, match="only a resolved one"):
        august.reopen(incident)


def test_reopened_pays_what_was_lost_since(august: August, invoice: str) -> None:
    incident = resolved(august)  # 7.50 until 30 August 08:00
    august.reopen(incident, at(30, 20))
    assert august.give_back(incident) == {invoice: 50}  # 12 h more
    august.resolve(incident, at(31, 20))
    assert august.give_back(incident) == {invoice: 100}  # and 24 h


def test_an_open_invoice_is_stopped_again(august: August) -> None:
    with building(august.db):
        customer = august.customer()
        paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages), status="open")
    incident = august.declare()
    august.rows("UPDATE held_invoices SET state = 'released' RETURNING invoice_id")
    august.resolve(incident)
    august.rows("UPDATE pauses SET state = 'released' RETURNING id")
    august.reopen(incident)
    assert [row.state for row in august.rows("SELECT state FROM held_invoices")] == ["planned"]


def test_another_scope_holds_who_came_and_lets_go_who_went(august: August) -> None:
    with building(august.db):
        other = AgencyFactory(slug="umbra")
        here = august.sell().id
        customer = august.customer(agency=other)
        there = paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages)).id
    incident = august.declare(Declaration("facebook", STARTED, agencies=("acme",)))
    assert august.give_back(incident) == {here: 375}
    august.change(incident, DECLARED, agencies=("umbra",))
    assert august.give_back(incident) == {there: 375}
    assert august.goodwill(incident) == {here: 375}
    assert states(august, incident) == ["cancelled", "planned"]
    august.change(incident, DECLARED, agencies=())
    assert august.shown(incident)["agencies"] is None  # all of them
    assert (august.give_back(incident), august.goodwill(incident)) == ({}, {here: 0})
    assert states(august, incident) == ["planned", "planned"]


def test_what_another_incident_left_to_it_is_lifted_when_its_scope_lets_go(august: August) -> None:
    """The first incident paused it and let go, since the second was to hold on: nobody else would lift that pause."""
    with building(august.db):
        AgencyFactory(slug="umbra")
        august.sell(august.duo)
    first = august.declare()
    august.rows("UPDATE pauses SET state = 'held', attempt_no = 1 RETURNING id")
    second = august.declare(Declaration("instagram", STARTED))
    august.rows(f"UPDATE pauses SET state = 'released' WHERE incident_id = '{first}' RETURNING id")
    assert states(august, second) == ["planned"]
    august.change(second, DECLARED, agencies=("umbra",))
    assert states(august, second) == ["releasing"]


def test_what_waits_gives_way_to_the_difference(august: August, invoice: str) -> None:
    incident = august.declare()
    august.change(incident, DECLARED, started_at=at(22, 8))
    assert [run["state"] for run in august.shown(incident)["runs"]] == ["superseded", "waiting"]
    assert august.give_back(incident) == {invoice: 425}  # 102 h, once


def test_every_decision_is_a_version_with_its_reason_and_an_audit_entry(august: August, invoice: str) -> None:
    incident = resolved(august)
    august.change(incident, ended_at=DECLARED, reason="Their status page says so.")
    august.reopen(incident)
    august.retract(incident, reason="It was our own fault.")
    rows = august.rows("SELECT no, what, ended_at, reason FROM incident_versions ORDER BY no")
    assert [tuple(row) for row in rows] == [
        (1, "declared", None, ""),
        (2, "resolved", RESOLVED, "It ended at 2019-08-30T08:00:00Z."),
        (3, "changed", DECLARED, "Their status page says so."),
        (4, "reopened", None, "It goes on after all."),
        (5, "retracted", None, "It was our own fault."),
    ]
    (entry,) = august.rows(
        "SELECT actor, before, after FROM audit_entries WHERE action = 'incident.changed' AND after ? 'agencies'"
    )
    assert entry.actor == "finance@operator.example"
    assert (entry.before["ended_at"], entry.after["ended_at"]) == ("2019-08-30T08:00:00Z", "2019-08-26T14:00:00Z")
    assert entry.after["reason"] == "Their status page says so."
    told = [update["body"] for update in august.shown(incident)["updates"]]
    assert "whatever you have already had back for it stays yours" in told[0]
    assert "too early" in told[1]
    assert "We have looked again" in told[2]
    assert all("fault" not in words and "status page" not in words for words in told)  # a reason is for the house


def test_a_version_is_never_altered(august: August, invoice: str) -> None:
    august.declare()
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
        august.rows("UPDATE incident_versions SET reason = 'another' RETURNING no")


def test_whoever_changed_it_cannot_approve_what_follows(august: August, invoice: str) -> None:
    with building(august.db):
        both = MemberFactory(email="both@operator.example")
    incident = august.declare()
    august.change(incident, DECLARED, by=both, started_at=at(22, 8))
    with august.db.work(OPERATOR) as session:
        session.get_one(Member, both.id).role = "approver"
        session.flush()
        both = session.get_one(Member, both.id)
    with pytest.raises(NotAllowed, match="You have changed this incident"):
        august.approve(incident, by=both)


@pytest.mark.parametrize(
    ("wanted", "refusal", "sentence"),
    [
        ({"ended_at": at(31)}, Refused, "cannot have ended in the future"),
        ({"ended_at": at(22)}, Refused, "so it cannot have ended"),
        ({"started_at": at(31)}, Refused, "cannot begin in the future"),
        ({"started_at": STARTED}, Refused, "what it says already"),
        ({"agencies": ("nobody",)}, NotFound, "no agency called 'nobody'"),
    ],
)
def test_what_cannot_be_changed_is_one_sentence(
    august: August, invoice: str, wanted: dict[str, object], refusal: type[Refused], sentence: str
) -> None:
    incident = august.declare()
    august.resolve(incident)
    before = august.rows("SELECT count(*) FROM incident_versions")
    with pytest.raises(refusal, match=sentence):
        august.change(incident, **wanted)
    assert august.rows("SELECT count(*) FROM incident_versions") == before


def test_an_open_incident_is_resolved_not_cut(august: August, invoice: str) -> None:
    incident = august.declare()
    with pytest.raises(Conflict, match="resolve it, and say that it ended at 2019-08-25"):
        august.change(incident, ended_at=at(25))


def test_after_a_retraction_there_is_nothing_to_think_about(august: August, invoice: str) -> None:
    incident = august.declare()
    with pytest.raises(BadRequest, match="Say why"):
        august.retract(incident, reason=" ")
    august.retract(incident)
    for think_again in (august.retract, august.reopen, august.resolve):
        with pytest.raises(Conflict, match="retracted"):
            think_again(incident)
    with pytest.raises(Conflict, match="Declare a new one"):
        august.change(incident, started_at=at(22))


def test_growing_into_another_incident_is_refused(august: August, invoice: str) -> None:
    incident = august.declare(Declaration("facebook", at(2), at(3)), DECLARED)
    other = august.declare()
    with pytest.raises(AlreadyDeclared, match=other):
        august.change(incident, ended_at=at(25))


@pytest.mark.parametrize("role", ["approver", "auditor", "agency-admin"])
def test_only_finance_thinks_again(august: August, invoice: str, role: str) -> None:
    with building(august.db):
        agency = august.agency.id if role.startswith("agency") else None
        person = MemberFactory(role=role, agency_id=agency)
    incident = august.declare()
    for think_again in (
        lambda session: incidents.change(
            session, RESOLVED, incident, incidents.Change(impact_bp=1), person, "test", reason="r"
        ),
        lambda session: incidents.reopen(session, RESOLVED, incident, person, "test"),
        lambda session: incidents.retract(session, RESOLVED, incident, person, "test", reason="r"),
        lambda session: incidents.resolve(session, RESOLVED, incident, person, "test"),
    ):
        with pytest.raises(NotAllowed, match=role), august.db.work(OPERATOR) as session:
            think_again(session)


def test_an_agency_thinks_again_about_its_own_incident_alone(august: August, invoice: str) -> None:
    with building(august.db):
        theirs = MemberFactory(role="agency-finance", agency_id=august.agency.id)
    with august.db.work(OPERATOR) as session:
        own = incidents.declare(
            session, DECLARED, Declaration("facebook", STARTED, agencies=("acme",)), theirs, "test"
        ).id
    everybodys = august.declare(Declaration("facebook", STARTED, impact_bp=5_000))
    august.change(own, DECLARED, by=theirs, started_at=at(22, 8))
    with pytest.raises(NotAllowed, match="operator's finance"):
        august.change(everybodys, DECLARED, by=theirs, started_at=at(22, 8))
    with pytest.raises(NotAllowed, match="Which agencies"):
        august.change(own, DECLARED, by=theirs, agencies=())
    with august.db.work(OPERATOR) as session:
        assert session.get_one(Incident, own).started_at == at(22, 8)


@dataclass
class Two:
    """An incident over two agencies, with 3.75 owed in each."""

    incident: str
    here: str
    there: str


@pytest.fixture
def two(august: August) -> Two:
    with building(august.db):
        here = august.sell().id
        customer = august.customer(agency=AgencyFactory(slug="umbra"))
        there = paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages)).id
    return Two(august.declare(), here, there)


def of_agency(august: August, incident: str, slug: str) -> dict[str, Any]:
    (found,) = [one for one in august.shown(incident)["by_agency"] if one["agency"] == slug]
    return found


def approve_alone(august: August, two: Two, slug: str, fingerprint: str) -> None:
    with august.db.work(OPERATOR) as session:
        approvals.approve(session, DECLARED, two.incident, august.approver, fingerprint, "test", agencies=[slug])


def test_one_agency_is_approved_alone_and_the_other_goes_on_waiting(august: August, two: Two) -> None:
    acme, umbra = (of_agency(august, two.incident, slug) for slug in ("acme", "umbra"))
    assert (acme["state"], umbra["state"], acme["planned"]) == ("waiting", "waiting", 1)
    assert len({acme["fingerprint"], umbra["fingerprint"], august.shown(two.incident)["fingerprint"]}) == 3
    with pytest.raises(PlanChanged, match=umbra["fingerprint"]):
        approve_alone(august, two, "umbra", acme["fingerprint"])
    approve_alone(august, two, "umbra", umbra["fingerprint"])
    assert {run["agency"]: run["state"] for run in august.shown(two.incident)["runs"]} == {
        "acme": "waiting", "umbra": "running",
    }  # fmt: skip
    shown = august.shown(two.incident)
    assert shown["fingerprint"] == acme["fingerprint"]  # what is left to approve is acme's
    assert [total["amount"] for total in shown["waiting_totals"]] == [375]
    assert [total["amount"] for total in shown["totals"]] == [750]
    assert august.give_back(two.incident) == {two.here: 375}


def test_what_changed_in_one_agency_stops_nobody_else(august: August, two: Two) -> None:
    acme, umbra = (of_agency(august, two.incident, slug)["fingerprint"] for slug in ("acme", "umbra"))
    with building(august.db):
        august.sell()  # one more that acme owes
    approve_alone(august, two, "umbra", umbra)
    with pytest.raises(PlanChanged):
        approve_alone(august, two, "acme", acme)
    assert [total["amount"] for total in of_agency(august, two.incident, "acme")["totals"]] == [750]


def test_an_agency_that_is_not_there_cannot_be_approved(august: August, two: Two) -> None:
    with pytest.raises(NotFound, match="no agency called 'nobody'"):
        approve_alone(august, two, "nobody", "f")


def test_goodwill_that_an_incident_has_used_up_is_given_no_second_time_by_another(august: August) -> None:
    with building(august.db):
        invoice = august.sell().id
    first = august.declare()
    assert august.give_back(first) == {invoice: 375}
    # 24th 20:00 to 26th 14:00 are 42 h: 31.00 · 42 / 744 = 1.75, so 2.00 were given for nothing.
    august.change(first, DECLARED, started_at=at(24, 20))
    assert august.goodwill(first) == {invoice: 200}
    # It goes on, and to the 28th 14:00 it is 90 h again: the 3.75 are paid. Half of 12 of these hours is nothing more.
    second = august.declare(Declaration("facebook", at(28, 2), impact_bp=5_000), at(28, 14))
    assert august.give_back(second) == {}
    august.resolve(second, at(28, 14))
    assert august.give_back(second) == {}
    august.resolve(first, at(28, 14))
    assert august.give_back(first) == {}
    assert august.goodwill(first) == {invoice: 0}
    assert august.goodwill(second) == {}


def test_of_goodwill_another_incident_counts_what_the_first_has_not_used_up_yet(august: August) -> None:
    with building(august.db):
        invoice = august.sell(august.duo).id
    first = august.declare()
    # 31.00 · 90 / 744 · 0.6 = 2.25.
    assert august.give_back(first) == {invoice: 225}
    # 42 h are 1.05: 1.20 were given for nothing.
    august.change(first, DECLARED, started_at=at(24, 20))
    assert august.goodwill(first) == {invoice: 120}
    # 16 h more of it are 0.40. Instagram's 8 h of two fifths: 31.00 · 8 / 744 · 0.4 = 0.1333…, with 1.45 1.5833…; what
    # was given and not for nothing is then 2.25 − (1.20 − 0.40) = 1.45, so 1.58 − 1.45 = 0.13 are owed for it.
    second = august.declare(Declaration("instagram", at(26, 22)), at(27, 6))
    assert august.give_back(second) == {invoice: 13}
    august.resolve(first, at(27, 6))
    # 2.25 + 0.13 − 1.58.
    assert august.give_back(first) == {}
    assert august.goodwill(first) == {invoice: 80}


def test_of_growth_beyond_its_goodwill_nothing_is_held_against_another_incident(august: August) -> None:
    with building(august.db):
        invoice = august.sell(august.duo).id
    first = august.declare()
    assert august.give_back(first) == {invoice: 225}
    august.change(first, DECLARED, started_at=at(24, 20))
    assert august.goodwill(first) == {invoice: 120}
    # 72 h more of it are 1.80, more than the 1.20; 114 h in all are 2.85. Instagram's 8 h are 0.1333…: 2.98 together,
    # of which all 2.25 that were given count.
    second = august.declare(Declaration("instagram", at(29, 6)), at(29, 14))
    assert august.give_back(second) == {invoice: 73}


def test_an_incident_that_begins_as_its_goodwill_is_worked_out_uses_it_up_from_then_on(
    august: August, invoice: str
) -> None:
    first = august.declare()
    assert august.give_back(first) == {invoice: 375}
    august.change(first, DECLARED, started_at=DECLARED)
    assert august.goodwill(first) == {invoice: 375}
    # 48 h of it are 2.00, which are paid: half of 12 of them is nothing more.
    second = august.declare(Declaration("facebook", at(28, 2), impact_bp=5_000), at(28, 14))
    assert august.give_back(second) == {}


@pytest.mark.parametrize(
    ("successor", "sentence"),
    [
        ({"active": False}, "is archived in Stripe"),
        ({"agency": "elm"}, "is not sold on the Stripe account of price_duo"),
    ],
)
def test_a_successor_that_stripe_would_refuse_is_refused_when_it_is_asked_for(
    august: August, successor: dict[str, Any], sentence: str
) -> None:
    """Else each of those who have the plan would wait for a person."""
    with building(august.db):
        august.sell(august.duo)
        if "agency" in successor:
            successor = {"agency_id": AgencyFactory(slug="elm", stripe_account="acct_elm").id}
        PlanFactory(id="price_other", weights={august.instagram: 10_000}, **successor)
    incident = august.declare()
    with pytest.raises(BadRequest, match=sentence), august.db.work(OPERATOR) as session:
        incidents.retire(
            session, RESOLVED, incident, august.finance, "test", reason="Gone for good.",
            moves={"price_duo": "price_other"},
        )  # fmt: skip


def test_every_plan_that_needs_a_successor_is_named_at_once(august: August) -> None:
    with building(august.db):
        august.sell(august.duo)
        august.sell(PlanFactory(id="price_trio", weights={august.facebook: 2_000, august.instagram: 3_000}))
        august.sell(august.pages)  # lives on Facebook alone: it ends
        PlanFactory(id="price_photos", weights={august.instagram: 10_000})
    incident = august.declare()

    def refused(moves: dict[str, str]) -> str:
        with pytest.raises(BadRequest) as refusal, august.db.work(OPERATOR) as session:
            incidents.retire(
                session, RESOLVED, incident, august.finance, "test", reason="Gone for good.", moves=moves
            )  # fmt: skip
        return str(refusal.value)

    both = refused({})
    assert "each of 2 plans" in both
    assert ": --move price_duo=PLAN --move price_trio=PLAN. " in both
    assert "takes the place of price_trio, as" in refused({"price_duo": "price_photos"})


def test_a_platform_of_which_half_was_left_is_given_up_by_an_incident_that_takes_all_of_it(
    august: August, invoice: str
) -> None:
    """Half of the 84 h until 26 August 08:00, and all of the 136 h from then to the end of August, are 178 h: 7.4167.
    By the first alone whoever is cancelled would have had back half of all 220 h: 4.58."""
    half = august.declare(replace(FACEBOOK_IS_DOWN, impact_bp=5_000))
    with pytest.raises(Conflict, match="only a part"), august.db.work(OPERATOR) as session:
        incidents.retire(session, RESOLVED, half, august.finance, "test", reason="Gone for good.")
    assert august.give_back(half) == {invoice: 188}  # 45 h of 90 so far: 1.875
    whole = august.declare(replace(FACEBOOK_IS_DOWN, started_at=at(26, 8)))
    with august.db.work(OPERATOR) as session:
        incidents.retire(session, RESOLVED, whole, august.finance, "test", reason="Gone for good.")
    assert august.give_back(whole) == {invoice: 742 - 188}


@pytest.mark.parametrize(
    ("row", "as_before"),
    [
        ({"state": "planned"}, True),
        ({"state": "planned", "attempt_no": 1}, False),  # it may have gone through
        ({"state": "done", "attempt_no": 1, "done_at": RESOLVED}, False),
        ({"state": "done", "attempt_no": 1, "done_at": RESOLVED, "reason": "It is no longer there."}, True),
        ({"state": "needs_person", "attempt_no": 1, "reason": "Stripe refused."}, True),
        ({"state": "needs_person", "attempt_no": 2, "lease_until": sa.func.now() + LEASE}, False),
    ],
)
def test_a_retraction_says_that_what_has_ended_or_moved_meanwhile_stays_so(
    august: August, invoice: str, row: dict[str, Any], as_before: bool
) -> None:
    incident = august.declare()
    with august.db.work(OPERATOR) as session:
        incidents.retire(session, RESOLVED, incident, august.finance, "test", reason="Gone for good.")
        session.execute(sa.update(Retirement).values(**row))
    august.retract(incident)
    said = august.rows("SELECT body FROM updates ORDER BY id DESC")[0].body
    assert ("Billing goes on as before, and whatever you have" in said) is as_before
    assert ("what we had ended or moved to another plan by then stays so" in said) is not as_before
