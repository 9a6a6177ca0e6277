"""Stripe's events: only what Stripe signed is kept, once, and it says no more than which object to look at."""

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from billing import circuits
from billing.models import Dispute, Payment, Refund
from billing.outages import grants
from billing.outages.models import Pause, Step
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.billing import stripe_json
from tests.billing.outages.rows import DECLARED, Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.webhooks.posting import about, kept, post, why
from webhooks import handlers, inbox, tasks
from webhooks.models import InboxEvent


def test_a_signed_event_is_kept_once_and_rung_for_after_the_commit(client: FlaskClient, house: House) -> None:
    heard: list[tuple[str, int | str]] = []
    house.database.ring = lambda task, subject: heard.append((task, subject))
    event = about("subscription", "sub_1")
    assert [post(client, event) for _ in range(3)] == [200, 200, 200]
    assert kept(house) == [("evt_1", "received")]
    assert [task for task, _ in heard] == ["webhooks.sweep"]


def test_a_subscription_is_looked_at_as_it_is_now(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        pause = world.pause(session, n, state="held", held_at=DECLARED)
    stripe.subscriptions[f"sub_{n}"]["pause_collection"] = {"behavior": "keep_as_draft", "resumes_at": None}
    post(client, about("subscription", f"sub_{n}"))
    assert inbox.handle_due(house) == 1
    assert kept(house) == [("evt_1", "handled")]
    assert world.seen(Pause, pause.id).read_back_at is not None


@pytest.mark.parametrize("ahead", [timedelta(days=3), timedelta(days=365 * 100)])
def test_an_event_that_claims_to_come_from_the_future_is_a_hint_like_any_other(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe, ahead: timedelta
) -> None:
    """`created` orders nothing here: what counts is the object as it is when we look, and where we looked last."""
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        pause = world.pause(session, n, state="held", held_at=DECLARED)
        cursors = session.execute(sa.text("SELECT * FROM sync_cursors")).all()
    stripe.subscriptions[f"sub_{n}"]["pause_collection"] = {"behavior": "keep_as_draft", "resumes_at": None}
    created = int((datetime.now(UTC) + ahead).timestamp())
    assert post(client, about("subscription", f"sub_{n}", "evt_ahead", created=created)) == 200
    assert post(client, about("subscription", f"sub_{n}", "evt_now")) == 200
    assert inbox.handle_due(house) == 2
    assert kept(house) == [("evt_ahead", "handled"), ("evt_now", "handled")]
    assert world.seen(Pause, pause.id).read_back_at is not None
    with world.database.work(OPERATOR) as session:
        assert session.execute(sa.text("SELECT * FROM sync_cursors")).all() == cursors


@pytest.mark.parametrize("created", [10**18, -(10**18), "2019-08-22", None, 1.5, True])
def test_an_event_whose_time_is_none_is_refused(client: FlaskClient, house: House, created: object) -> None:
    assert post(client, about("subscription", "sub_1", created=created)) == 400
    assert kept(house) == []


def test_one_look_answers_every_event_about_an_object_that_was_here_before_it(
    client: FlaskClient, house: House, world: Approved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "TOGETHER", 1)
    with world.database.work(OPERATOR) as session:
        one, other = world.customer(session), world.customer(session)
    for no, n in enumerate([one, one, other, one]):
        post(client, about("subscription", f"sub_{n}", f"evt_{no}"))
    assert inbox.handle_due(house) == 1
    assert kept(house) == [("evt_0", "handled"), ("evt_1", "handled"), ("evt_2", "received"), ("evt_3", "handled")]
    post(client, about("subscription", f"sub_{one}", "evt_4"))  # what comes after the look is looked at again
    assert [inbox.handle_due(house) for _ in range(3)] == [1, 1, 0]


def test_what_comes_soon_after_an_event_is_answered_by_one_look_with_it(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        one = world.customer(session)
    to_come = [["evt_2", "evt_3", "evt_4"], []]
    post(client, about("subscription", f"sub_{one}", "evt_1"))

    def gather() -> None:
        for event in to_come.pop(0):
            post(client, about("subscription", f"sub_{one}", event))

    before = len(stripe.sent)
    assert tasks.sweep(house, float("inf"), gather=gather) is False
    assert kept(house) == [(f"evt_{no}", "handled") for no in (1, 2, 3, 4)]
    looked = [request.path for request in stripe.sent[before:]]
    assert looked.count(f"/v1/subscriptions/sub_{one}") == 2


def test_a_refund_that_failed_is_booked_whatever_order_its_events_come_in(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    grants.send_due(house, 10)
    stripe.refunds[0].update(status="failed", failure_reason="lost_or_stolen_card")
    refund = stripe.refunds[0]["id"]
    for no, type in enumerate(["refund.failed", "refund.created", "refund.updated", "refund.created"]):
        post(client, about("refund", refund, f"evt_{no}", type))
    threads = [threading.Thread(target=inbox.handle_due, args=(house,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {state for _, state in kept(house)} == {"handled"}
    step = world.seen(Step, step_id)
    payment = world.seen(Payment, step.payment_id)
    assert (step.state, payment.reserved, payment.refunded) == ("failed", 0, 0)
    assert world.seen(Refund, refund).step_id == step_id


def test_what_an_event_claims_is_not_believed(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    """Its object says failed; asked, Stripe says succeeded."""
    step_id = world.refund_of(1_200)
    grants.send_due(house, 10)
    claimed = stripe.refunds[0] | {"status": "failed", "failure_reason": "lost_or_stolen_card"}
    post(client, stripe_json.event(id="evt_1", type="refund.failed", data={"object": claimed}))
    assert world.seen(Step, step_id).state == "succeeded"
    inbox.handle_due(house)
    assert kept(house) == [("evt_1", "handled")]
    step = world.seen(Step, step_id)
    assert (step.state, world.seen(Payment, step.payment_id).refunded) == ("succeeded", 1_200)


def test_the_end_of_a_dispute_lets_a_waiting_refund_go(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    n = world.seen(Step, step_id).payment_id.split("_")[1]
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(dispute_open=True))
        session.add(
            Dispute(agency_id=world.agency_id, id="dp_1", charge=f"ch_{n}_1", payment_intent=f"pi_{n}_1",
                    currency="usd", amount=5_800, status="needs_response", created_at=DECLARED)
        )  # fmt: skip
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "blocked"
    stripe.disputes["dp_1"] = {
        "id": "dp_1", "object": "dispute", "charge": f"ch_{n}_1", "payment_intent": f"pi_{n}_1", "currency": "usd",
        "amount": 5_800, "status": "won", "created": 1_566_000_000, "metadata": {},
    }  # fmt: skip
    post(client, about("dispute", "dp_1", type="charge.dispute.closed"))
    inbox.handle_due(house)
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"


def test_an_event_that_cannot_be_handled_yet_is_tried_again(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
    stripe.spoil("GET", f"/v1/subscriptions/sub_{n}", "down", "down", "down")
    post(client, about("subscription", f"sub_{n}"))
    assert inbox.handle_due(house) == 1
    assert kept(house) == [("evt_1", "received")]
    assert inbox.handle_due(house) == 0  # not due yet
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(InboxEvent).values(due_at=sa.func.now()))
    assert inbox.handle_due(house) == 1
    assert kept(house) == [("evt_1", "handled")]


def test_events_wait_while_stripe_is_left_alone_and_are_handled_at_once_when_it_is_back(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    """Only the one that went out to see was tried in vain: else all of them would wait for hours after an outage."""
    with world.database.work(OPERATOR) as session:
        subscriptions = [f"sub_{world.customer(session)}" for _ in range(3)]
        circuits.open_up(session, circuits.EVERYTHING, f"Of 50 calls 20 {circuits.UNANSWERED}", 60)
    for subscription in subscriptions:
        post(client, about("subscription", subscription, f"evt_{subscription}"))
    assert inbox.handle_due(house) == 0
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(circuits.Circuit).values(see_at=sa.func.now()))
    stripe.spoil("GET", f"/v1/subscriptions/{subscriptions[0]}", "down", "down", "down")
    inbox.handle_due(house)
    with house.database.work(OPERATOR) as session:
        assert sorted(session.scalars(sa.select(InboxEvent.attempts))) == [0, 0, 1]
        session.execute(sa.update(circuits.Circuit).values(see_at=sa.func.now()))
    inbox.handle_due(house)
    assert sorted(state for _, state in kept(house)) == ["handled", "handled", "received"]


def received_ago(house: House, how_long: timedelta) -> None:
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(InboxEvent).values(received_at=sa.func.now() - how_long, due_at=sa.func.now()))


def test_an_event_is_tried_for_three_days_and_then_it_is_for_a_person(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
    stripe.spoil("GET", f"/v1/subscriptions/sub_{n}", *["down"] * 6)
    post(client, about("subscription", f"sub_{n}"))
    received_ago(house, timedelta(days=3) - timedelta(minutes=1))
    inbox.handle_due(house)
    assert kept(house) == [("evt_1", "received")]
    received_ago(house, timedelta(days=3))
    inbox.handle_due(house)
    assert kept(house) == [("evt_1", "failed")]


def test_an_event_that_breaks_whoever_handles_it_holds_up_no_other_and_is_for_a_person_after_three_days(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.database.work(OPERATOR) as session:
        bad, good = world.customer(session), world.customer(session)
    apply = handlers.apply

    def breaks(session: Session, account: str, seen: Any, *more: Any) -> str | None:
        if seen.id == f"sub_{bad}":
            raise RuntimeError("a defect")
        return apply(session, account, seen, *more)

    monkeypatch.setattr(handlers, "apply", breaks)
    bad_event = sa.and_(InboxEvent.event_id == "evt_bad", InboxEvent.state == "received")
    left_to_wait = sa.select(InboxEvent.due_at - sa.func.now()).where(bad_event)
    post(client, about("subscription", f"sub_{bad}", "evt_bad"))
    post(client, about("subscription", f"sub_{good}", "evt_good"))
    waits = []
    for _ in range(8):
        received_ago(house, timedelta(days=3))
        for _ in "12":  # both together, then each alone
            with contextlib.suppress(RuntimeError):
                inbox.handle_due(house)
        with house.database.work(OPERATOR) as session:
            waits += [left.total_seconds() for left in session.scalars(left_to_wait)]
    assert kept(house) == [("evt_bad", "failed"), ("evt_good", "handled")]
    wanted = [120, 120, 120, 600, 3_600, 21_600]
    assert [left <= most < left + 100 for left, most in zip(waits, wanted, strict=True)] == [True] * 6
    with house.database.work(OPERATOR) as session:
        reason = session.scalar(sa.select(InboxEvent.reason).where(InboxEvent.event_id == "evt_bad"))
    assert reason == "Whoever handled it broke off, each of 6 times."


def test_an_object_that_is_gone_is_no_work(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
    del stripe.subscriptions[f"sub_{n}"]
    post(client, about("subscription", f"sub_{n}"))
    inbox.handle_due(house)
    assert kept(house) == [("evt_1", "ignored")]


def test_an_object_that_nobody_knows_is_looked_for_a_day_and_then_it_is_an_orphan(
    client: FlaskClient, house: House, world: Approved
) -> None:
    post(client, about("subscription", "sub_nowhere"))
    inbox.handle_due(house)
    assert kept(house) == [("evt_1", "received")]
    received_ago(house, timedelta(hours=24))
    inbox.handle_due(house)
    _, state, reason = why(house)
    assert (state, bool(reason)) == ("orphan", True)


def test_the_event_of_a_connected_account_is_looked_at_there_whatever_its_metadata_says(
    client: FlaskClient, house: House, db: Database, stripe: SmallStripe
) -> None:
    world = Approved(db, stripe).begin(account="acct_acme")
    with db.work(OPERATOR) as session:
        n = world.customer(session)
    event = about("subscription", f"sub_{n}", account="acct_acme")
    event["data"]["object"]["metadata"] = {"agency": "operator", "account": "acct_other"}
    assert post(client, event) == 200
    assert inbox.handle_due(house) == 1
    assert why(house)[:2] == ("acct_acme", "handled")
    asked = [one.headers.get("Stripe-Account") for one in stripe.sent if one.path.startswith("/v1/subscriptions")]
    assert asked == ["acct_acme"]
