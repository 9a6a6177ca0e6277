"""Faults on demand: each does to the money exactly what it says, over real HTTP."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from sandbox.stripe.server import start_in_thread
from tests.sandbox.conftest import NOON, Sandbox
from tests.sandbox.faulty import Refunding, until
from tests.sandbox.test_payments import balanced


@pytest.fixture
def refunding(sandbox: Sandbox) -> Iterator[Refunding]:
    running = Refunding(sandbox)
    yield running
    balanced(sandbox)
    sandbox.control("POST", "faults/release")
    running.close()


# --- refused before the idempotency layer (docs.stripe.com/error-low-level: rate limiters come first) ---------------


@pytest.mark.parametrize(
    ("kind", "options", "status", "code", "header"),
    [
        ("429", {}, 429, "rate_limit", ("Stripe-Rate-Limited-Reason", "endpoint-rate")),
        ("429", {"reason": "global-rate"}, 429, "rate_limit", ("Stripe-Rate-Limited-Reason", "global-rate")),
        ("429", {"reason": None}, 429, "rate_limit", ("Stripe-Rate-Limited-Reason", None)),
        ("lock_timeout", {}, 429, "lock_timeout", ("Stripe-Rate-Limited-Reason", None)),
        ("lock_timeout", {}, 429, "lock_timeout", ("Stripe-Should-Retry", "true")),
        ("401", {}, 401, "api_key_expired", ("Idempotent-Replayed", None)),
        ("403", {}, 403, "more_permissions_required", ("Idempotent-Replayed", None)),
        ("409", {}, 409, "idempotency_key_in_use", ("Idempotent-Replayed", None)),
        ("idempotency_error", {}, 400, None, ("Idempotent-Replayed", None)),
        ("503", {}, 503, None, ("Content-Type", "text/html")),
        ("html", {}, 200, None, ("Content-Type", "text/html")),
        ("redirect", {"location": "http://127.0.0.1:9/"}, 302, None, ("Location", "http://127.0.0.1:9/")),
    ],
)
def test_a_refusal_on_arrival_does_nothing_and_keeps_nothing(
    refunding: Refunding, kind: str, options: dict[str, Any], status: int, code: str | None, header: tuple[str, Any]
) -> None:
    refunding.rule(kind, count=1, **options)
    refused = refunding.send("k")
    assert (refused.status_code, refused.headers.get(header[0])) == (status, header[1])
    if "json" in refused.headers["Content-Type"]:
        assert refused.json()["error"].get("code") == code
    assert refunding.refunds() == []
    done = refunding.send("k")
    assert (done.status_code, "Idempotent-Replayed" in done.headers) == (200, False)
    assert refunding.refunds() == [100]


@pytest.mark.parametrize("kind", ["503", "html"])
def test_what_stands_before_stripe_may_hide_a_success(refunding: Refunding, kind: str) -> None:
    refunding.rule(kind, count=1, effect=True)
    assert "<html>" in refunding.send("k").text
    assert refunding.refunds() == [100]
    assert refunding.send("k").headers["Idempotent-Replayed"] == "true"


def test_stripes_client_reads_them_as_it_reads_stripe(refunding: Refunding) -> None:
    for kind, error in [("429", stripe.RateLimitError), ("401", stripe.AuthenticationError),
                        ("403", stripe.PermissionError), ("idempotency_error", stripe.IdempotencyError),
                        ("503", stripe.APIError), ("html", stripe.APIError), ("409", stripe.APIError),
                        ("reset_before", stripe.APIConnectionError)]:  # fmt: skip
        refunding.rule(kind, count=1)
        with pytest.raises(error):
            refunding.sandbox.client.v1.refunds.create({"payment_intent": refunding.intent}, {"idempotency_key": "x"})
    assert refunding.refunds() == []


# --- instead of the endpoint: kept for 24 h, 500 included (docs.stripe.com/api/idempotent_requests) -----------------


@pytest.mark.parametrize(("kind", "sent"), [("500_before", []), ("500_after", [100])])
def test_a_500_is_kept_and_replayed_whether_or_not_the_money_went(
    refunding: Refunding, kind: str, sent: list[int]
) -> None:
    refunding.rule(kind, count=1)
    first, again = refunding.send("k"), refunding.send("k")
    assert [first.status_code, again.status_code] == [500, 500]
    assert first.content == again.content
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert refunding.refunds() == sent
    assert refunding.send("another").status_code == 200
    assert refunding.refunds() == [*sent, 100]


def test_a_500_whose_work_is_done_has_written_its_events(refunding: Refunding) -> None:
    refunding.rule("500_after", count=1)
    refunding.send("k")
    [event] = refunding.sandbox.client.v1.events.list({"type": "refund.created"}).data
    assert event["request"]["idempotency_key"] == "k"


def test_a_500_hides_a_refusal_too(refunding: Refunding) -> None:
    refunding.rule("500_after", count=1)
    assert refunding.send("k", amount=9_999).status_code == 500
    assert refunding.refunds() == []


def test_a_500_strikes_neither_replays_nor_refused_parameters(refunding: Refunding) -> None:
    assert refunding.send("k").status_code == 200
    refunding.rule("500_before")
    assert refunding.send("k").status_code == 200
    assert refunding.sandbox.raw("POST", "/v1/refunds", {"nonsense": "1"}).status_code == 400
    assert refunding.sandbox.control("GET", "faults")["rules"][0]["seen"] == 0


def test_an_object_that_is_gone_and_any_other_refusal(refunding: Refunding) -> None:
    sandbox = refunding.sandbox
    refunding.rule("404", match={"path": "/v1/charges/*"})
    with pytest.raises(stripe.InvalidRequestError) as gone:
        sandbox.client.v1.charges.retrieve("ch_1")
    assert (gone.value.http_status, gone.value.code) == (404, "resource_missing")
    assert gone.value.user_message == "No such charge: 'ch_1'"
    refunding.rule("error", code="charge_disputed", message="Charged back.", param="charge", count=1)
    first, again = refunding.send("k"), refunding.send("k")
    assert first.status_code == 400
    assert first.json()["error"] == {"code": "charge_disputed", "message": "Charged back.", "param": "charge",
                                     "type": "invalid_request_error"}  # fmt: skip
    assert again.headers["Idempotent-Replayed"] == "true"


# --- no answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "sent"),
    [
        ("reset_before", {}, []),
        ("timeout_before", {"ms": 20}, []),
        ("reset_after", {}, [100]),
        ("timeout_after", {"ms": 20}, [100]),
    ],
)
def test_a_connection_that_ends_without_an_answer(
    refunding: Refunding, kind: str, options: dict[str, Any], sent: list[int]
) -> None:
    refunding.rule(kind, count=1, **options)
    assert refunding.lost("k") == "ConnectionError"
    assert refunding.refunds() == sent
    again = refunding.send("k")
    assert ("Idempotent-Replayed" in again.headers) is bool(sent)
    assert refunding.refunds() == [100]


def test_a_client_that_gives_up_before_the_connection_is_closed(refunding: Refunding) -> None:
    refunding.rule("timeout_after", ms="release", count=1)
    assert refunding.lost("k", timeout=0.2) == "ReadTimeout"
    assert refunding.refunds() == [100]
    until(refunding.sandbox, lambda said: said["held"] == [])


def test_a_held_connection_is_closed_when_its_time_is_over(refunding: Refunding) -> None:
    refunding.rule("timeout_after", ms=150, count=1)
    began = sum(row["status"] is not None for row in refunding.sandbox.control("GET", "requests")["requests"])
    assert refunding.lost("k") == "ConnectionError"
    assert sum(row["status"] is not None for row in refunding.sandbox.control("GET", "requests")["requests"]) > began


# --- effects that land later (docs.stripe.com/error-low-level: a request may go on after its connection has ended) --


def test_an_effect_lands_after_the_client_has_looked(refunding: Refunding) -> None:
    sandbox = refunding.sandbox
    refunding.rule("late_effect", ms="release", count=1)
    assert refunding.lost("k") == "ConnectionError"
    assert sandbox.client.v1.refunds.list({"payment_intent": refunding.intent}).data == []
    in_use = refunding.send("k")
    assert (in_use.status_code, in_use.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert sandbox.control("POST", "faults/release") == {"released": 1}
    assert refunding.refunds() == [100]
    assert refunding.send("k").headers["Idempotent-Replayed"] == "true"


def test_a_late_effect_lands_by_itself(refunding: Refunding) -> None:
    refunding.rule("late_effect", ms=[1, 40], count=1)
    assert refunding.lost("k") == "ConnectionError"
    until(refunding.sandbox, lambda said: said["under_way"] == [])
    assert refunding.refunds() == [100]


def test_a_slow_call_keeps_nobody_else_waiting_and_its_key_is_in_use(refunding: Refunding) -> None:
    sandbox = refunding.sandbox
    refunding.rule("slow", ms="release", count=1)
    slow = refunding.sending("k")
    until(sandbox, lambda said: len(said["under_way"]) == 1)
    assert sandbox.client.v1.refunds.list().data == []
    assert refunding.send("k").json()["error"]["code"] == "idempotency_key_in_use"
    assert not slow.done()
    sandbox.control("POST", "faults/release")
    assert slow.result(10).status_code == 200
    assert refunding.refunds() == [100]


def test_a_slow_call_is_executed_though_its_client_has_gone(refunding: Refunding) -> None:
    refunding.rule("slow", ms="release", count=1)
    assert refunding.lost("k", timeout=0.2) == "ReadTimeout"
    assert refunding.refunds() == []
    refunding.sandbox.control("POST", "faults/release")
    assert refunding.refunds() == [100]


def test_two_writes_to_one_payment_that_overlap(refunding: Refunding) -> None:
    """docs.stripe.com/rate-limits#object-lock-timeouts"""
    refunding.rule("slow", ms="release", count=1)
    slow = refunding.sending("k")
    until(refunding.sandbox, lambda said: len(said["under_way"]) == 1)
    locked = refunding.send("other")
    assert (locked.status_code, locked.json()["error"]["code"]) == (429, "lock_timeout")
    assert "Stripe-Rate-Limited-Reason" not in locked.headers
    assert locked.headers["Stripe-Should-Retry"] == "true"
    elsewhere = Refunding(refunding.sandbox)
    assert elsewhere.send("elsewhere").status_code == 200
    elsewhere.close()
    refunding.sandbox.control("POST", "faults/release")
    slow.result(10)
    again = refunding.send("other")
    assert (again.status_code, "Idempotent-Replayed" in again.headers) == (200, False)


