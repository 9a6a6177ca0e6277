"""Deliveries that go wrong on demand, and nothing that is said of them is untrue (docs.stripe.com/webhooks)."""

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe
from stripe import StripeClient

from sandbox.stripe.journal import Journal
from sandbox.stripe.server import start_in_thread
from tests.sandbox.conftest import Sandbox
from tests.sandbox.faulty import Refunding, until
from tests.sandbox.payments import paid
from tests.sandbox.receiver import SECRET, Receiver, receiving, settled


@pytest.fixture
def deaf(sandbox: Sandbox) -> Iterator[Receiver]:
    """A receiver whose address the sandbox does not have yet."""
    with receiving() as running:
        yield running
        sandbox.close()


def listen(sandbox: Sandbox, receiver: Receiver, **manners: Any) -> str:
    id: str = sandbox.control("POST", "webhooks", url=receiver.url, secret=SECRET, **manners)["id"]
    return id


def make(client: StripeClient, count: int) -> list[str]:
    """So many customers; the names that their events tell."""
    for number in range(count):
        client.v1.customers.create({"name": str(number)}, {"idempotency_key": f"k{number}"})
    return [str(number) for number in range(count)]


def names(receiver: Receiver) -> list[str]:
    return [json.loads(body)["data"]["object"]["name"] for _, body in receiver.got]


def test_what_is_dropped_never_comes_and_stays_to_be_found(
    sandbox: Sandbox, client: StripeClient, deaf: Receiver
) -> None:
    """Found by `delivery_success=false`, as after an outage of one's own (docs.stripe.com/webhooks/process-undelivered-
    events)."""
    listen(sandbox, deaf, drop=0.5, seed=3)
    made = make(client, 40)
    log = settled(sandbox)
    dropped = [row["event"] for row in log if row["manner"] == "drop"]
    # Half of 40, give or take three deviations of 3.2.
    assert 10 <= len(dropped) <= 30
    assert len(deaf.events(40 - len(dropped))) == 40 - len(dropped)
    missing = client.v1.events.list({"delivery_success": False, "limit": 100}).data
    assert {event.id for event in missing} == set(dropped)
    assert sorted(names(deaf) + [event.data.object["name"] for event in missing]) == sorted(made)
    sandbox.advance(7 * 24 * 3600)
    settled(sandbox)
    assert len(deaf.got) == 40 - len(dropped)


def test_what_comes_twice_is_the_same_event_signed_each_time(
    sandbox: Sandbox, client: StripeClient, deaf: Receiver
) -> None:
    listen(sandbox, deaf, duplicate=1)
    make(client, 5)
    settled(sandbox)
    events = deaf.events(10)
    assert set(Counter(event["id"] for event in events).values()) == {2}
    assert client.v1.events.list({"delivery_success": False}).data == []


def test_shuffled_events_overtake_one_another_and_none_is_lost(
    sandbox: Sandbox, client: StripeClient, deaf: Receiver
) -> None:
    listen(sandbox, deaf, shuffle=150)
    made = make(client, 20)
    settled(sandbox)
    assert names(deaf) != made
    assert sorted(names(deaf)) == sorted(made)


def test_held_events_come_when_they_are_released(sandbox: Sandbox, client: StripeClient, deaf: Receiver) -> None:
    endpoint = listen(sandbox, deaf, delay="release")
    make(client, 3)
    assert (sandbox.control("GET", "webhooks")["waiting"], sandbox.control("GET", "webhooks")["held"]) == (3, 3)
    sandbox.control("POST", "webhooks", id=endpoint)
    client.v1.customers.create({"name": "overtakes"})
    deaf.events(1)
    assert names(deaf) == ["overtakes"]
    assert sandbox.control("POST", "webhooks/release") == {"released": 3}
    deaf.events(4)
    assert names(deaf) == ["overtakes", "0", "1", "2"]


def test_some_come_late(sandbox: Sandbox, client: StripeClient, deaf: Receiver) -> None:
    listen(sandbox, deaf, delay="release", delayed=0.5, seed="late")
    make(client, 30)
    until(sandbox, lambda said: said["waiting"] == said["held"], "webhooks")
    held = sandbox.control("GET", "webhooks")["held"]
    # 15, give or take three deviations of 2.7.
    assert 6 <= held <= 24
    assert len(deaf.got) == 30 - held


