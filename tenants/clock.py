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


class ClockUnavailable(Exception):
    """The sandbox that business time comes from does not answer: start it, then try again."""

    status, code = 503, "unavailable"


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class SandboxClock:
    """The virtual time of a sandbox, so that a story of August 2019 can be told today."""

    api_base: str

    def now(self) -> datetime:
        try:
            with requests.Session() as session:
                session.trust_env = False  # a proxy of the machine's does not reach the sandbox
                answer = session.get(f"{self.api_base.rstrip('/')}/_sandbox/clock", timeout=5)
            answer.raise_for_status()
            return datetime.fromtimestamp(int(answer.json()["now"]), UTC)
        except (requests.RequestException, KeyError, ValueError) as error:
            raise ClockUnavailable(
                f"CLOCK=sandbox takes its time from {self.api_base}, where no sandbox answers: start it with"
                " `flask sandbox run`."
            ) from error


@dataclass(slots=True)
class FixedClock:
    """A time that only moves when it is told to: for tests and for plans of the past."""

    at: datetime

    def now(self) -> datetime:
        return self.at
