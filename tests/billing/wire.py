"""A server that answers what a test tells it to, to see what goes over the wire and what becomes of what comes back."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.servers import serving


@dataclass
class Request:
    """What one client sent: `form` holds the pairs of the query or the body, in their order."""

    method: str
    path: str
    form: list[tuple[str, str]]
    headers: dict[str, str]


@dataclass
class Reply:
    """What to answer. `drop` closes the connection after the request was read; `stall` waits for the client to go."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    stall: bool = False


@dataclass
class Wire:
    """`answer` decides each reply; every request is kept in `requests`."""

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    answer: Callable[[Request], Reply] = lambda request: Reply(500)
    closing: threading.Event = field(default_factory=threading.Event)


def failure(status: int, code: str | None = None, type: str = "invalid_request_error", **headers: str) -> Reply:
    """An error in Stripe's shape."""
    body = {"error": {"type": type, "message": "told so", **({"code": code} if code else {})}}
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


@contextmanager
def listening() -> Iterator[Wire]:
    wire = Wire()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length).decode()
            parts = urlsplit(self.path)
            form = parse_qsl(body or parts.query, keep_blank_values=True)
            request = Request(self.command, parts.path, form, dict(self.headers.items()))
            wire.requests.append(request)
            reply = wire.answer(request)
            if reply.stall:
                wire.closing.wait(10)
            if reply.drop or reply.stall:
                self.close_connection = True
                return
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(text.encode())), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):  # whoever has enough of the answer hangs up
                self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the requests are kept."""

    with serving(Handler) as wire.url:
        try:
            yield wire
        finally:
            wire.closing.set()