def test_an_early_event_comes_before_the_answer_of_its_call(
    sandbox: Sandbox, client: StripeClient, deaf: Receiver
) -> None:
    refunding = Refunding(sandbox)
    listen(sandbox, deaf, early=1, events=["refund.created"])
    answered: list[bool] = []
    seen: list[int] = []
    sent: list[Any] = []
    under_way = threading.Event()

    def look(event: dict[str, Any]) -> None:
        assert under_way.wait(10)
        answered.append(sent[0].done())
        # The sandbox answers others meanwhile, and the refund is there already.
        refund = sandbox.client_for("sk_test_sandbox").v1.refunds.retrieve(event["data"]["object"]["id"])
        seen.append(refund.amount)

    deaf.asked = look
    sent.append(refunding.sending("k"))
    under_way.set()
    assert sent[0].result(20).status_code == 200
    refunding.close()
    assert (answered, seen) == ([False], [100])
    assert [row["manner"] for row in settled(sandbox)] == ["early"]


def test_the_answer_waits_for_no_endpoint_for_ever(
    sandbox: Sandbox, client: StripeClient, deaf: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.stripe.service.EARLY_PATIENCE", 0.05)
    listen(sandbox, deaf, early=1)
    let_go = threading.Event()
    deaf.asked = lambda event: assert_in_time(let_go)
    assert client.v1.customers.create({"name": "Elm"}).name == "Elm"
    assert deaf.got == []
    let_go.set()
    deaf.events(1)


def assert_in_time(event: threading.Event) -> None:
    assert event.wait(10)


@pytest.mark.parametrize(
    ("stray", "refused_by_stripes_own_code"),
    [
        ("forged", True),
        ("wrong_secret", True),
        ("dated_back", True),
        # The library refuses only what is too old, and knows neither account nor mode: a receiver must look itself.
        ("dated_ahead", False),
        ("other_account", False),
        ("other_livemode", False),
    ],
)
def test_a_stray_comes_before_the_truth_which_comes_all_the_same(
    sandbox: Sandbox, client: StripeClient, deaf: Receiver, stray: str, refused_by_stripes_own_code: bool
) -> None:
    listen(sandbox, deaf, **{stray: 1})
    customer = client.v1.customers.create({"name": "Elm"}).id
    assert [row["manner"] for row in settled(sandbox)] == [stray, None]
    (false_signature, false_body), (signature, body) = deaf.got
    true = stripe.Webhook.construct_event(body, signature, SECRET)
    assert json.loads(body)["data"]["object"]["id"] == customer
    if refused_by_stripes_own_code:
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(false_body, false_signature, SECRET)
    else:
        assert stripe.Webhook.construct_event(false_body, false_signature, SECRET).id == true.id
    told, truth = json.loads(false_body), json.loads(body)
    differs = {name for name in {*told, *truth} if told.get(name) != truth.get(name)}
    assert differs == {"forged": {"data"}, "other_account": {"account"}, "other_livemode": {"livemode"}}.get(
        stray, set()
    )
    dates = [int(one.split(",")[0].removeprefix("t=")) for one in (false_signature, signature)]
    assert abs(dates[0] - dates[1]) > 3_500 if "dated" in stray else abs(dates[0] - dates[1]) < 60
    assert client.v1.events.list({"delivery_success": False}).data == []


def test_a_refused_stray_is_not_tried_again(sandbox: Sandbox, client: StripeClient, deaf: Receiver) -> None:
    listen(sandbox, deaf, forged=1)
    deaf.answers = [400]
    client.v1.customers.create({"name": "Elm"})
    assert [(row["manner"], row["status"]) for row in settled(sandbox)] == [("forged", 400), (None, 200)]
    sandbox.advance(24 * 3600)
    assert len(settled(sandbox)) == 2


def test_several_secrets_sign_side_by_side(sandbox: Sandbox, client: StripeClient, deaf: Receiver) -> None:
    """docs.stripe.com/webhooks#roll-endpoint-secrets"""
    sandbox.control("POST", "webhooks", url=deaf.url, secret=["whsec_new", SECRET])
    client.v1.customers.create({"name": "Elm"})
    deaf.events(1)
    [(signature, body)] = deaf.got
    assert signature.count("v1=") == 2
    assert stripe.Webhook.construct_event(body, signature, "whsec_new")


def test_an_event_is_sent_once_more_by_hand_and_the_answer_is_told(
    sandbox: Sandbox, client: StripeClient, deaf: Receiver
) -> None:
    endpoint = listen(sandbox, deaf)
    client.v1.customers.create({"name": "Elm"})
    deaf.events(1)
    [event] = client.v1.events.list().data
    deaf.answers = [400]
    told = sandbox.control("POST", f"events/{event.id}/send", **{"as": "wrong_secret"})
    assert told == {"deliveries": [{"endpoint": endpoint, "status": 400}]}
    assert sandbox.control("POST", f"events/{event.id}/send", **{"as": "duplicate"})["deliveries"][0]["status"] == 200
    assert len(deaf.got) == 3
    for document in ({"as": "gone"}, {"to": "x"}):
        assert sandbox.raw("POST", f"/_sandbox/events/{event.id}/send", json.dumps(document)).status_code == 400
    assert sandbox.raw("POST", "/_sandbox/events/evt_unknown/send").status_code == 404
    assert sandbox.raw("POST", "/_sandbox/webhooks/everything").status_code == 404


def test_deliveries_side_by_side(sandbox: Sandbox, client: StripeClient, deaf: Receiver) -> None:
    listen(sandbox, deaf, connections=4)
    together = threading.Barrier(4, timeout=10)
    deaf.asked = lambda event: together.wait() and None
    make(client, 4)
    assert [row["status"] for row in settled(sandbox)] == [200] * 4


def test_the_same_seed_chooses_the_same_events_in_any_order(
    sandbox: Sandbox, client: StripeClient, deaf: Receiver
) -> None:
    def chosen(seed: int, order: list[int]) -> dict[str, list[str | None]]:
        sandbox.control("POST", "reset")
        deaf.got.clear()
        listen(sandbox, deaf, seed=seed, drop=0.2, duplicate=0.3, forged=0.2)
        for number in order:
            client.v1.customers.create({"name": str(number)}, {"idempotency_key": f"k{number}"})
        log = settled(sandbox)
        keys = {row.id: str(row.request and row.request.idempotency_key) for row in
                client.v1.events.list({"limit": 100}).data}  # fmt: skip
        found: dict[str, list[str | None]] = {}
        for row in log:
            found.setdefault(keys[row["event"]], []).append(row["manner"])
        return found

    forth, back = chosen(5, list(range(40))), chosen(5, list(range(40))[::-1])
    assert forth == back
    assert chosen(6, list(range(40))) != forth
    assert {manner for manners in forth.values() for manner in manners} == {None, "drop", "duplicate", "forged"}


def test_manners_and_secrets_outlive_a_restart(tmp_path: Path, deaf: Receiver) -> None:
    before = Sandbox(start_in_thread(state_file=tmp_path / "state"))
    listen(before, deaf, duplicate=1, seed="s")
    before.close()
    after = Sandbox(start_in_thread(state_file=tmp_path / "state"))
    after.client.v1.customers.create({"name": "Elm"})
    assert [row["manner"] for row in settled(after)] == [None, "duplicate"]
    deaf.events(2)
    after.close()


def test_what_is_answered_after_the_end_goes_out_again_at_the_next_start(
    tmp_path: Path, deaf: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    arrived, answer = threading.Event(), threading.Event()

    def hold(event: dict[str, Any]) -> None:
        arrived.set()
        assert answer.wait(10)

    def answered_once_closed(journal: Journal) -> None:
        close(journal)
        answer.set()
        for thread in threading.enumerate():
            if thread.name == f"webhooks to {deaf.url}":
                thread.join()

    deaf.asked, close = hold, Journal.close
    before = Sandbox(start_in_thread(state_file=tmp_path / "state"))
    listen(before, deaf)
    make(before.client, 1)
    assert arrived.wait(10)
    with monkeypatch.context() as ending:
        ending.setattr(Journal, "close", answered_once_closed)
        before.close()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    after = Sandbox(start_in_thread(state_file=tmp_path / "state"))
    assert [row["status"] for row in settled(after)] == [200]
    assert names(deaf) == ["0", "0"]
    after.close()


def test_an_account_that_leaves_is_told_of_with_its_id(sandbox: Sandbox, client: StripeClient, deaf: Receiver) -> None:
    """docs.stripe.com/connect/webhooks: account.application.deauthorized comes with `account`, to Connect endpoints."""
    connected = client.v1.accounts.create({"type": "standard"}).id
    listen(sandbox, deaf)
    sandbox.control("POST", "by_hand", method="DELETE", path=f"/v1/accounts/{connected}")
    [event] = deaf.events(1)
    assert (event["type"], event["account"]) == ("account.application.deauthorized", connected)
    with pytest.raises(stripe.PermissionError):
        client.v1.customers.list({}, {"stripe_account": connected})
    paid(client, 500)
