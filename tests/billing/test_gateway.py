"""The wire to Stripe: what leaves, how often, and what each thing that may come back is called."""

import gzip
import json
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import pytest
import stripe
from stripe._api_requestor import _APIRequestor

from billing import gateway
from billing.answers import Gone, LockedOut, ReadRefused, Unreachable, Unreadable
from billing.gateway import API_VERSION, Gateway, Outcome
from billing.money import Money
from billing.reads import CUSTOMER, EVENT, INVOICE, REFUND, SUBSCRIPTION
from tenants.db import OPERATOR, Database
from tests.billing import stripe_json as made
from tests.billing.wire import Reply, Request, Wire, failure, listening
from tests.servers import serving

NINE_DOLLARS = Money(900, "usd")
REFUND_BODY = {"payment_intent": "pi_1", "amount": 900, "metadata": {"step": "7"}}


@pytest.fixture
def wire() -> Iterator[Wire]:
    with listening() as opened:
        yield opened


@pytest.fixture
def stripe_at(wire: Wire) -> Gateway:
    return Gateway("sk_test_1", wire.url)


def refund_now(stripe_at: Gateway, body: dict[str, Any] | None = None, key: str = "k1") -> gateway.Answer[Any]:
    return stripe_at.create_refund(body or REFUND_BODY, key, NINE_DOLLARS)


# What leaves


def test_a_write_leaves_with_its_key_the_pinned_version_and_no_account(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.refund())
    assert refund_now(stripe_at).outcome is Outcome.DONE
    headers = wire.requests[0].headers
    assert headers["Idempotency-Key"] == "k1"
    assert headers["Stripe-Version"] == API_VERSION == "2026-10-28.endive"
    assert "Stripe-Account" not in headers
    assert headers["Authorization"] == "Bearer sk_test_1"


def test_the_pinned_version_is_the_one_that_stripe_python_speaks() -> None:
    assert stripe.api_version == API_VERSION


def test_a_frozen_version_goes_out_in_place_of_todays(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.refund())
    stripe_at.create_refund(REFUND_BODY, "k1", NINE_DOLLARS, version="2026-09-30.endive")
    assert wire.requests[0].headers["Stripe-Version"] == "2026-09-30.endive"


def test_a_connected_account_is_named_on_reads_and_writes(wire: Wire) -> None:
    wire.answer = lambda request: Reply(200, made.refund())
    connected = Gateway("sk_test_1", wire.url, "acct_9")
    refund_now(connected)
    connected.refund("re_1")
    assert [request.headers["Stripe-Account"] for request in wire.requests] == ["acct_9", "acct_9"]


def test_the_body_keeps_its_order(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.refund(metadata={"z": "1", "a": "2"}))
    body = {"payment_intent": "pi_1", "metadata": {"z": "1", "a": "2"}, "amount": 900}
    assert refund_now(stripe_at, body).outcome is Outcome.DONE
    assert [name for name, _ in wire.requests[0].form] == ["payment_intent", "metadata[z]", "metadata[a]", "amount"]


def test_a_write_without_a_key_is_refused_before_it_leaves(wire: Wire, stripe_at: Gateway) -> None:
    for key in ("", "k" * 256):
        with pytest.raises(ValueError, match="idempotency key"):
            refund_now(stripe_at, key=key)
    assert wire.requests == []


@pytest.mark.parametrize("part", [None, [], {}, (), 9.0, {"deep": [{"deeper": None}]}])
def test_what_would_vanish_on_the_way_is_refused(wire: Wire, stripe_at: Gateway, part: Any) -> None:
    with pytest.raises(ValueError):
        refund_now(stripe_at, {**REFUND_BODY, "part": part})
    assert wire.requests == []


REPORTED = [name for name, _ in _APIRequestor.AI_AGENTS]
"""The environment variables that the library looks for and would tell Stripe of."""