def test_a_reset_ends_what_was_under_way_without_effect(refunding: Refunding) -> None:
    refunding.rule("late_effect", ms="release")
    refunding.lost("k")
    refunding.sandbox.control("POST", "reset", now=NOON)
    assert refunding.sandbox.control("GET", "faults") == {"rules": [], "under_way": [], "held": []}
    assert refunding.sandbox.control("GET", "ledger")["charges"] == []


# --- answers that are not what they should be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "differs"),
    [
        ("wrong_amount", {}, {"amount": 101}),
        ("string_amount", {}, {"amount": "100"}),
        ("wrong_currency", {}, {"currency": "gbp"}),
        ("unknown_status", {}, {"status": "reconsidered"}),
        ("unknown_field", {}, {"novelty": {"object": "novelty", "value": 1}}),
        ("other_version", {}, {"novelty": {"object": "novelty", "value": 1}}),
        ("answer", {"set": {"id": None, "destination_details.type": "moon"}, "drop": ["charge"]}, {"id": None}),
        ("huge", {"bytes": 5}, {"padding": "xxxxx"}),
    ],
)
def test_an_answer_is_wrong_on_the_wire_and_right_under_its_key(
    refunding: Refunding, kind: str, options: dict[str, Any], differs: dict[str, Any]
) -> None:
    refunding.rule(kind, count=1, **options)
    wrong, right = refunding.send("k"), refunding.send("k")
    assert wrong.status_code == 200
    assert {name: wrong.json()[name] for name in differs} == differs
    assert {name: right.json().get(name) for name in differs} != differs
    assert (right.json()["amount"], right.json()["currency"], right.json()["status"]) == (100, "usd", "succeeded")
    assert refunding.refunds() == [100]
    if kind == "answer":
        assert "charge" not in wrong.json()
        assert wrong.json()["destination_details"]["type"] == "moon"
    if kind == "other_version":
        assert wrong.headers["Stripe-Version"] == "2027-03-31.next"


