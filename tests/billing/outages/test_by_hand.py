"""What people paid back because Stripe could not: noted once, by finance, and the grant is then given."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import DBAPIError

from billing.errors import BadRequest, Conflict, NotAllowed, NotFound, Refused
from billing.outages import by_hand, desk, grants, steps
from billing.outages.journal import ALLOWANCES, OUTSIDE, STRIPE, postings
from billing.outages.models import Grant, HandPayment, Incident, RunTotal, Step
from billing.outages.report import documents, report
from tenants import audit
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Member
from tests.billing.outages.august import DECLARED
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.databases import waiting
from tests.factories import MemberFactory, building
from tests.web import app_of, browser, house_of, link_for, send

NOTE = "Bank transfer 4711"


@pytest.fixture
def finance(world: Approved) -> Member:
    with building(world.database):
        return MemberFactory(email="books@operator.example")


@pytest.fixture
def outside(world: Approved, house: House) -> int:
    """A grant of 7.00 of an invoice that was paid outside Stripe, its note made."""
    grant_id = unsent(world)
    grants.send_due(house, 10)
    return grant_id


def unsent(world: Approved) -> int:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (5_800,))
        grant = world.grant(session, n, out_of_band=700)
        world.step(session, grant)
    return grant.id


def noted(world: Approved, grant_id: int, by: Member, note: str = NOTE) -> None:
    with world.database.work(OPERATOR) as session:
        by_hand.record(session, DECLARED, grant_id, by, note, "test")


def tried_again(world: Approved, grant_id: int, by: Member) -> None:
    with world.database.work(OPERATOR) as session:
        by_hand.retry(session, grant_id, by, "It is not in the dashboard.", "test")


@pytest.mark.parametrize("act", [noted, tried_again])
def test_a_person_locks_in_the_order_in_which_workers_do(
    world: Approved, finance: Member, act: Callable[[Approved, int, Member], None]
) -> None:
    """A worker that has a step, and wants its grant, would else end one of the two as a deadlock."""
    grant_id = unsent(world)
    with ThreadPoolExecutor(1) as person:
        with world.database.work(OPERATOR) as worker:
            step = worker.scalars(sa.select(Step).where(Step.grant_id == grant_id).with_for_update()).one()
            acting = person.submit(act, world, grant_id, finance)
            while not (acting.done() or waiting(worker)):
                wait([acting], timeout=0.05)
            steps.move(worker, step, steps.Move("needs_person", "Stripe says no."))
        if act is tried_again:
            acting.result()
            assert world.seen(Step, step.id).state == "approved"
        else:
            with pytest.raises(Conflict, match="waits for something else first: Stripe says no"):
                acting.result()


def test_what_was_paid_by_hand_is_given(world: Approved, outside: int, finance: Member) -> None:
    noted(world, outside, finance)
    assert world.seen(Grant, outside).state == "succeeded"
    with world.database.work(OPERATOR) as session:
        (payment,) = session.query(HandPayment)
        assert (payment.amount, payment.currency, payment.note, payment.paid_at) == (700, "usd", NOTE, DECLARED)
        assert by_hand.waiting(session)["grants"] == []
        assert audit.breaks(session) == {}


def test_a_refund_that_came_back_of_a_customer_who_left_is_paid_by_hand(
    world: Approved, house: House, stripe: SmallStripe, finance: Member
) -> None:
    world.refund_of(1_200, status="canceled")
    stripe.refund_status = "failed"
    while grants.send_due(house, 10):
        pass
    with world.database.work(OPERATOR) as session:
        (one,) = by_hand.waiting(session)["grants"]
    assert (one["amount"], one["by_hand"]) == (1_200, 1_200)
    noted(world, one["id"], finance)
    assert world.seen(Grant, one["id"]).state == "succeeded"


def taken_by_others(world: Approved, house: House, stripe: SmallStripe, *step_ids: int) -> int:
    """Others take 1.00 of the payments of these steps, then all is sent that may be. Returns the grant."""
    steps = [world.seen(Step, step_id) for step_id in step_ids]
    for step in steps:
        stripe._refund(step.payment_id.replace("inpay", "pi"), 100, {})
    while grants.send_due(house, 10):
        pass
    return int(steps[0].grant_id)


def balances(world: Approved) -> dict[str, int]:
    with world.database.work(OPERATOR) as session:
        found: Counter[str] = Counter()
        for one in postings(documents(session, world.incident_id), world.incident_id):
            found[one.account] += one.debit - one.credit
        return {account: left for account, left in found.items() if left}


def test_a_refund_that_the_changed_plan_stops_after_another_went_out_is_paid_by_hand(
    world: Approved, house: House, stripe: SmallStripe, finance: Member
) -> None:
    # 20.00 of one payment are out; 5.00 of another are not sent, as 29.00 of its 30.00 are left: a person pays those.
    (_, second), note = world.refund_over((2_000, 2_000), (3_000, 500))
    grants.send_due(house, 1)
    grant_id = taken_by_others(world, house, stripe, second)
    with world.database.work(OPERATOR) as session:
        found = by_hand.waiting(session)
    assert [(one["amount"], one["by_hand"]) for one in found["grants"]] == [(2_500, 500)]
    assert "25.00 USD, of which 5.00 USD by hand" in by_hand.in_words(found)[0]
    noted(world, grant_id, finance)
    while grants.send_due(house, 10):
        pass
    (made,) = stripe.notes
    assert [link["amount_refunded"] for link in made["refunds"]] == [2_000]
    assert (made["total"], made["out_of_band_amount"]) == (2_500, 500)
    assert (world.seen(Step, second).state, world.seen(Step, note).state) == ("cancelled", "succeeded")
    grant = world.seen(Grant, grant_id)
    assert (grant.state, grant.amount, grant.refund, grant.out_of_band) == ("succeeded", 2_500, 2_000, 500)
    with world.database.work(OPERATOR) as session:
        assert [paid.amount for paid in session.query(HandPayment)] == [500]
        assert session.query(RunTotal).one().sent == 2_500
        (money,) = report(session, DECLARED, world.incident_id)["money"]
    assert (money["refunded"], money["paid_by_hand"], money["given"], money["for_a_person"]) == (2_000, 500, 2_500, 0)
    assert balances(world) == {ALLOWANCES: 2_500, STRIPE: -2_000, OUTSIDE: -500}


def test_what_was_paid_by_hand_stays_when_the_other_refund_comes_back(
    world: Approved, house: House, stripe: SmallStripe, finance: Member
) -> None:
    # 20.00 fail and fall back, as a grant of their own; the note is about the 5.00 that a person paid.
    (_, second), _ = world.refund_over((2_000, 2_000), (3_000, 500))
    stripe.refund_status = "failed"
    grants.send_due(house, 1)
    stripe.refund_status = "succeeded"
    grant_id = taken_by_others(world, house, stripe, second)
    noted(world, grant_id, finance)
    while grants.send_due(house, 10):
        pass
    assert [(one["total"], one["out_of_band_amount"], one["refunds"]) for one in stripe.notes] == [(500, 500, [])]
    grant = world.seen(Grant, grant_id)
    assert (grant.channel, grant.state, grant.amount, grant.refund) == ("manual", "succeeded", 500, 0)


def test_what_was_paid_by_hand_is_on_the_note_although_its_incident_was_retracted_meanwhile(
    world: Approved, house: House, stripe: SmallStripe, finance: Member
) -> None:
    # 20.00 by a refund and 5.00 by hand are with the customer: the note gives nothing itself.
    (_, second), _ = world.refund_over((2_000, 2_000), (3_000, 500))
    grants.send_due(house, 1)
    grant_id = taken_by_others(world, house, stripe, second)
    noted(world, grant_id, finance)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(state="retracted"))
    while grants.send_due(house, 10):
        pass
    assert [(one["total"], one["out_of_band_amount"]) for one in stripe.notes] == [(2_500, 500)]
    grant = world.seen(Grant, grant_id)
    assert (grant.state, grant.amount, grant.refund, grant.out_of_band) == ("succeeded", 2_500, 2_000, 500)


def test_what_was_noted_of_a_grant_is_not_noted_again_for_a_third_payment(
    world: Approved, house: House, stripe: SmallStripe, finance: Member
) -> None:
    (_, second, third), _ = world.refund_over((2_000, 2_000), (3_000, 500), (4_000, 700))
    grants.send_due(house, 1)
    grant_id = taken_by_others(world, house, stripe, second, third)
    noted(world, grant_id, finance)
    while grants.send_due(house, 10):
        pass
    assert world.seen(Step, third).state == "needs_person"
    with world.database.work(OPERATOR) as session:
        assert [one["by_hand"] for one in by_hand.waiting(session)["grants"]] == [0]
    with pytest.raises(Conflict, match="waits for something else first"):
        noted(world, grant_id, finance)


def test_a_refund_that_stripe_refuses_is_not_noted_as_paid(
    world: Approved, house: House, stripe: SmallStripe, finance: Member
) -> None:
    """It may be tried again: then it would be given twice."""
    (_, second), _ = world.refund_over((2_000, 2_000), (3_000, 500))
    grants.send_due(house, 1)
    stripe.spoil("POST", "/v1/refunds", "refused:something_new")
    while grants.send_due(house, 10):
        pass
    assert world.seen(Step, second).state == "needs_person"
    with world.database.work(OPERATOR) as session:
        assert [one["by_hand"] for one in by_hand.waiting(session)["grants"]] == [0]
    with pytest.raises(Conflict, match="nothing of it waits"):
        noted(world, world.seen(Step, second).grant_id, finance)


@pytest.mark.parametrize(
    ("note", "role", "error"),
    [
        ("", "finance", BadRequest),
        ("x" * 501, "finance", BadRequest),
        ("a\u202eb", "finance", BadRequest),
        (NOTE, "approver", NotAllowed),
        (NOTE, "auditor", NotAllowed),
    ],
)
def test_what_cannot_be_noted_changes_nothing(
    world: Approved, outside: int, note: str, role: str, error: type[Refused]
) -> None:
    with building(world.database):
        by = MemberFactory(role=role)
    with pytest.raises(error):
        noted(world, outside, by, note)
    assert world.seen(Grant, outside).state == "needs_person"
    with world.database.work(OPERATOR) as session:
        assert session.query(HandPayment).count() == 0


def test_nothing_is_noted_twice_nor_where_nothing_waits(
    world: Approved, house: House, outside: int, finance: Member
) -> None:
    noted(world, outside, finance)
    with pytest.raises(Conflict, match="nothing of it waits"):
        noted(world, outside, finance)
    with pytest.raises(NotFound):
        noted(world, 10**9, finance)


def test_a_note_stands_for_good(world: Approved, outside: int, finance: Member) -> None:
    noted(world, outside, finance)
    with pytest.raises(DBAPIError), world.database.work(OPERATOR) as session:
        session.query(HandPayment).update({"amount": 1})


def test_the_desk_shows_what_waits_and_takes_the_note(world: Approved, outside: int, finance: Member) -> None:
    house = house_of(world.database)
    app: Flask = app_of(house, desk.blueprint)
    client = browser(app, link_for(house, finance))
    page = client.get("/console/desk").text
    assert "7.00 USD of this invoice was paid outside Stripe" in page
    assert send(client, "/console/desk", f"/console/desk/grants/{outside}/paid", {"note": NOTE}).status_code == 303
    assert "Nothing waits for a person" in client.get("/console/desk").text
    assert world.seen(Grant, outside).state == "succeeded"
