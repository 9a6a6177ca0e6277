"""Bodies that are huge, that never end or that come drop by drop, at the servers that the program runs under."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from flask import Flask
from werkzeug.serving import make_server

from tenants.house import House
from tests.webhooks.posting import about, kept, signed
from webhooks import views

RAW = json.dumps(about("subscription", "sub_1")).encode()


@pytest.fixture
def port(house: House) -> Iterator[int]:
    """The page, served by threads of this process."""
    app = Flask("test")
    app.extensions["house"] = house
    app.register_blueprint(views.blueprint)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    yield server.port
    server.shutdown()
    serving.join()
    server.server_close()


def opened(port: int, *headers: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    lines = ["POST /webhooks/stripe HTTP/1.1", "Host: x", "Connection: close", f"Stripe-Signature: {signed(RAW)}"]
    connection.sendall("\r\n".join([*lines, *headers, "", ""]).encode())
    return connection


def status(connection: socket.socket) -> int:
    with connection:
        return int(connection.makefile("rb").readline().split()[1])


def chunk(raw: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(raw), raw)


def test_a_body_in_chunks_is_as_good_as_any(port: int, house: House) -> None:
    connection = opened(port, "Transfer-Encoding: chunked")
    connection.sendall(chunk(RAW[:10]) + chunk(RAW[10:]) + b"0\r\n\r\n")
    assert status(connection) == 200
    assert kept(house) == [("evt_1", "received")]


@pytest.mark.parametrize(("size", "answer"), [(262_144, 400), (262_145, 413), (2_000_000, 413)])
def test_more_than_256_kb_in_chunks_is_refused_unread(port: int, house: House, size: int, answer: int) -> None:
    connection = opened(port, "Transfer-Encoding: chunked")
    for first in range(0, size, 65_536):
        connection.sendall(chunk(b" " * min(65_536, size - first)))
    connection.sendall(b"0\r\n\r\n")
    assert status(connection) == answer  # 400: read, and not what was signed
    assert kept(house) == []


def test_a_length_of_50_mb_is_refused_before_anything_is_read(port: int, house: House) -> None:
    begun = time.monotonic()
    assert status(opened(port, "Content-Length: 50000000")) == 413
    assert time.monotonic() - begun < 5
    assert kept(house) == []


@pytest.mark.parametrize("framing", ["Content-Length: 500", "Transfer-Encoding: chunked"])
def test_a_body_that_comes_drop_by_drop_is_given_up(
    port: int, house: House, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "WHOLE_WITHIN", 0.5)
    connection = opened(port, framing)
    ended = threading.Event()

    def drip() -> None:
        while not ended.wait(0.05):
            try:
                connection.sendall(chunk(b" ") if "chunked" in framing else b" ")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert status(connection) == 408
    finally:
        ended.set()
        dripping.join()
    assert kept(house) == []


@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        ("Content-Length: 500", b"{"),
        ("Transfer-Encoding: chunked", b"zz\r\n{\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\n{"),
    ],
)
def test_a_body_that_breaks_off_is_refused(port: int, house: House, framing: str, sent: bytes) -> None:
    connection = opened(port, framing)
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    assert status(connection) == 400
    assert kept(house) == []
