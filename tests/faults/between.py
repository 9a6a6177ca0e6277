"""Somebody who stands between us and Stripe: passes every request on, dawdles, or loses an answer on its way back."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from tests.servers import serving


@dataclass
class Between:
    """`lose(method, path)` says which answers are cut off once Stripe has done what it was asked for."""

    url: str = ""
    passed: list[tuple[str, str]] = field(default_factory=list)
    posted: threading.Event = field(default_factory=threading.Event)
    lose: Callable[[str, str], bool] = lambda method, path: False
    delay: Callable[[], float] = lambda: 0.0


@contextmanager
def standing_between(stripe_url: str) -> Iterator[Between]:
    between = Between()
    host = urlsplit(stripe_url).netloc
    ours = threading.local()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not hasattr(ours, "line"):
                ours.line = http.client.HTTPConnection(host, timeout=120)
            headers = {name: value for name, value in self.headers.items() if name not in ("Host", "Connection")}
            ours.line.request(self.command, self.path, body, headers)
            answer = ours.line.getresponse()
            text = answer.read()
            path = urlsplit(self.path).path
            between.passed.append((self.command, path))
            if self.command == "POST":
                between.posted.set()
                time.sleep(between.delay())
            if between.lose(self.command, path):
                self.close_connection = True
                return
            try:
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("server", "date", "connection"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # whoever asked is dead

        do_POST = do_GET

        def finish(self) -> None:
            if hasattr(ours, "line"):
                ours.line.close()
            with suppress(BrokenPipeError, ConnectionResetError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: what passed is kept."""

    with serving(Handler) as between.url:
        yield between
