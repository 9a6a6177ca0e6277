"""Events on their way out: signed, in order for each endpoint, in the background; retried on the virtual clock."""

import contextlib
import hashlib
import hmac
import http.client
import queue
import threading
import time
from asyncio import AbstractEventLoop
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sandbox.stripe.clock import due_job
from sandbox.stripe.wire import encode

if TYPE_CHECKING:
    from sandbox.stripe.universe import Universe
    from sandbox.stripe.world import Row, World

RETRIES: Final = (5 * 60, 3600, 4 * 3600)
"""Seconds of virtual time after which test mode tries again: three times in some hours."""
PATIENCE: Final = 10.0
"""Seconds of real time for one delivery."""


def signature(secrets: list[str], body: bytes, timestamp: int) -> str:
    """`Stripe-Signature` of a body: one v1 for each secret, wall time in unix seconds."""
    signed = f"{timestamp}.".encode() + body
    made = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={one}" for one in made)])


def listeners(world: "World", type: str) -> list[tuple["World", "Row"]]:
    """The endpoints that want an event of this world: its own, and its platform's that listen to connected accounts."""
    found = [(world, row) for row in world.each("webhook_endpoint") if row["_hears"] != "connected"]
    if world.platform is not None:
        above = world.universe.worlds[world.platform]
        found += [(above, row) for row in above.each("webhook_endpoint") if row["_hears"] != "own"]
    return [(home, row) for home, row in found if row["status"] == "enabled" and _wants(row, type)]


def _wants(endpoint: "Row", type: str) -> bool:
    return "*" in endpoint["enabled_events"] or type in endpoint["enabled_events"]


@dataclass(frozen=True)
class _Parcel:
    account: str
    event: str
    home: str
    endpoint: str
    attempt: int
    body: bytes


class Deliveries:
    """One sender per endpoint, so that an endpoint hears events in the order in which they were written."""

    def __init__(self, universe: "Universe", loop: AbstractEventLoop) -> None:
        self.universe = universe
        self.log: deque[dict[str, Any]] = deque(maxlen=10_000)
        self._loop = loop
        self._senders: dict[str, _Sender] = {}
        universe.deliveries = self
        self._take_up()

    def announce(self, world: "World", event: "Row") -> None:
        for home, endpoint in listeners(world, event["type"]):
            self.send(world, event, home, endpoint, 0)

    def send(self, world: "World", event: "Row", home: "World", endpoint: "Row", attempt: int) -> None:
        sender = self._senders.get(endpoint["id"])
        if sender is None or sender.url != endpoint["url"]:
            if sender is not None:
                sender.close()
            sender = self._senders[endpoint["id"]] = _Sender(endpoint["url"], self._came_back)
        parcel = _Parcel(world.account, event["id"], home.account, endpoint["id"], attempt, encode(event))
        sender.put(parcel, [endpoint["_secret"]])

    def waiting(self) -> int:
        """Deliveries that have been neither answered nor given up by their sender."""
        return sum(sender.unanswered for sender in self._senders.values())

    def forget(self) -> None:
        """Drop all senders and what they hold: the sandbox was reset."""
        self.close()
        self._senders.clear()
        self.log.clear()

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()

    def _take_up(self) -> None:
        """Send what a sandbox that was stopped had not yet delivered. An event may come twice, as from Stripe."""
        retried = {(job[4]["event"], job[4]["endpoint"]) for job in self.universe.due if job[3] == "send_webhook"}
        for world in self.universe.worlds.values():
            for event in world.each("event"):
                if event["pending_webhooks"]:
                    for home, endpoint in listeners(world, event["type"]):
                        if (event["id"], endpoint["id"]) not in retried:
                            self.send(world, event, home, endpoint, 0)

    def _came_back(self, sender: "_Sender", parcel: _Parcel, status: int | None) -> None:
        """Called in the sender's thread; a loop that has ended needs no report any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, sender, parcel, status)

    def _settle(self, sender: "_Sender", parcel: _Parcel, status: int | None) -> None:
        sender.unanswered -= 1
        self.log.append(
            {"event": parcel.event, "endpoint": parcel.endpoint, "attempt": parcel.attempt, "status": status}
        )
        world = self.universe.worlds.get(parcel.account)
        event = None if world is None else world.get("event", parcel.event)
        if world is None or event is None:
            return
        delivered = status is not None and 200 <= status < 300

        def settle() -> None:
            if delivered:
                world.change(event, pending_webhooks=max(0, event["pending_webhooks"] - 1))
            elif parcel.attempt < len(RETRIES):
                world.at(
                    world.now + RETRIES[parcel.attempt], "send_webhook", event=parcel.event, home=parcel.home,
                    endpoint=parcel.endpoint, attempt=parcel.attempt + 1,
                )  # fmt: skip

        self.universe.perform(settle)


@due_job("send_webhook")
def send_again(world: "World", event: str, home: str, endpoint: str, attempt: int) -> None:
    held = world.get("event", event)
    above = world.universe.worlds.get(home)
    target = None if above is None else above.get("webhook_endpoint", endpoint)
    if held is not None and above is not None and target is not None and target["status"] == "enabled":
        deliveries = world.universe.deliveries
        if deliveries is not None:
            deliveries.send(world, held, above, target, attempt)


class _Sender:
    """Posts parcels to one address, one after the other, over one connection while it lasts."""

    def __init__(self, url: str, came_back: Any) -> None:
        self.url = url
        self.unanswered = 0
        self._came_back = came_back
        self._parcels: queue.SimpleQueue[tuple[_Parcel, list[str]] | None] = queue.SimpleQueue()
        self._closed = False
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name=f"webhooks to {url}", daemon=True)
        self._thread.start()

    def put(self, parcel: _Parcel, secrets: list[str]) -> None:
        self.unanswered += 1
        self._parcels.put((parcel, secrets))

    def close(self) -> None:
        self._closed = True
        self._parcels.put(None)

    def _run(self) -> None:
        while (entry := self._parcels.get()) is not None and not self._closed:
            parcel, secrets = entry
            self._came_back(self, parcel, self._post(parcel.body, secrets))
        if self._connection is not None:
            self._connection.close()

    def _post(self, body: bytes, secrets: list[str]) -> int | None:
        """The status, or None when there was no answer. Redirects are not followed: a 3xx is a failure."""
        target = urlsplit(self.url)
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(secrets, body, int(time.time())),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        kept = self._connection is not None
        for connection in (self._open(), None) if kept else (self._open(),):
            try:
                used = connection or self._open(fresh=True)
                used.request("POST", path, body, headers)
                answer = used.getresponse()
                answer.read()
                return answer.status
            except (OSError, http.client.HTTPException):
                # A kept connection may have been closed meanwhile: that is no answer, so once more on a new one.
                self._connection = None
        return None

    def _open(self, fresh: bool = False) -> http.client.HTTPConnection:
        if self._connection is None or fresh:
            target = urlsplit(self.url)
            kind = http.client.HTTPSConnection if target.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(target.netloc, timeout=PATIENCE)
        return self._connection
