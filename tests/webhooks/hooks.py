"""An agency's own server on this machine, and what its endpoint is told."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network

from tests.servers import serving

THIS_MACHINE = (ip_network("127.0.0.0/8"),)


@dataclass
class Receiver:
    """Keeps every call. `answers` are given to the next ones in their order, then 200: (status, headers)."""

    url: str = ""
    calls: list[tuple[dict[str, str], str]] = field(default_factory=list)
    answers: deque[tuple[int, dict[str, str]]] = field(default_factory=deque)
    drip: bool = False
    """Answer a byte at a time, and never come to an end."""
    endless: bool = False
    """Answer 200 at once, and a body that does not end."""
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _body in self.calls]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            receiver.calls.append(({name.lower(): value for name, value in self.headers.items()}, body))
            if receiver.drip:
                self._drip()
                return
            status, headers = receiver.answers.popleft() if receiver.answers else (200, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if receiver.endless:
                self._pour()

        def _drip(self) -> None:
            try:
                while not receiver.closing.wait(0.05):
                    self.wfile.write(b"H")
            except OSError:
                pass

        def _pour(self) -> None:
            try:
                while not receiver.closing.is_set():
                    self.wfile.write(b"x" * 65_536)
            except OSError:
                pass

        def log_message(self, *_arguments: object) -> None:
            pass

    with serving(Handler) as url:
        receiver.url = f"{url}/hooks?for=billing"
        try:
            yield receiver
        finally:
            receiver.closing.set()