def test_every_object_of_a_list_is_twisted(refunding: Refunding) -> None:
    refunding.send("a")
    refunding.send("b")
    refunding.rule("wrong_amount", match={"method": "GET", "path": "/v1/refunds"}, count=1)
    refunding.rule("answer", set={"has_more": True, "data.0.created": 4_000_000_000}, match={"method": "GET"})
    lists = [refunding.sandbox.raw("GET", "/v1/refunds").json() for _ in range(2)]
    assert [row["amount"] for row in lists[0]["data"]] == [101, 101]
    assert (lists[1]["has_more"], lists[1]["data"][0]["created"]) == (True, 4_000_000_000)


def test_an_answer_that_drips_is_whole_in_the_end(refunding: Refunding) -> None:
    refunding.rule("drip", ms=0, count=1)
    assert refunding.send("k").json()["amount"] == 100


# --- which calls ----------------------------------------------------------------------------------------------------


def test_a_rule_strikes_only_the_calls_that_it_names(refunding: Refunding) -> None:
    sandbox = refunding.sandbox
    other = sandbox.client.v1.accounts.create({"type": "standard"}).id
    customer = sandbox.client.v1.customers.create({"name": "Elm"}).id
    sandbox.client.v1.customers.create({"name": "Oak"}, {"stripe_account": other})

    tries = itertools.count()

    def struck(match: dict[str, Any]) -> list[int]:
        key = f"run7:{next(tries)}"  # an answer that is kept would come again
        sandbox.control("POST", "faults", kind="error", status=499, match=match)
        calls = [
            sandbox.raw("POST", "/v1/customers", {"name": "A"}, Idempotency_Key=key).status_code,
            sandbox.raw("GET", f"/v1/customers/{customer}").status_code,
            sandbox.raw("GET", f"/v1/refunds?payment_intent={refunding.intent}").status_code,
            sandbox.raw("GET", "/v1/customers", Stripe_Account=other).status_code,
            sandbox.raw("GET", f"/v1/customers/{customer}/balance_transactions").status_code,
        ]
        sandbox.control("DELETE", "faults")
        return [number for number, status in enumerate(calls) if status == 499]

    assert struck({}) == [0, 1, 2, 3, 4]
    assert struck({"method": "POST"}) == [0]
    assert struck({"path": "/v1/customers"}) == [0, 3]
    assert struck({"path": "/v1/customers/*"}) == [1]
    assert struck({"path": "/v1/customers/**"}) == [0, 1, 3, 4]
    assert struck({"id": customer}) == [1, 4]
    assert struck({"id": refunding.intent}) == [2]
    assert struck({"account": other}) == [3]
    assert struck({"key": "run7:*"}) == [0]
    assert struck({"nth": 2}) == [1]
    assert struck({"nth": [1, 5]}) == [0, 4]
    assert struck({"after": 3}) == [3, 4]


