"""Forms in, JSON out, over a real socket."""

import json
import socket
from urllib.parse import urlsplit

import pytest

from sandbox.stripe.wire import StripeError, decode
from tests.sandbox.conftest import Sandbox


@pytest.mark.parametrize(
    ("form", "meaning"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1&a=2", {"a": "2"}),
        ("a[b]=1&a[c][d]=2", {"a": {"b": "1", "c": {"d": "2"}}}),
        ("a[0]=x&a[1]=y", {"a": {"0": "x", "1": "y"}}),
        ("a[]=x&a[]=y", {"a": {"0": "x", "1": "y"}}),
        ("a[][p]=1&a[][q]=2&a[][p]=3", {"a": {"0": {"p": "1", "q": "2"}, "1": {"p": "3"}}}),
        ("metadata[a b]=%26%3D%5B&x=%C3%A9", {"metadata": {"a b": "&=["}, "x": "é"}),
        ("pause_collection=", {"pause_collection": ""}),
    ],
)
def test_a_form_means_nested_parameters(form: str, meaning: object) -> None:
    assert decode(form) == meaning


@pytest.mark.parametrize("form", ["a[b=1", "[a]=1", "a=1&a[b]=2", "a[b]=2&a=1"])
def test_a_form_that_contradicts_itself_is_refused(form: str) -> None:
    with pytest.raises(StripeError):
        decode(form)


def _connect(sandbox: Sandbox) -> socket.socket:
    at = urlsplit(sandbox.url)
    return socket.create_connection((at.hostname, at.port), timeout=120)


def _request(body: bytes, length: int | None = None, extra: bytes = b"") -> bytes:
    head = b"POST /v1/customers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk_test_sandbox\r\n"
    return head + extra + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def _answers(wire: socket.socket, count: int) -> list[tuple[int, dict[str, object]]]:
    read, found = b"", []
    while len(found) < count:
        head, there, rest = read.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) if there else 0
        if there and len(rest) >= length:
            found.append((int(head.split()[1]), json.loads(rest[:length])))
            read = rest[length:]
            continue
        more = wire.recv(65536)
        assert more, f"closed after {len(found)} answers"
        read += more
    return found


def test_a_body_shorter_than_its_length_does_nothing(sandbox: Sandbox) -> None:
    with _connect(sandbox) as wire:
        wire.sendall(_request(b"name=Half", length=50))
    assert sandbox.client.v1.customers.list().data == []
    assert sandbox.control("GET", "requests")["requests"][-1]["method"] == "GET"


def test_requests_in_one_packet_are_answered_in_their_order(sandbox: Sandbox) -> None:
    with _connect(sandbox) as wire:
        wire.sendall(b"".join(_request(b"name=%d" % number) for number in range(5)))
        assert [row["name"] for _, row in _answers(wire, 5)] == ["0", "1", "2", "3", "4"]


def test_a_request_may_come_byte_by_byte(sandbox: Sandbox) -> None:
    with _connect(sandbox) as wire:
        for byte in _request(b"name=Slow"):
            wire.sendall(bytes([byte]))
        assert _answers(wire, 1)[0][1]["name"] == "Slow"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/customers HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /v1/customers HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /v1/customers HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(sandbox: Sandbox, sent: bytes, status: int) -> None:
    with _connect(sandbox) as wire:
        wire.sendall(sent)
        assert _answers(wire, 1)[0][0] == status
        assert wire.recv(1) == b""


@pytest.mark.parametrize(
    ("headers", "status", "says"),
    [
        ({"Authorization": ""}, 401, "You did not provide an API key"),
        ({"Authorization": "Bearer nonsense"}, 401, "Invalid API Key provided"),
        ({"Authorization": "Bearer sk_live_sandbox"}, 401, "Invalid API Key provided"),
        ({"Authorization": "Basic c2tfdGVzdF9zYW5kYm94Og=="}, 200, ""),
        ({"Stripe-Version": "2019-01-01"}, 400, "Invalid Stripe API version: 2019-01-01"),
        ({"Stripe-Account": "acct_unknown"}, 403, "does not have access to account 'acct_unknown'"),
    ],
)
def test_headers_are_checked_first(sandbox: Sandbox, headers: dict[str, str], status: int, says: str) -> None:
    answer = sandbox.raw("GET", "/v1/customers", **headers)
    assert answer.status_code == status
    assert says in answer.json().get("error", {}).get("message", "")
    assert answer.headers["Request-Id"].startswith("req_")
    assert answer.headers["Stripe-Version"] == "2026-10-28.endive"


def test_what_is_not_modelled_is_said_so_and_not_made_up(sandbox: Sandbox) -> None:
    unknown_call = sandbox.raw("POST", "/v1/checkout/sessions", {"mode": "payment"})
    assert unknown_call.status_code == 501
    assert unknown_call.json()["error"]["message"] == "The sandbox does not model POST /v1/checkout/sessions."
    assert unknown_call.headers["Stripe-Should-Retry"] == "false"
    known_field = sandbox.raw("POST", "/v1/customers", {"source": "tok_visa"})
    assert known_field.status_code == 501
    assert "does not model the parameter source" in known_field.json()["error"]["message"]
    assert sandbox.client.v1.customers.list().data == []
