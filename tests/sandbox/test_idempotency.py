"""One key, one effect."""

import pytest
import stripe
from stripe import StripeClient

from tests.sandbox.conftest import Sandbox
from tests.sandbox.payments import paid

DAY = 24 * 3600


def test_a_repeated_key_replays_the_first_answer(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 3_100)
    asked = {"payment_intent": intent.id, "amount": 375}
    first = client.v1.refunds.create(asked, {"idempotency_key": "e1"})
    again = client.v1.refunds.create(asked, {"idempotency_key": "e1"})
    assert again.id == first.id
    assert len(client.v1.refunds.list().data) == 1
    assert "Idempotent-Replayed" not in first.last_response.headers
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert again.last_response.headers["Original-Request"] == first.last_response.headers["Request-Id"]
    assert again.last_response.body == first.last_response.body


def test_without_a_key_each_call_is_a_new_one(sandbox: Sandbox) -> None:
    ids = {sandbox.raw("POST", "/v1/customers", {"name": "Twice"}).json()["id"] for _ in range(2)}
    assert len(ids) == 2


def test_a_refusal_of_the_endpoint_is_kept_too(sandbox: Sandbox, client: StripeClient) -> None:
    intent = paid(client, 1_000)
    too_much = {"payment_intent": intent.id, "amount": 2_000}
    answers = [sandbox.raw("POST", "/v1/refunds", too_much, Idempotency_Key="e2") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert answers[0].content == answers[1].content


def test_a_decline_is_kept_and_charges_once(sandbox: Sandbox, client: StripeClient) -> None:
    asked = {"amount": 500, "currency": "usd", "payment_method": "pm_card_chargeDeclined", "confirm": "true"}
    answers = [sandbox.raw("POST", "/v1/payment_intents", asked, Idempotency_Key="e3") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [402, 402]
    assert len(client.v1.charges.list().data) == 1


def test_refused_parameters_and_keys_leave_no_trace(sandbox: Sandbox) -> None:
    for wrong in ({"foo": "1"}, {"source": "tok_visa"}):
        sandbox.raw("POST", "/v1/customers", wrong, Idempotency_Key="e4")
    assert sandbox.raw("POST", "/v1/customers", Idempotency_Key="e4", Authorization="Bearer x").status_code == 401
    right = sandbox.raw("POST", "/v1/customers", {"name": "Right"}, Idempotency_Key="e4")
    assert right.status_code == 200
    assert "Idempotent-Replayed" not in right.headers


def test_other_parameters_or_another_endpoint_are_refused(sandbox: Sandbox) -> None:
    sandbox.raw("POST", "/v1/customers", {"name": "A"}, Idempotency_Key="e5")
    other = sandbox.raw("POST", "/v1/customers", {"name": "B"}, Idempotency_Key="e5")
    elsewhere = sandbox.raw("POST", "/v1/products", {"name": "A"}, Idempotency_Key="e5")
    assert [answer.status_code for answer in (other, elsewhere)] == [400, 400]
    assert [answer.json()["error"]["type"] for answer in (other, elsewhere)] == ["idempotency_error"] * 2
    assert "('/v1/customers' not '/v1/products')" in elsewhere.json()["error"]["message"]


def test_keys_belong_to_their_account(sandbox: Sandbox) -> None:
    one = sandbox.raw("POST", "/v1/customers", {"name": "A"}, Idempotency_Key="e6")
    other = sandbox.raw(
        "POST", "/v1/customers", {"name": "B"}, Idempotency_Key="e6", Authorization="Bearer sk_test_other"
    )
    assert (one.status_code, other.status_code) == (200, 200)


def test_a_key_lives_a_day_of_the_virtual_clock(sandbox: Sandbox) -> None:
    def made() -> str:
        id: str = sandbox.raw("POST", "/v1/customers", {"name": "A"}, Idempotency_Key="e7").json()["id"]
        return id

    first = made()
    sandbox.advance(DAY - 1)
    assert made() == first
    sandbox.advance(1)
    assert made() != first


def test_a_key_has_at_most_255_characters(sandbox: Sandbox) -> None:
    assert sandbox.raw("POST", "/v1/customers", Idempotency_Key="k" * 255).status_code == 200
    assert sandbox.raw("POST", "/v1/customers", Idempotency_Key="k" * 256).status_code == 400


def test_stripes_client_sees_the_mistake(client: StripeClient) -> None:
    client.v1.customers.create({"name": "A"}, {"idempotency_key": "e8"})
    with pytest.raises(stripe.IdempotencyError) as refused:
        client.v1.customers.create({"name": "B"}, {"idempotency_key": "e8"})
    assert refused.value.http_status == 400
