"""What keeps a step from being sent once it was approved: disputes, money that others gave back, freezes, lost leases.
Amounts in cents."""

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.gateway import Gateway
from billing.models import CreditNote, Dispute, Payment
from billing.outages import by_hand, claims, freezing, funding, grants, switch
from billing.outages.decisions import Settlement
from billing.outages.findings import Shortage
from billing.outages.models import Attempt, Grant, Step
from billing.outages.verdicts import DISPUTE_GOES_ON
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Member
from tests.billing.outages.rows import DECLARED, STARTED, Approved
from tests.billing.outages.small_stripe import SmallStripe

NOTES = "/v1/credit_notes"


def number_of(world: Approved, step_id: int) -> str:
    """Of the customer, invoice and payment that a step is for."""
    return str(world.seen(Grant, world.seen(Step, step_id).grant_id).invoice_id.removeprefix("in_"))


def credit_of(world: Approved, amount: int, *, captured: int = 5_800) -> int:
    """A note that goes to the customer's balance: nothing of it is a refund."""
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, captured, (captured,))
        grant = world.grant(session, n, credit=amount)
        grant.elsewhere = 0
        return world.step(session, grant).id


def planned_again(world: Approved) -> bool:
    with world.database.work(OPERATOR) as session:
        due = sa.select(Settlement.due_at).where(Settlement.incident_id == world.incident_id)
        return session.scalars(due).all() == [STARTED]


def by_finance(world: Approved, session: Session) -> Member:
    return session.scalars(sa.select(Member).where(Member.role == "finance")).one()


# A plan that no longer holds is made anew


def test_what_others_took_of_the_payment_is_planned_again(world: Approved, house: House, stripe: SmallStripe) -> None:
    """Also where the incident is over and no other run is to come."""
    step_id = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(elsewhere=300))
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, planned_again(world)) == ("cancelled", True)


@pytest.mark.breaks("payments count what steps took")
def test_what_has_no_room_left_is_planned_again(world: Approved, house: House) -> None:
    world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(refunded=5_000))
    grants.send_due(house, 10)
    assert planned_again(world)


def test_what_was_sent_is_not_planned_again(world: Approved, house: House) -> None:
    world.refund_of(1_200)
    grants.send_due(house, 10)
    assert not planned_again(world)


# Others give back before we do


def test_a_refund_by_hand_after_an_attempt_that_never_arrived_is_seen(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """The mirror has heard of it: 3.00 of 58.00 went back by hand, and the plan's 12.00 did not know of it."""
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "limited")
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(elsewhere=300))
    world.due_now()
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.posts(NOTES))) == ("cancelled", 1)
    assert planned_again(world)
    payment = world.seen(Payment, world.seen(Step, step_id).payment_id)
    assert (payment.reserved, payment.refunded) == (0, 0)


def test_a_refund_by_hand_that_the_mirror_has_not_heard_of_is_looked_for_once_an_attempt_has_rested(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "limited")
    grants.send_due(house, 10)
    stripe._refund(f"pi_{number_of(world, step_id)}_1", 300, {})
    world.ago(timedelta(minutes=2))
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.posts(NOTES))) == ("cancelled", 1)


def test_an_attempt_that_nobody_gave_back_meanwhile_goes_out_again(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(5_000)  # of 58.00: its room is taken already, and is not taken twice
    stripe.spoil("POST", NOTES, "limited")
    grants.send_due(house, 10)
    world.ago(timedelta(minutes=2))
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.refunds)) == ("succeeded", 1)


def test_a_refund_by_hand_cancels_a_credit_for_the_same_invoice(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = credit_of(world, 1_200)
    stripe._refund(f"pi_{number_of(world, step_id)}_1", 300, {})  # the mirror has not heard of it
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, planned_again(world)) == ("cancelled", True)
    assert not stripe.posts(NOTES)


def test_a_credit_note_by_hand_cancels_what_the_plan_gives_for_its_invoice(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = credit_of(world, 1_200)
    n = number_of(world, step_id)
    with world.database.work(OPERATOR) as session:
        session.add(
            CreditNote(
                agency_id=world.agency_id, id="cn_by_hand", invoice_id=f"in_{n}", customer_id=f"cus_{n}", number="1",
                status="issued", currency="usd", total=300, pre_payment_amount=0, post_payment_amount=300, refunded=0,
                credited=300, out_of_band=0, created_at=DECLARED,
            )
        )  # fmt: skip
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.posts(NOTES))) == ("cancelled", 0)
    assert "gave back 300 of this invoice where the plan had seen 0" in world.seen(Step, step_id).reason


