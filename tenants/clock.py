"""Business time, from one source. Leases and due times use the database's clock instead."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import requests


class Clock(Protocol):
    """What time it is for the business: when incidents begin and end, what "now" means in a plan."""

    def now(self) -> datetime:
        """UTC, whole seconds."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class SandboxClock:
    """The virtual time of a sandbox, so that a story of August 2019 can be told today."""

    api_base: str

    def now(self) -> datetime:
        answer = requests.get(f"{self.api_base.rstrip('/')}/_sandbox/clock", timeout=5)
        answer.raise_for_status()
        return datetime.fromtimestamp(int(answer.json()["now"]), UTC)


@dataclass(slots=True)
class FixedClock:
    """A time that only moves when it is told to: for tests and for plans of the past."""

    at: datetime

    def now(self) -> datetime:
        return self.at
