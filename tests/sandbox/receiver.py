"""A webhook endpoint for tests."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import stripe

from tests.sandbox.conftest import Sandbox
from tests.servers import serving

SECRET = "whsec_of_the_test"


@dataclass
class Receiver:
    """A webhook endpoint that keeps what it gets and answers with the statuses it was told, then with 200."""

    url: str = ""
    got: list[tuple[str, bytes]] = field(default_factory=list)
    asked: Callable[[dict[str, Any]], None] = lambda event: None
    """What it does with an event before it answers."""
    answers: list[int] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def events(self, count: int) -> list[dict[str, Any]]:
        """Wait for so many deliveries, verify each signature with Stripe's own code, return the events."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= count, timeout=120), (
                f"{len(self.got)} of {count} came"
            )
        for signature, body in self.got:
            stripe.Webhook.construct_event(body, signature, SECRET)
        return [json.loads(body) for _, body in self.got]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 5

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.asked(json.loads(body))
            with receiver.changed:
                receiver.got.append((self.headers["Stripe-Signature"], body))
                status = receiver.answers.pop(0) if receiver.answers else 200
                receiver.changed.notify_all()
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with serving(Handler) as url:
        receiver.url = f"{url}/webhooks/stripe"
        yield receiver


def settled(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Wait until no delivery is under way; the log of all of them."""
    for _ in range(500):
        state = sandbox.control("GET", "webhooks")
        if state["waiting"] == 0:
            log: list[dict[str, Any]] = state["deliveries"]
            return log
        threading.Event().wait(0.01)
    raise AssertionError(f"{state['waiting']} deliveries never ended")