def test_a_credit_that_nobody_else_gave_goes_out(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = credit_of(world, 1_200)
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, stripe.notes[0]["total"]) == ("succeeded", 1_200)


def test_a_payment_given_back_at_the_last_moment_leaves_the_credit_of_its_note_owed(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """8.00 of 58.00 to the card and 4.00 to the balance: all of the card's was given back by hand, the 4.00 was not."""
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (5_800,))
        grant = world.grant(session, n, refund=800, credit=400)
        step_id = world.step(session, grant, payment_id=f"inpay_{n}_1", available=5_800).id

    def by_hand(request: object) -> None:
        if getattr(request, "path", "") == "/v1/refunds":
            stripe.before_answering = lambda request: None
            stripe._refund(f"pi_{n}_1", 5_800, {})

    stripe.before_answering = by_hand  # once our look at the payment was answered
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, planned_again(world)) == ("cancelled", True)
    payment = world.seen(Payment, f"inpay_{n}_1")
    assert (payment.elsewhere, payment.reserved, payment.refunded) == (5_800, 0, 0)


# Disputes


def test_a_refusal_that_is_written_after_its_dispute_ended_is_asked_about_the_next_day(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """The event of the end came while the step was on its way, when there was nothing to unblock."""
    step_id = world.refund_of(1_200)
    intent = f"pi_{number_of(world, step_id)}_1"
    stripe.spoil("POST", NOTES, "refused:charge_disputed")
    stripe.dispute(intent, 5_800)
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, world.seen(Step, step_id).reason) == ("blocked", DISPUTE_GOES_ON)
    assert grants.send_due(house, 10) == 0
    world.due_now()
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "blocked"
    stripe.dispute(intent, 5_800, "won")
    assert grants.send_due(house, 10) == 0  # not before the day is over
    world.due_now()
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.refunds)) == ("succeeded", 1)
    assert world.seen(Dispute, intent.replace("pi", "dp")).status == "won"


def test_what_waits_for_a_dispute_is_due_work_although_nothing_else_is(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "refused:charge_disputed")
    grants.send_due(house, 10)
    assert (world.due_in() or timedelta(0)) > timedelta(hours=23)


def test_a_dispute_that_was_lost_has_given_the_payment_back(world: Approved, house: House, stripe: SmallStripe) -> None:
    """Stripe refuses to refund it for ever."""
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "refused:charge_disputed")
    stripe.dispute(f"pi_{number_of(world, step_id)}_1", 5_800, "lost")  # the mirror has not heard of it
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.state, step.reason) == ("given_elsewhere", "Somebody gave this payment back already.")


def test_what_waited_for_a_dispute_that_is_lost_is_planned_anew_and_not_sent(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    intent = f"pi_{number_of(world, step_id)}_1"
    stripe.spoil("POST", NOTES, "refused:charge_disputed")
    stripe.dispute(intent, 5_800)
    grants.send_due(house, 10)
    stripe.dispute(intent, 5_800, "lost")
    world.due_now()
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.posts(NOTES))) == ("cancelled", 1)
    assert planned_again(world)


def test_a_dispute_that_was_lost_over_a_part_leaves_the_rest_to_a_person(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    intent = f"pi_{number_of(world, step_id)}_1"
    stripe.spoil("POST", NOTES, "refused:charge_disputed")
    stripe.dispute(intent, 5_000, "lost")  # 58.00 were paid: 8.00 are left for 12.00
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.state, step.reason) == ("needs_person", "Only 800 of 1200 can be refunded still.")


def test_a_credit_for_a_disputed_invoice_waits_and_goes_out_when_the_dispute_is_won(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = credit_of(world, 1_200)
    intent = f"pi_{number_of(world, step_id)}_1"
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(dispute_open=True))
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.posts(NOTES))) == ("blocked", 0)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(dispute_open=False))
        grants.unblock(session, intent, None)
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"


