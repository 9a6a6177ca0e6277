"""Calls that are not answered at once: what they wait for, what they lock meanwhile, and how they end."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sandbox.stripe.faults import LONGEST
from sandbox.stripe.wire import Answer
from sandbox.stripe.world import World


@dataclass(eq=False)
class Detour:
    """One call on its way. Its effect lands at the end of `before`, whether its client is still there or not."""

    told: dict[str, Any]
    """The call as controls show it."""
    work: Callable[[], Answer] | None
    """Executes the call; None: nothing is ever done."""
    before: Callable[["Detour"], Awaitable[None]] | None = None
    after: Callable[["Detour"], Awaitable[None]] | None = None
    ends: Literal["answer", "drip", "close", "reset"] = "answer"
    leaves: bool = False
    """The connection ends before the effect."""
    pace: float = 0.0
    """Seconds between two bytes of an answer that drips."""
    locks: frozenset[str] = frozenset()
    account: str = ""
    executed: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    async def run(self) -> Answer | None:
        """Wait, work, wait."""
        if self.before is not None:
            await self.before(self)
        answer = self.work() if self.work is not None else None
        self.executed = True
        if self.after is not None:
            await self.after(self)
        return answer


def waiting(ms: int | None) -> Callable[[Detour], Awaitable[None]]:
    """For so many real milliseconds, or (None) until it is released; a release ends both."""

    async def wait(detour: Detour) -> None:
        limit = LONGEST if ms is None else ms
        try:
            await asyncio.wait_for(detour.released.wait(), limit / 1000)
        except TimeoutError:
            return

    return wait


class UnderWay:
    """All detours of one sandbox."""

    def __init__(self) -> None:
        self.detours: list[Detour] = []

    def __bool__(self) -> bool:
        return bool(self.detours)

    def begin(self, detour: Detour) -> Detour:
        self.detours.append(detour)
        return detour

    def end(self, detour: Detour) -> None:
        if detour in self.detours:
            self.detours.remove(detour)

    def locked(self, account: str, ids: frozenset[str]) -> bool:
        """Whether a write that has not been executed yet holds one of these objects."""
        return any(not detour.executed and detour.account == account and detour.locks & ids for detour in self.detours)

    def release(self) -> list[Detour]:
        """Let all go on; returns those whose effect is still to come."""
        for detour in self.detours:
            detour.released.set()
        return [detour for detour in self.detours if not detour.executed]

    def forget(self) -> None:
        """End all of them where they are: what was not executed never will be."""
        for detour in self.detours:
            if detour.task is not None:
                detour.task.cancel()
        self.detours.clear()

    def shown(self) -> dict[str, Any]:
        return {
            "under_way": [detour.told for detour in self.detours if not detour.executed],
            "held": [detour.told for detour in self.detours if detour.executed],
        }


def touched(world: World, params: dict[str, Any], variables: dict[str, str]) -> frozenset[str]:
    """Ids of what a write works on: the objects in its path, and the payments behind all that it names."""
    linked = [one.get("refund") for one in params.get("refunds") or [] if isinstance(one, dict)]
    named = [params.get(name) for name in ("payment_intent", "charge", "invoice", "refund")]
    found = set(variables.values())
    for id in {*found, *(one for one in (*named, *linked) if isinstance(one, str))}:
        found |= _payments(world, id)
    return frozenset(found)


def _payments(world: World, id: str) -> set[str]:
    row = world.any(id)
    if row is None:
        return set()
    match row["object"]:
        case "payment_intent":
            return {id}
        case "charge" | "refund" | "dispute":
            return {row["payment_intent"]}
        case "credit_note":
            return _payments(world, row["invoice"])
        case "invoice":
            return {id} | {
                row["payment"].get("payment_intent", "") for row in world.each("invoice_payment", invoice=id)
            }
    return set()