def test_the_environment_neither_reroutes_us_nor_is_reported(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in REPORTED:
        monkeypatch.setenv(name, "1")
    wire.answer = lambda request: Reply(200, made.refund())
    Gateway("sk_test_1", wire.url).refund("re_1")
    headers = wire.requests[0].headers
    assert headers["User-Agent"] == f"Stripe/v1 PythonBindings/{stripe.VERSION}"
    assert REPORTED
    assert "agent" not in headers["X-Stripe-Client-User-Agent"]
    assert "X-Stripe-Client-Telemetry" not in headers


def test_ids_stay_inside_their_place_in_the_path(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: failure(404, "resource_missing")
    with pytest.raises(Gone):
        stripe_at.refund("../customers/cus_1?x=1")
    assert wire.requests[0].path == "/v1/refunds/..%2Fcustomers%2Fcus_1%3Fx%3D1"
    for nothing in ("", ".."):
        with pytest.raises(Gone):
            stripe_at.refund(nothing)
    assert len(wire.requests) == 1


def test_a_call_inside_a_unit_of_work_is_refused(wire: Wire, stripe_at: Gateway, db: Database) -> None:
    with db.work(OPERATOR):
        with pytest.raises(RuntimeError, match="unit of work"):
            refund_now(stripe_at)
        with pytest.raises(RuntimeError, match="unit of work"):
            stripe_at.refund("re_1")
    assert wire.requests == []


# What comes back from a write

KNOWN = [
    (failure(400, "charge_already_refunded"), Outcome.REFUSED, "charge_already_refunded"),
    (failure(400), Outcome.REFUSED, None),
    (failure(402, "card_declined", "card_error"), Outcome.REFUSED, "card_declined"),
    (failure(404, "resource_missing"), Outcome.REFUSED, "resource_missing"),
    (failure(400, None, "idempotency_error"), Outcome.KEY_MISUSED, None),
    (failure(404, "x", "idempotency_error"), Outcome.KEY_MISUSED, "x"),
    (failure(401), Outcome.LOCKED_OUT, None),
    (failure(403, "account_invalid"), Outcome.LOCKED_OUT, "account_invalid"),
    (failure(409, "idempotency_key_in_use", "idempotency_error"), Outcome.BUSY, "idempotency_key_in_use"),
    (failure(429, "rate_limit"), Outcome.LIMITED, "rate_limit"),
    (failure(400, "rate_limit"), Outcome.LIMITED, "rate_limit"),
    (failure(429, "lock_timeout"), Outcome.BUSY, "lock_timeout"),
    (failure(500, None, "api_error"), Outcome.UNKNOWN, None),
    (failure(503, None, "api_error"), Outcome.UNKNOWN, None),
    (Reply(502, "<html>bad gateway</html>"), Outcome.UNKNOWN, None),
    (Reply(409, "<html>conflict</html>"), Outcome.UNKNOWN, None),
    (Reply(404, "<html>not found</html>"), Outcome.UNKNOWN, None),
    (Reply(200, "<html>welcome</html>"), Outcome.UNKNOWN, None),
    (Reply(200, ""), Outcome.UNKNOWN, None),
    (Reply(200, "[]"), Outcome.UNKNOWN, None),
    (Reply(200, "null"), Outcome.UNKNOWN, None),
    (Reply(500, {"error": ["what"]}), Outcome.UNKNOWN, None),
    (Reply(500, {"error": "what"}), Outcome.UNKNOWN, None),
    (Reply(302, "", {"Location": "/v1/refunds/re_1"}), Outcome.UNKNOWN, None),
    (Reply(200, made.listed(made.refund())), Outcome.UNKNOWN, None),
    (Reply(drop=True), Outcome.UNKNOWN, None),
]


@pytest.mark.parametrize(("reply", "outcome", "code"), KNOWN)
def test_each_answer_has_one_name_and_is_asked_for_once(
    wire: Wire, stripe_at: Gateway, reply: Reply, outcome: Outcome, code: str | None
) -> None:
    wire.answer = lambda request: reply
    answer = refund_now(stripe_at)
    assert (answer.outcome, answer.code, answer.fact) == (outcome, code, None)
    assert [request.method for request in wire.requests] == ["POST"]


def test_a_connection_that_was_refused_is_not_sent() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        answer = refund_now(Gateway("sk_test_1", f"http://127.0.0.1:{nobody.getsockname()[1]}"))
    assert (answer.outcome, answer.message) == ("not_sent", "no connection could be made.")


def test_a_timeout_is_unknown_and_never_resent(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway.TIMEOUT == (5, 25)
    monkeypatch.setattr(gateway, "TIMEOUT", (0.2, 0.2))
    wire.answer = lambda request: Reply(stall=True)
    answer = refund_now(Gateway("sk_test_1", wire.url))
    assert (answer.outcome, answer.message) == ("unknown", "nothing came back in time.")
    assert len(wire.requests) == 1


def test_should_retry_true_makes_no_second_post(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: failure(429, "lock_timeout", Stripe_Should_Retry="true")
    stripe_at._client._requestor._client.INITIAL_DELAY = 0.01
    assert refund_now(stripe_at).outcome is Outcome.BUSY
    assert len(wire.requests) == 1


def test_a_replayed_answer_says_so(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: failure(500, None, "api_error", Idempotent_Replayed="true", Request_Id="req_7")
    answer = refund_now(stripe_at)
    assert (answer.outcome, answer.replayed, answer.request_id, answer.http_status) == ("unknown", True, "req_7", 500)
    wire.answer = lambda request: Reply(200, made.refund(), {"Idempotent-Replayed": "true"})
    assert refund_now(stripe_at).replayed
    wire.answer = lambda request: Reply(200, made.refund())
    assert not refund_now(stripe_at).replayed


def test_a_limit_names_itself(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: failure(429, "rate_limit", Stripe_Rate_Limited_Reason="endpoint-rate")
    assert refund_now(stripe_at).limited_by == "endpoint-rate"


def test_an_answer_holds_no_key_when_it_is_pickled(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.refund())
    assert b"sk_test_1" not in pickle.dumps(refund_now(stripe_at))


# Answers without end


def test_an_answer_of_10_mb_is_not_read_to_its_end(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.refund(metadata={"long": "x" * 10_000_000}))
    assert refund_now(stripe_at).outcome is Outcome.UNKNOWN
    stripe_at._client._requestor._client.INITIAL_DELAY = 0.01
    with pytest.raises(Unreachable):
        stripe_at.refund("re_1")


def test_a_packed_answer_counts_unpacked() -> None:
    with answering(gzip.compress(json.dumps(made.refund(metadata={"long": "x" * 10_000_000})).encode())) as url:
        assert refund_now(Gateway("sk_test_1", url)).outcome is Outcome.UNKNOWN
    with answering(gzip.compress(json.dumps(made.refund()).encode())) as url:
        assert refund_now(Gateway("sk_test_1", url)).outcome is Outcome.DONE


def test_an_answer_that_comes_drop_by_drop_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.bounded.WHOLE_WITHIN", 0.3)
    with answering(json.dumps(made.refund()).encode(), pause=0.05) as url:
        begun = time.monotonic()
        answer = refund_now(Gateway("sk_test_1", url))
        assert (answer.outcome, answer.fact) == (Outcome.UNKNOWN, None)
        assert time.monotonic() - begun < 5


@contextmanager
def answering(raw: bytes, pause: float = 0.0) -> Iterator[str]:
    """A server that answers everything with these bytes: gzip, or plain and one by one with a pause after each."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            if not pause:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            with suppress(OSError):
                for part in [raw] if not pause else [raw[i : i + 1] for i in range(len(raw))]:
                    self.wfile.write(part)
                    if ended.wait(pause):
                        return

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with serving(Handler) as url:
        try:
            yield url
        finally:
            ended.set()


# A 200 that is not what was asked for


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 901},
        {"amount": "900"},
        {"amount": True},
        {"currency": "eur"},
        {"currency": "USD"},
        {"payment_intent": "pi_2"},
        {"payment_intent": None},
        {"status": "almost"},
        {"status": None},
        {"object": "charge"},
        {"id": None},
        {"metadata": {"step": "8"}},
        {"metadata": None},
        {"created": "yesterday"},
        {"created": 10**18},
    ],
)
def test_a_wrong_refund_is_unknown(wire: Wire, stripe_at: Gateway, wrong: dict[str, Any]) -> None:
    wire.answer = lambda request: Reply(200, made.refund(**wrong))
    assert refund_now(stripe_at).outcome is Outcome.UNKNOWN


def test_a_failed_refund_is_done_and_says_failed(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.refund(status="failed", failure_reason="expired_or_canceled_card"))
    answer = refund_now(stripe_at)
    assert answer.outcome is Outcome.DONE
    assert answer.fact.status == "failed"
    assert answer.fact.failure_reason == "expired_or_canceled_card"


NOTE_BODY = {
    "invoice": "in_1",
    "lines": [{"type": "invoice_line_item", "invoice_line_item": "il_1", "amount": 900}],
    "refund_amount": 900,
    "email_type": "none",
    "metadata": {"step": "7"},
}


@pytest.mark.parametrize(
    ("sent", "came", "outcome"),
    [
        ({}, {}, Outcome.DONE),
        ({}, {"total": 899, "post_payment_amount": 899}, Outcome.UNKNOWN),
        ({}, {"post_payment_amount": 500, "pre_payment_amount": 400}, Outcome.UNKNOWN),
        ({}, {"invoice": "in_2"}, Outcome.UNKNOWN),
        ({}, {"currency": "eur"}, Outcome.UNKNOWN),
        ({"refund_amount": 600, "credit_amount": 300}, {}, Outcome.DONE),
        ({"refund_amount": 600, "credit_amount": 200}, {}, Outcome.UNKNOWN),
        ({"refund_amount": 0, "refunds": [{"refund": "re_1"}]}, {}, Outcome.DONE),
        ({"refund_amount": 0, "refunds": [{"refund": "re_2"}]}, {}, Outcome.UNKNOWN),
    ],
)
def test_a_credit_note_must_be_the_one_that_was_asked_for(
    wire: Wire, stripe_at: Gateway, sent: dict[str, Any], came: dict[str, Any], outcome: Outcome
) -> None:
    wire.answer = lambda request: Reply(200, made.credit_note(**came))
    assert stripe_at.create_credit_note(NOTE_BODY | sent, "k", NINE_DOLLARS).outcome is outcome


def test_a_balance_entry_must_be_the_customers(wire: Wire, stripe_at: Gateway) -> None:
    body = {"amount": -900, "currency": "usd", "metadata": {"step": "7"}}
    wire.answer = lambda request: Reply(200, made.balance_entry())
    assert stripe_at.create_balance_entry("cus_1", body, "k").outcome is Outcome.DONE
    assert wire.requests[0].path == "/v1/customers/cus_1/balance_transactions"
    wire.answer = lambda request: Reply(200, made.balance_entry(customer="cus_2"))
    assert stripe_at.create_balance_entry("cus_1", body, "k").outcome is Outcome.UNKNOWN
    wire.answer = lambda request: Reply(200, made.balance_entry(amount=900))
    assert stripe_at.create_balance_entry("cus_1", body, "k").outcome is Outcome.UNKNOWN


# Pauses and invoices


def test_a_pause_is_one_call_with_its_incident_and_is_read_back(wire: Wire, stripe_at: Gateway) -> None:
    held = made.subscription(
        pause_collection={"behavior": "keep_as_draft", "resumes_at": None}, metadata={"incident": "inc_1"}
    )
    wire.answer = lambda request: Reply(200, held)
    answer = stripe_at.pause("sub_1", "keep_as_draft", "inc_1", "k")
    assert answer.outcome is Outcome.DONE
    assert wire.requests[0].form == [("pause_collection[behavior]", "keep_as_draft"), ("metadata[incident]", "inc_1")]
    wire.answer = lambda request: Reply(200, made.subscription())
    assert stripe_at.pause("sub_1", "keep_as_draft", "inc_1", "k").outcome is Outcome.UNKNOWN


def test_a_pause_is_lifted_by_an_empty_word(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.subscription())
    assert stripe_at.lift("sub_1", "k").outcome is Outcome.DONE
    assert wire.requests[0].form == [("pause_collection", ""), ("metadata[incident]", "")]


@pytest.mark.parametrize(
    ("verb", "path", "sent", "right", "wrong"),
    [
        ("stop_collecting", "", [("auto_advance", "false")], {"auto_advance": False}, {"auto_advance": True}),
        ("collect", "", [("auto_advance", "true")], {"auto_advance": True, "status": "open"}, {"status": "open"}),
        ("finalize", "/finalize", [("auto_advance", "false")], {"status": "open"}, {"status": "draft"}),
        ("void_invoice", "/void", [], {"status": "void"}, {"status": "open"}),
        ("pay", "/pay", [], {"status": "paid"}, {"status": "open"}),
    ],
)
def test_invoices_are_moved_and_read_back(
    wire: Wire, stripe_at: Gateway, verb: str, path: str, sent: Any, right: dict[str, Any], wrong: dict[str, Any]
) -> None:
    wire.answer = lambda request: Reply(200, made.invoice(**right))
    assert getattr(stripe_at, verb)("in_1", key="k").outcome is Outcome.DONE
    assert wire.requests[0].path == f"/v1/invoices/in_1{path}"
    assert wire.requests[0].form == [*sent, ("expand[0]", "payments")]
    wire.answer = lambda request: Reply(200, made.invoice(**wrong))
    assert getattr(stripe_at, verb)("in_1", key="k").outcome is Outcome.UNKNOWN


# Reads


@pytest.mark.parametrize(
    ("reply", "refusal"),
    [
        (failure(404, "resource_missing"), Gone),
        (failure(400, "parameter_invalid_string"), ReadRefused),
        (failure(401), LockedOut),
        (failure(403), LockedOut),
        (Reply(200, "<html></html>"), Unreachable),
        (Reply(200, made.listed()), Unreadable),
        (Reply(200, made.refund(amount="9.00")), Unreadable),
        (Reply(500, {"error": [1]}), Unreadable),
    ],
)
def test_a_read_that_fails_says_what_happens_next(
    wire: Wire, stripe_at: Gateway, reply: Reply, refusal: type[Exception]
) -> None:
    stripe_at._client._requestor._client.INITIAL_DELAY = 0.01
    wire.answer = lambda request: reply
    with pytest.raises(refusal):
        stripe_at.refund("re_1")


def test_a_read_is_tried_three_times_and_waits_out_a_limit(
    wire: Wire, stripe_at: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    us, sleep = threading.get_ident(), time.sleep
    monkeypatch.setattr("time.sleep", lambda for_: slept.append(for_) if threading.get_ident() == us else sleep(for_))
    replies = [failure(500), failure(409), Reply(200, made.refund())]
    wire.answer = lambda request: replies[len(wire.requests) - 1]
    assert stripe_at.refund("re_1").id == "re_1"
    wire.requests.clear()
    replies = [failure(429, "rate_limit"), failure(429, "rate_limit"), Reply(200, made.refund())]
    slept.clear()
    assert stripe_at.refund("re_1").id == "re_1"
    assert slept == [1, 2]
    wire.answer = lambda request: failure(429, "rate_limit")
    with pytest.raises(Unreachable, match="slow down"):
        stripe_at.refund("re_1")


def test_a_redirected_read_is_not_followed(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(302, "", {"Location": "http://127.0.0.1:9/"})
    with pytest.raises(Unreachable, match=r"^Stripe does not answer: it sent us somewhere else\.$"):
        stripe_at.refund("re_1")
    assert len(wire.requests) == 1


def asked(request: Request) -> dict[str, str]:
    return dict(request.form)


def test_a_list_is_read_to_its_end_with_its_filters(wire: Wire, stripe_at: Gateway) -> None:
    def answer(request: Request) -> Reply:
        last = asked(request).get("starting_after")
        first = [made.refund(id="re_3"), made.refund(id="re_2")]
        return Reply(200, made.listed(*first, more=True) if last is None else made.listed(made.refund(id="re_1")))

    wire.answer = answer
    since = datetime(2019, 8, 22, 20, tzinfo=UTC)
    assert [refund.id for refund in stripe_at.refunds(created_since=since)] == ["re_3", "re_2", "re_1"]
    # 2019-08-22T20:00Z is day 18,130 of 86,400 s and 72,000 s more: 1,566,432,000 + 72,000
    assert [asked(request)["created[gte]"] for request in wire.requests] == ["1566504000", "1566504000"]
    assert asked(wire.requests[1])["starting_after"] == "re_2"


def test_a_cursor_that_runs_in_a_circle_is_noticed(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.listed(made.refund(), more=True))
    with pytest.raises(Unreadable, match="never ends"):
        stripe_at.refunds()
    wire.answer = lambda request: Reply(200, made.listed(more=True))
    with pytest.raises(Unreadable, match="empty page"):
        stripe_at.refunds()


def test_an_entry_without_an_id_is_no_entry(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.listed(made.refund(id=None)))
    with pytest.raises(Unreadable):
        stripe_at.refunds()


def test_lines_and_payments_that_were_cut_short_are_read_whole(wire: Wire, stripe_at: Gateway) -> None:
    def answer(request: Request) -> Reply:
        last = asked(request).get("starting_after")
        if request.path == "/v1/invoices/in_1/lines":
            if last is None:
                return Reply(200, made.listed(made.line(id="il_1"), made.line(id="il_2"), more=True))
            return Reply(200, made.listed(made.line(id="il_3")))
        if request.path == "/v1/invoice_payments":
            assert asked(request)["invoice"] == "in_1"
            return Reply(200, made.listed(made.payment(id="inpay_2"), made.payment(id="inpay_1")))
        cut = {"lines": made.listed(made.line(), more=True), "payments": made.listed(made.payment(), more=True)}
        return Reply(200, made.invoice(**cut))

    wire.answer = answer
    invoice = stripe_at.invoice("in_1")
    assert [line.id for line in invoice.lines] == ["il_1", "il_2", "il_3"]
    assert [payment.id for payment in invoice.payments or ()] == ["inpay_2", "inpay_1"]


def test_lists_ask_for_everything_that_we_read(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.listed())
    for kind in (INVOICE, SUBSCRIPTION, CUSTOMER, REFUND, EVENT):
        stripe_at.page(kind)
    invoices, subscriptions, *_ = [asked(request) for request in wire.requests]
    assert invoices == {"limit": "100", "expand[0]": "data.payments"}
    assert subscriptions == {"limit": "100", "status": "all"}


def test_a_page_names_its_cursor(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.listed(made.refund(id="re_2"), more=True))
    assert stripe_at.page(REFUND).after == "re_2"
    wire.answer = lambda request: Reply(200, made.listed(made.refund(id="re_2")))
    assert stripe_at.page(REFUND).after is None


def test_the_balance_is_one_sum_per_currency(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(
        200, {"object": "balance", "available": [{"amount": -5, "currency": "usd"}, {"amount": 7, "currency": "jpy"}]}
    )
    assert stripe_at.available_balance() == {"usd": -5, "jpy": 7}


def test_a_preview_changes_nothing_and_has_no_id(wire: Wire, stripe_at: Gateway) -> None:
    wire.answer = lambda request: Reply(200, made.credit_note())
    note = stripe_at.preview_credit_note(NOTE_BODY)
    assert (note.id, note.total, note.lines[0].invoice_line) == ("", 900, "il_1")
    assert wire.requests[0].method == "GET"
    assert wire.requests[0].path == "/v1/credit_notes/preview"


# One client per thread and process


def test_threads_and_processes_have_their_own_client(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    house: Any = SimpleNamespace(
        database=Database("postgresql:///nobody"),
        settings=SimpleNamespace(stripe_secret_key="sk_test_1", stripe_api_base=wire.url, stripe_rate=None),
    )

    def client(account: str = "") -> Any:
        return gateway.connect(house, account)._client

    here = client()
    assert client() is here
    assert client("acct_9") is not here
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(client).result() is not here
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert client() is not here


def test_no_key_is_a_sentence(wire: Wire) -> None:
    house: Any = SimpleNamespace(settings=SimpleNamespace(stripe_secret_key="", stripe_api_base=None))
    with pytest.raises(LockedOut, match="STRIPE_SECRET_KEY"):
        gateway.connect(house, "")