def test_a_rule_strikes_so_often_and_no_more(refunding: Refunding) -> None:
    refunding.rule("429", count=2)
    assert [refunding.send().status_code for _ in range(4)] == [429, 429, 200, 200]
    [rule] = refunding.sandbox.control("GET", "faults")["rules"]
    assert (rule["kind"], rule["name"], rule["seen"], rule["fired"]) == ("429", "429-1", 4, 2)
    [*_, last] = refunding.sandbox.control("GET", "requests")["requests"]
    assert (last["fault"], last["status"]) == (None, 200)


def test_the_first_rule_that_strikes_is_the_only_one(refunding: Refunding) -> None:
    match = {"path": "/v1/refunds"}
    refunding.sandbox.control(
        "POST", "faults", rules=[{"kind": "429", "count": 1, "match": match}, {"kind": "401", "match": match}]
    )
    assert [refunding.send().status_code for _ in range(2)] == [429, 401]
    refunding.sandbox.control("DELETE", "faults/401-2")
    assert refunding.send().status_code == 200
    assert [rule["name"] for rule in refunding.sandbox.control("DELETE", "faults")["rules"]] == []


def _run(seed: int, order: list[int]) -> dict[str, int]:
    """A sandbox of its own, refunds with the keys k0 … in some order: the status that each got."""
    handle = start_in_thread()
    sandbox = Sandbox(handle)
    refunding = Refunding(sandbox)
    refunding.rule("429", rate=0.3, seed=seed)
    refunding.rule("500_before", rate=0.2, seed=seed)
    got = {f"k{number}": refunding.send(f"k{number}", amount=1).status_code for number in order}
    refunding.close()
    sandbox.close()
    return got


