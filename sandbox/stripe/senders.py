"""Parcels on their way to one address: each at its time, over one connection or several."""

import contextlib
import hashlib
import heapq
import hmac
import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from sandbox.stripe.manners import Letter

PATIENCE: Final = 10.0
"""Seconds of real time for one delivery."""
FIRST: Final = float("-inf")
"""Instead of seconds to wait: before all that waits."""


def signature(secrets: list[str], body: bytes, timestamp: int) -> str:
    """`Stripe-Signature` of a body: one v1 for each secret, wall time in unix seconds."""
    signed = f"{timestamp}.".encode() + body
    made = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={one}" for one in made)])


@dataclass(eq=False)
class Parcel:
    """One delivery of one event to one endpoint."""

    account: str
    event: str
    home: str
    endpoint: str
    attempt: int
    letter: Letter
    manner: str | None = None
    """What is unusual about it; None: the true delivery."""
    counts: bool = True
    """Whether the event is delivered once this one is."""
    answered: list[int | None] = field(default_factory=list)
    """Its status once it has ended; None in it: no answer."""


class Sender:
    """Posts parcels to one address, in the order of their time, each connection one after the other."""

    def __init__(self, url: str, connections: int, came_back: Callable[["Sender", Parcel, int | None], None]) -> None:
        self.url = url
        self.connections = connections
        self.unanswered = 0
        self._came_back = came_back
        self._due: list[tuple[float, int, Parcel]] = []
        self._number = 0
        self._changed = threading.Condition()
        self._closed = False
        for _ in range(connections):
            threading.Thread(target=self._run, name=f"webhooks to {url}", daemon=True).start()

    def put(self, parcel: Parcel, wait: float = 0.0) -> None:
        """Send it after so many real seconds: infinite until `release`, `FIRST` before all others."""
        with self._changed:
            self.unanswered += 1
            self._number += 1
            heapq.heappush(self._due, (time.monotonic() + wait, self._number, parcel))
            self._changed.notify()

    def held(self) -> int:
        with self._changed:
            return sum(when == float("inf") for when, _, _ in self._due)

    def release(self) -> int:
        """Send what waits for it, in the order in which it came; returns how many."""
        now = time.monotonic()
        with self._changed:
            released = sum(when == float("inf") for when, _, _ in self._due)
            self._due = [(min(when, now), number, parcel) for when, number, parcel in self._due]
            heapq.heapify(self._due)
            self._changed.notify_all()
        return released

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        line = _Line(self.url)
        while (parcel := self._next()) is not None:
            self._came_back(self, parcel, line.post(parcel.letter))
        line.close()

    def _next(self) -> Parcel | None:
        with self._changed:
            while not self._closed:
                wait = self._due[0][0] - time.monotonic() if self._due else float("inf")
                if wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(None if wait == float("inf") else wait)
        return None


class _Line:
    """One connection, opened when it is needed and kept while it lasts."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._make = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
        self._address = target.netloc
        self._path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        self._connection: http.client.HTTPConnection | None = None

    def post(self, letter: Letter) -> int | None:
        """The status, or None when there was no answer. Redirects are not followed: a 3xx is a failure."""
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(list(letter.secrets), letter.signed, int(time.time()) + letter.dated),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        for _ in range(1 if self._connection is None else 2):
            try:
                if self._connection is None:
                    self._connection = self._make(self._address, timeout=PATIENCE)
                self._connection.request("POST", self._path, letter.body, headers)
                answer = self._connection.getresponse()
                answer.read()
                return answer.status
            except (OSError, http.client.HTTPException):
                # A kept connection may have been closed meanwhile: that is no answer, so once more on a new one.
                self.close()
        return None

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection = None
