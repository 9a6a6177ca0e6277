"""Events are written with the change and sent, signed and in order."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from tests.sandbox.conftest import NOON, Sandbox
from tests.sandbox.payments import paid, plain
from tests.sandbox.receiver import SECRET, Receiver, receiving, settled

DAY = 24 * 3600


@pytest.fixture
def receiver(sandbox: Sandbox) -> Iterator[Receiver]:
    with receiving() as running:
        sandbox.control("POST", "webhooks", url=running.url, secret=SECRET)
        yield running
        sandbox.close()


def test_an_event_tells_what_changed_who_asked_and_with_which_key(client: StripeClient) -> None:
    customer = client.v1.customers.create({"name": "Elm", "metadata": {"a": "1", "b": "2"}})
    answer = client.v1.customers.update(
        customer.id, {"name": "Oak", "metadata": {"a": "9", "c": "3"}}, {"idempotency_key": "k"}
    )
    [updated, created] = [plain(event) for event in client.v1.events.list().data]
    assert (created["type"], updated["type"]) == ("customer.created", "customer.updated")
    assert updated["data"]["previous_attributes"] == {"name": "Elm", "metadata": {"a": "1", "c": None}}
    assert updated["data"]["object"] == plain(client.v1.customers.retrieve(customer.id))
    assert updated["request"] == {"id": answer.last_response.headers["Request-Id"], "idempotency_key": "k"}
    assert "previous_attributes" not in created["data"]
    assert created["data"]["object"]["name"] == "Elm"
    assert (created["created"], created["api_version"], created["pending_webhooks"]) == (NOON, "2026-10-28.endive", 0)
    assert "account" not in created


def test_a_change_that_changes_nothing_writes_no_event(client: StripeClient) -> None:
    customer = client.v1.customers.create({"name": "Elm"}).id
    client.v1.customers.update(customer, {"name": "Elm"})
    assert [event.type for event in client.v1.events.list().data] == ["customer.created"]


def test_a_refused_call_writes_no_event(client: StripeClient) -> None:
    intent = paid(client, 1_000)
    before = len(client.v1.events.list({"limit": 100}).data)
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 1_001})
    assert len(client.v1.events.list({"limit": 100}).data) == before


def test_what_stripe_does_by_itself_has_no_request(sandbox: Sandbox, client: StripeClient) -> None:
    client.v1.refunds.create({"payment_intent": paid(client, 2_000, "pm_card_refundFail").id})
    sandbox.advance(3600)
    [failed] = client.v1.events.list({"type": "refund.failed"}).data
    assert plain(failed)["request"] == {"id": None, "idempotency_key": None}


def test_what_a_bank_does_has_no_request_either(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 2_000)
    client.v1.refunds.create({"payment_intent": intent.id, "amount": 500}, {"idempotency_key": "k"})
    sandbox.control("POST", "disputes", payment_intent=intent.id)
    [opened] = client.v1.events.list({"type": "charge.dispute.created"}).data
    assert plain(opened)["request"] == {"id": None, "idempotency_key": None}


def test_events_are_found_by_type_and_forgotten_after_thirty_days(sandbox: Sandbox, client: StripeClient) -> None:
    paid(client, 500)
    client.v1.customers.create({})

    def types(**asked: Any) -> list[str]:
        return [event.type for event in client.v1.events.list(asked).data]  # type: ignore[arg-type]

    assert types(type="charge.succeeded") == ["charge.succeeded"]
    assert types(type="payment_intent.*") == ["payment_intent.succeeded", "payment_intent.created"]
    assert types(types=["customer.created", "charge.succeeded"]) == ["customer.created", "charge.succeeded"]
    sandbox.advance(30 * DAY)
    assert len(types()) == 4
    sandbox.advance(DAY)
    assert types() == []


def test_deliveries_are_signed_and_in_the_order_of_the_events(receiver: Receiver, client: StripeClient) -> None:
    for number in range(20):
        client.v1.customers.create({"name": str(number)})
    assert [event["data"]["object"]["name"] for event in receiver.events(20)] == [str(number) for number in range(20)]


def test_an_endpoint_hears_only_what_it_asked_for(sandbox: Sandbox, receiver: Receiver, client: StripeClient) -> None:
    made = client.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["charge.succeeded"]})
    assert str(made.secret).startswith("whsec_")
    assert "secret" not in client.v1.webhook_endpoints.retrieve(made.id)
    paid(client, 500)
    heard = {row["endpoint"]: 0 for row in settled(sandbox)}
    for row in settled(sandbox):
        heard[row["endpoint"]] += 1
    assert heard[made.id] == 1
    assert sorted(heard.values()) == [1, 3]


def test_events_of_connected_accounts_name_them(sandbox: Sandbox, receiver: Receiver, client: StripeClient) -> None:
    account = client.v1.accounts.create({"type": "standard"}).id
    client.v1.customers.create({"name": "theirs"}, {"stripe_account": account})
    [event] = receiver.events(1)
    assert (event["type"], event["account"]) == ("customer.created", account)


@pytest.mark.parametrize("refusal", [500, 302, 404])
def test_a_failed_delivery_is_tried_again_on_the_clock_and_signed_anew(
    sandbox: Sandbox, receiver: Receiver, client: StripeClient, refusal: int
) -> None:
    receiver.answers = [refusal, refusal]
    client.v1.customers.create({"name": "Elm"})
    assert [row["status"] for row in settled(sandbox)] == [refusal]
    [waiting] = client.v1.events.list({"delivery_success": False}).data
    assert waiting.pending_webhooks == 1
    sandbox.advance(5 * 60)
    settled(sandbox)
    sandbox.advance(3600)
    assert [row["status"] for row in settled(sandbox)] == [refusal, refusal, 200]
    assert len({event["id"] for event in receiver.events(3)}) == 1
    assert client.v1.events.list({"delivery_success": False}).data == []


def test_an_endpoint_that_never_answers_is_given_up(sandbox: Sandbox, receiver: Receiver, client: StripeClient) -> None:
    receiver.answers = [500] * 10
    client.v1.customers.create({"name": "Elm"})
    settled(sandbox)
    for wait in (5 * 60, 3600, 4 * 3600, DAY, DAY):
        sandbox.advance(wait)
        settled(sandbox)
    assert len(receiver.got) == 4


def test_nothing_is_sent_for_a_call_that_was_rolled_back(receiver: Receiver, client: StripeClient) -> None:
    intent = paid(client, 500)
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.refunds.create({"payment_intent": intent.id, "amount": 501})
    client.v1.customers.create({"name": "last"})
    types = [event["type"] for event in receiver.events(4)]
    assert types == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded", "customer.created"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"url": "x", "secret": "y"},
        {"url": "http://x"},
        {"url": "http://x", "secret": []},
        {"url": "http://x", "secret": "s", "events": "*"},
        {"url": "http://x", "secret": "s", "lose": 1},
        {"url": "http://x", "secret": "s", "drop": 1.5},
        {"url": "http://x", "secret": "s", "duplicate": True},
        {"url": "http://x", "secret": "s", "delay": "soon"},
        {"url": "http://x", "secret": "s", "shuffle": -1},
        {"url": "http://x", "secret": "s", "connections": 33},
        {"url": "http://x", "secret": "s", "seed": None},
        {"id": "we_unknown", "drop": 0.5},
    ],
)
def test_a_wrong_webhook_control_is_refused(sandbox: Sandbox, document: dict[str, Any]) -> None:
    answer = sandbox.raw("POST", "/_sandbox/webhooks", json.dumps(document))
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["message"]
    assert sandbox.control("GET", "webhooks")["endpoints"] == []