def test_the_same_seed_gives_the_same_run_in_any_order() -> None:
    forth, back = _run(7, list(range(60))), _run(7, list(range(60))[::-1])
    assert forth == back
    assert _run(8, list(range(60))) != forth
    # Of 60, 30 % are 18; of the other 42, 20 % are about 8.
    assert 9 <= list(forth.values()).count(429) <= 27
    assert 2 <= list(forth.values()).count(500) <= 16


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"kind": "timeout"}, "There is no kind timeout. Did you mean lock_timeout, timeout_after"),
        ({}, "There is no kind (none)."),
        ({"kind": "429", "ms": 5}, "A rule of kind 429 has no ms"),
        ({"kind": "429", "rate": 1.1}, "rate is a share"),
        ({"kind": "429", "rate": True}, "rate is a share"),
        ({"kind": "429", "count": 0}, "count is how often"),
        ({"kind": "429", "seed": [1]}, "seed is a number or a text"),
        ({"kind": "429", "name": ""}, "name a text"),
        ({"kind": "429", "reason": "tired"}, "reason is null or one of"),
        ({"kind": "429", "match": {"verb": "POST"}}, "match is an object"),
        ({"kind": "429", "match": {"method": "post"}}, "match.method is"),
        ({"kind": "429", "match": {"path": "refunds"}}, "match.path begins with /v1/"),
        ({"kind": "429", "match": {"nth": 0}}, "match.nth is"),
        ({"kind": "429", "match": {"id": 5}}, "match.id is a text"),
        ({"kind": "slow", "ms": 120_001}, "ms is 0 to 120000"),
        ({"kind": "slow", "ms": [5, 1]}, "ms is 0 to 120000"),
        ({"kind": "slow", "ms": "soon"}, "ms is 0 to 120000"),
        ({"kind": "error", "status": 200}, "status is an HTTP status"),
        ({"kind": "html", "effect": 1}, "effect is true or false"),
        ({"kind": "answer", "set": []}, "set is an object"),
        ({"kind": "answer", "drop": "id"}, "drop is a list"),
        ({"kind": "huge", "bytes": 0}, "bytes is a whole number"),
        ({"rules": "429"}, 'Say {"rules"'),
        ({"rules": [], "kind": "429"}, 'Say {"rules"'),
        ({"rules": [{"kind": "429"}, {"kind": "430"}]}, "There is no kind 430."),
        ({"rules": [{"kind": "429", "name": "a"}, {"kind": "401", "name": "a"}]}, "There is a rule called a already"),
        ({"rules": ["429"]}, "A rule is an object"),
    ],
)
def test_a_wrong_rule_is_refused_and_changes_nothing(sandbox: Sandbox, rule: dict[str, Any], says: str) -> None:
    answer = sandbox.raw("POST", "/_sandbox/faults", json.dumps(rule))
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert sandbox.control("GET", "faults")["rules"] == []


def test_a_rule_that_is_not_there_cannot_be_removed(sandbox: Sandbox) -> None:
    assert sandbox.raw("DELETE", "/_sandbox/faults/nothing").status_code == 404
    assert sandbox.raw("POST", "/_sandbox/faults/nothing").status_code == 404
