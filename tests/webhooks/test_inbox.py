"""Stripe's events: only what Stripe signed is kept, once, and it says no more than which object to look at."""

import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from billing.models import Dispute, Payment, Refund
from billing.outages import grants
from billing.outages.models import Pause, Step
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.billing import stripe_json as made
from tests.billing.outages.rows import DECLARED, Approved, house_at
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.wire import listening
from webhooks import inbox
from webhooks.models import InboxEvent
from webhooks.views import blueprint

SECRETS = ("whsec_new", "whsec_old")


@pytest.fixture
def stripe() -> Iterator[SmallStripe]:
    with listening() as wire:
        yield SmallStripe(wire)


@pytest.fixture
def world(db: Database, stripe: SmallStripe) -> Approved:
    return Approved(db, stripe).begin()


@pytest.fixture
def house(db: Database, stripe: SmallStripe) -> House:
    house = house_at(stripe.url, db)
    return replace(house, settings=replace(house.settings, stripe_webhook_secrets=SECRETS))


@pytest.fixture
def client(house: House) -> FlaskClient:
    app = Flask("test")
    app.extensions["house"] = house
    app.register_blueprint(blueprint)
    return app.test_client()


def signed(raw: bytes, secret: str = "whsec_new", at: float | None = None) -> str:
    moment = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), b"%d." % moment + raw, "sha256").hexdigest()
    return f"t={moment},v1={digest}"


def post(client: FlaskClient, event: dict[str, Any], **how: Any) -> int:
    raw = json.dumps(event).encode()
    return client.post("/webhooks/stripe", data=raw, headers={"Stripe-Signature": signed(raw, **how)}).status_code


def about(object: str, id: str, event_id: str = "evt_1", type: str = "some.change", **fields: Any) -> dict[str, Any]:
    return made.event(id=event_id, type=type, data={"object": {"id": id, "object": object}}, **fields)


def kept(house: House) -> list[tuple[str, str]]:
    with house.database.work(OPERATOR) as session:
        found = session.execute(sa.select(InboxEvent.event_id, InboxEvent.state).order_by(InboxEvent.id))
        return [tuple(row) for row in found]


def test_a_signed_event_is_kept_once_and_rung_for_after_the_commit(client: FlaskClient, house: House) -> None:
    heard: list[tuple[str, int | str]] = []
    house.database.ring = lambda task, subject: heard.append((task, subject))
    event = about("subscription", "sub_1")
    assert [post(client, event) for _ in range(3)] == [200, 200, 200]
    assert kept(house) == [("evt_1", "received")]
    assert [task for task, _ in heard] == ["webhooks.handle"]


def test_either_secret_is_good_while_one_is_rotated(client: FlaskClient, house: House) -> None:
    assert post(client, about("subscription", "sub_1", "evt_1"), secret="whsec_old") == 200
    assert post(client, about("subscription", "sub_1", "evt_2"), secret="whsec_other") == 400
    assert kept(house) == [("evt_1", "received")]


@pytest.mark.parametrize("ahead", [-301, 301, 315_360_000])
def test_old_signatures_and_those_of_the_future_are_refused(client: FlaskClient, house: House, ahead: int) -> None:
    assert post(client, about("subscription", "sub_1"), at=time.time() + ahead) == 400
    assert kept(house) == []


def test_a_signature_of_another_body_is_refused(client: FlaskClient, house: House) -> None:
    raw = json.dumps(about("subscription", "sub_1")).encode()
    headers = {"Stripe-Signature": signed(raw)}
    assert client.post("/webhooks/stripe", data=raw + b" ", headers=headers).status_code == 400
    assert client.post("/webhooks/stripe", data=raw).status_code == 400
    assert kept(house) == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"null", b"{", b"\xff", b'{"object":"event","id":null}', b'{"id":"a","id":"b","object":"event"}',
     b"[" * 100_000, b'{"object":"event","id":NaN}', b'{"object":"v2.core.event","id":"evt_1"}'],
)  # fmt: skip
def test_signed_nonsense_is_refused_and_nothing_breaks(client: FlaskClient, house: House, raw: bytes) -> None:
    headers = {"Stripe-Signature": signed(raw)}
    assert client.post("/webhooks/stripe", data=raw, headers=headers).status_code == 400
    assert kept(house) == []


def test_a_huge_body_is_refused_before_it_is_read(client: FlaskClient, house: House) -> None:
    raw = b" " * 300_000
    assert client.post("/webhooks/stripe", data=raw, headers={"Stripe-Signature": signed(raw)}).status_code == 413