def test_the_end_of_a_dispute_leaves_alone_what_waits_for_something_else(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    n = number_of(world, step_id)
    with world.database.work(OPERATOR) as session:
        freezing.freeze(session, [(world.agency_id, f"in_{n}", "our books differ")])
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        grants.unblock(session, f"pi_{n}_1", None)
    assert (world.seen(Step, step_id).state, world.seen(Step, step_id).reason) == ("blocked", freezing.WAITS)


# Freezes


@pytest.mark.parametrize("how", ["limited", "lost_before"])
def test_what_is_frozen_after_an_attempt_is_not_sent_again_until_a_person_has_looked(
    world: Approved, house: House, stripe: SmallStripe, how: str
) -> None:
    step_id = world.refund_of(1_200)
    invoice = f"in_{number_of(world, step_id)}"
    stripe.spoil("POST", NOTES, how)
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        freezing.freeze(session, [(world.agency_id, invoice, "our books differ")])
    world.due_now()
    grants.send_due(house, 10)
    assert (len(stripe.posts(NOTES)), len(stripe.refunds)) == (1, 0)
    assert world.seen(Step, step_id).state == {"limited": "blocked", "lost_before": "unknown"}[how]
    with world.database.work(OPERATOR) as session:
        freezing.lift(session, invoice, by_finance(world, session), "looked", "cli")
    world.due_now()
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.refunds)) == ("succeeded", 1)


def test_a_person_who_tries_again_does_not_pass_by_what_others_gave_back(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "refused:something_new")
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "needs_person"
    stripe._refund(f"pi_{number_of(world, step_id)}_1", 300, {})
    world.ago(timedelta(minutes=2))
    grant_id = world.seen(Step, step_id).grant_id
    with world.database.work(OPERATOR) as session:
        by_hand.retry(session, grant_id, by_finance(world, session), "looked", "cli")
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.posts(NOTES))) == ("cancelled", 1)


# Leases


@pytest.mark.parametrize("lost", ["to another", "to time"])
def test_a_worker_that_stalled_until_its_lease_was_lost_sends_nothing(
    world: Approved, house: House, stripe: SmallStripe, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    step_id = world.refund_of(1_200)
    begin = claims.begin

    def stalled(session: Session, *args: object) -> object:
        sent = begin(session, *args)  # type: ignore[arg-type]
        assert sent is not None
        return replace(sent, seen_on=sent.seen_on - switch.FRESH)

    monkeypatch.setattr(claims, "begin", stalled)
    may_leave = claims.may_leave

    def too_late(session: Session, sent: claims.Sent) -> bool:
        if lost == "to another":
            session.execute(sa.update(Step).values(attempt_no=Step.attempt_no + 1))
        else:
            session.execute(sa.update(Step).values(lease_until=sa.func.now() - timedelta(seconds=1)))
        return may_leave(session, sent)

    monkeypatch.setattr(claims, "may_leave", too_late)
    grants.send_due(house, 1)
    assert not stripe.posts(NOTES)
    with world.database.work(OPERATOR) as session:
        assert session.scalars(sa.select(Attempt.outcome).where(Attempt.step_id == step_id)).all() == ["stopped"]


@pytest.mark.parametrize(
    ("balance", "hours", "state"),
    [
        ({"eur": 1}, 1, "succeeded"),
        ({"eur": 1}, 0, "approved"),
        ({"eur": 0}, 1, "approved"),
        ({"eur": 1_000, "usd": 499}, 1, "approved"),
        ({"eur": 0, "usd": 500}, 0, "succeeded"),
    ],
)
def test_a_balance_in_another_currency_is_tried_once_an_hour_and_one_in_its_own_says_what_it_carries(
    balance: dict[str, int],
    hours: int,
    state: str,
    world: Approved,
    house: House,
    stripe: SmallStripe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5.00 USD wait since a refund failed; nobody here knows how many euros they are."""
    step = world.refund_of(500)
    with world.database.work(OPERATOR) as session:
        now = sa.func.clock_timestamp()
        since = now - timedelta(hours=hours)
        session.add(Shortage(account="", currency="usd", refused=1, failed=True, holds=True, since=since, due_at=now))
    monkeypatch.setattr(Gateway, "available_balance", lambda self: balance)
    assert funding.look_due(house, 10) == 1
    grants.send_due(house, 10)
    assert world.seen(Step, step).state == state
