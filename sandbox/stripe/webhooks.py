"""Events on their way out: signed, in order for each endpoint unless its manners say otherwise; retried on the virtual
clock."""

import asyncio
import contextlib
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from sandbox.stripe.clock import due_job
from sandbox.stripe.manners import STRAYS, letter, treatment
from sandbox.stripe.senders import FIRST, Parcel, Sender

if TYPE_CHECKING:
    from sandbox.stripe.universe import Universe
    from sandbox.stripe.world import Row, World

RETRIES: Final = (5 * 60, 3600, 4 * 3600)
"""Seconds of virtual time after which test mode tries again: three times in some hours."""
Listener = tuple["World", "Row"]


def listeners(world: "World", type: str) -> list[Listener]:
    """The endpoints that want an event of this world: its own, and its platform's that listen to connected accounts."""
    found = [(world, row) for row in world.each("webhook_endpoint") if row["_hears"] != "connected"]
    if world.platform is not None:
        above = world.universe.worlds[world.platform]
        found += [(above, row) for row in above.each("webhook_endpoint") if row["_hears"] != "own"]
    return [(home, row) for home, row in found if row["status"] == "enabled" and _wants(row, type)]


def _wants(endpoint: "Row", type: str) -> bool:
    return "*" in endpoint["enabled_events"] or type in endpoint["enabled_events"]


class Deliveries:
    """One sender per endpoint: with one connection it hears events in the order in which they were written."""

    def __init__(self, universe: "Universe", loop: AbstractEventLoop) -> None:
        self.universe = universe
        self.log: deque[dict[str, Any]] = deque(maxlen=200_000)
        self._loop = loop
        self._senders: dict[str, Sender] = {}
        self._times: dict[tuple[str, str, str], int] = {}
        self._early: list[Parcel] = []
        self._settled = asyncio.Event()
        self._closed = False
        universe.deliveries = self
        self._take_up()

    def announce(self, world: "World", event: "Row", heard_by: Iterable[Listener]) -> None:
        """Send a new event to those who listen, each with the manners of its endpoint."""
        for home, endpoint in heard_by:
            self._treat(world, event, home, endpoint)

    def send(
        self, world: "World", event: "Row", home: "World", endpoint: "Row", attempt: int, manner: str | None = None,
        wait: float = 0.0,
    ) -> Parcel:  # fmt: skip
        """Send it once, after so many real seconds: truly, or as one of the strays or a duplicate."""
        stray = manner if manner in STRAYS else None
        counts = stray is None and manner != "duplicate"
        parcel = Parcel(world.account, event["id"], home.account, endpoint["id"], attempt,
                        letter(event, endpoint["_secrets"], stray), manner, counts)  # fmt: skip
        self._sender(endpoint).put(parcel, wait)
        return parcel

    def hastened(self) -> list[Parcel]:
        """The deliveries since the last time asked that are to end before their call is answered."""
        found, self._early = self._early, []
        return found

    async def ended(self, parcels: list[Parcel]) -> None:
        """Wait until all of these were answered or given up."""
        while not all(parcel.answered for parcel in parcels):
            self._settled.clear()
            await self._settled.wait()

    def waiting(self) -> int:
        """Deliveries that have been neither answered nor given up by their sender."""
        return sum(sender.unanswered for sender in self._senders.values())

    def held(self) -> int:
        """Those of them that wait to be released."""
        return sum(sender.held() for sender in self._senders.values())

    def release(self) -> int:
        """Send all that wait for it; returns how many."""
        return sum(sender.release() for sender in self._senders.values())

    def forget(self) -> None:
        """Drop all senders and what they hold: the sandbox was reset."""
        for sender in self._senders.values():
            sender.close()
        self._senders.clear()
        self._times.clear()
        self._early.clear()
        self.log.clear()

    def close(self) -> None:
        """Send nothing more, and note no answer that still comes: whoever takes up the state sends that event again."""
        self.forget()
        self._closed = True

    def _treat(self, world: "World", event: "Row", home: "World", endpoint: "Row") -> None:
        manners = endpoint["_manners"]
        about = (endpoint["id"], event["type"], event["request"]["idempotency_key"] or "")
        nth = self._times[about] = self._times.get(about, 0) + 1
        treated = treatment(manners, (*about[1:], str(nth)), self.universe.request[0] is not None)
        for stray in treated.strays:
            self.send(world, event, home, endpoint, 0, stray, FIRST if treated.early else 0.0)
        if treated.dropped:
            self._note(event["id"], endpoint["id"], 0, "drop", None)
            return
        for copy, wait in enumerate(treated.waits):
            manner = "duplicate" if copy else "early" if treated.early else "delayed" if wait else None
            parcel = self.send(world, event, home, endpoint, 0, manner, FIRST if treated.early else wait)
            if treated.early and not copy:
                self._early.append(parcel)

    def _sender(self, endpoint: "Row") -> Sender:
        sender = self._senders.get(endpoint["id"])
        connections = endpoint["_manners"].get("connections", 1)
        if sender is None or (sender.url, sender.connections) != (endpoint["url"], connections):
            if sender is not None:
                sender.close()
            sender = self._senders[endpoint["id"]] = Sender(endpoint["url"], connections, self._came_back)
        return sender

    def _take_up(self) -> None:
        """Send what a sandbox that was stopped had not yet delivered. An event may come twice, as from Stripe."""
        retried = {(job[4]["event"], job[4]["endpoint"]) for job in self.universe.due if job[3] == "send_webhook"}
        for world in self.universe.worlds.values():
            for event in world.each("event"):
                if event["pending_webhooks"]:
                    for home, endpoint in listeners(world, event["type"]):
                        if (event["id"], endpoint["id"]) not in retried:
                            self.send(world, event, home, endpoint, 0)

    def _came_back(self, sender: Sender, parcel: Parcel, status: int | None) -> None:
        """Called in the sender's thread; a loop that has ended needs no report any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._settle, sender, parcel, status)

    def _note(self, event: str, endpoint: str, attempt: int, manner: str | None, status: int | None) -> None:
        noted = {"event": event, "endpoint": endpoint, "attempt": attempt, "manner": manner, "status": status}
        self.log.append(noted)

    def _settle(self, sender: Sender, parcel: Parcel, status: int | None) -> None:
        if self._closed:
            return
        sender.unanswered -= 1
        parcel.answered.append(status)
        self._settled.set()
        self._note(parcel.event, parcel.endpoint, parcel.attempt, parcel.manner, status)
        world = self.universe.worlds.get(parcel.account)
        event = None if world is None else world.get("event", parcel.event)
        if world is None or event is None or not parcel.counts:
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