def test_without_a_secret_nothing_is_believed(client: FlaskClient, house: House) -> None:
    bare = replace(house, settings=replace(house.settings, stripe_webhook_secrets=()))
    client.application.extensions["house"] = bare
    assert post(client, about("subscription", "sub_1")) == 503


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"livemode": True}, "It is of live mode, and our key is not."),
        ({"account": "acct_strange"}, "No agency has this Stripe account."),
        ({"data": {"object": {"id": "tok_1", "object": "token"}}}, "We keep nothing of this kind."),
    ],
)
def test_what_is_not_for_us_is_kept_with_its_reason_and_never_handled(
    client: FlaskClient, house: House, fields: dict[str, Any], reason: str
) -> None:
    assert post(client, about("subscription", "sub_1") | fields) == 200
    with house.database.work(OPERATOR) as session:
        event = session.scalars(sa.select(InboxEvent)).one()
        assert (event.state, event.reason) == ("ignored", reason)
    assert inbox.handle_due(house, 10) == 0


def test_a_subscription_is_looked_at_as_it_is_now(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        pause = world.pause(session, n, state="held", held_at=DECLARED)
    stripe.subscriptions[f"sub_{n}"]["pause_collection"] = {"behavior": "keep_as_draft", "resumes_at": None}
    post(client, about("subscription", f"sub_{n}"))
    assert inbox.handle_due(house, 10) == 1
    assert kept(house) == [("evt_1", "handled")]
    assert world.seen(Pause, pause.id).read_back_at is not None


def test_one_look_answers_every_event_about_an_object_that_was_here_before_it(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        one, other = world.customer(session), world.customer(session)
    for no, n in enumerate([one, one, other, one]):
        post(client, about("subscription", f"sub_{n}", f"evt_{no}"))
    assert inbox.handle_due(house, 1) == 1
    assert kept(house) == [("evt_0", "handled"), ("evt_1", "handled"), ("evt_2", "received"), ("evt_3", "handled")]
    post(client, about("subscription", f"sub_{one}", "evt_4"))  # what comes after the look is looked at again
    assert inbox.handle_due(house, 10) == 2


def test_a_refund_that_failed_is_booked_whatever_order_its_events_come_in(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    grants.send_due(house, 10)
    stripe.refunds[0].update(status="failed", failure_reason="lost_or_stolen_card")
    refund = stripe.refunds[0]["id"]
    for no, type in enumerate(["refund.failed", "refund.created", "refund.updated", "refund.created"]):
        post(client, about("refund", refund, f"evt_{no}", type))
    threads = [threading.Thread(target=inbox.handle_due, args=(house, 10)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {state for _, state in kept(house)} == {"handled"}
    step = world.seen(Step, step_id)
    payment = world.seen(Payment, step.payment_id)
    assert (step.state, payment.reserved, payment.refunded) == ("failed", 0, 0)
    assert world.seen(Refund, refund).step_id == step_id


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
    inbox.handle_due(house, 10)
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"


def test_an_event_that_cannot_be_handled_yet_is_tried_again(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
    stripe.spoil("GET", f"/v1/subscriptions/sub_{n}", "down", "down", "down")
    post(client, about("subscription", f"sub_{n}"))
    assert inbox.handle_due(house, 10) == 1
    assert kept(house) == [("evt_1", "received")]
    assert inbox.handle_due(house, 10) == 0  # not due yet
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(InboxEvent).values(due_at=sa.func.now()))
    assert inbox.handle_due(house, 10) == 1
    assert kept(house) == [("evt_1", "handled")]


def test_an_event_nobody_can_handle_for_a_day_is_for_a_person(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
    stripe.spoil("GET", f"/v1/subscriptions/sub_{n}", "down", "down", "down")
    post(client, about("subscription", f"sub_{n}"))
    with house.database.work(OPERATOR) as session:
        session.execute(sa.update(InboxEvent).values(received_at=sa.text("now() - interval '25 hours'")))
    inbox.handle_due(house, 10)
    assert kept(house) == [("evt_1", "failed")]


def test_an_object_that_is_gone_is_no_work(client: FlaskClient, house: House, world: Approved) -> None:
    post(client, about("subscription", "sub_nowhere"))
    inbox.handle_due(house, 10)
    assert kept(house) == [("evt_1", "ignored")]
