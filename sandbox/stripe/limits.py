"""Stripe's rate limits as token buckets on the time of the wall: an advance of the clock refills nothing.

Off until they are set. Stripe's own: 100 a second for an account in live mode, 25 in test mode; 25 for each of its
endpoints, whatever ids stand in the path (docs.stripe.com/rate-limits).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.stripe.wire import Refused, StripeError

FIELDS: Final = ("global", "endpoint", "endpoints", "burst")


@dataclass
class _Bucket:
    rate: float
    size: float
    tokens: float
    at: float

    def refilled(self, now: float) -> float:
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        return self.tokens


@dataclass
class Limits:
    """Refuses what exceeds the rates, before anything else is looked at."""

    clock: Callable[[], float] = time.monotonic
    per_account: float | None = None
    per_endpoint: float | None = None
    endpoints: dict[str, float] = field(default_factory=dict)
    """Rates of single endpoints, named `POST /v1/refunds` or `GET /v1/refunds/{id}`."""
    burst: float = 1.0
    """Seconds' worth of calls that a full bucket holds."""
    allowed: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """By reason and endpoint."""
    _buckets: dict[tuple[str, str], _Bucket] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.per_account is not None or self.per_endpoint is not None or bool(self.endpoints)

    def set(self, given: dict[str, Any]) -> None:
        """Take {"global", "endpoint", "endpoints": {…}, "burst"}; what is left out or null is unlimited. Raises
        `Refused` and keeps what stood."""
        if set(given) - set(FIELDS):
            raise Refused(f"Limits are {', '.join(FIELDS)}.")
        endpoints = given.get("endpoints", {})
        if not isinstance(endpoints, dict) or not all(name.partition(" ")[2].startswith("/v1/") for name in endpoints):
            raise Refused('endpoints is {"POST /v1/refunds": calls a second, "GET /v1/refunds/{id}": …}.')
        rates = [given.get("global"), given.get("endpoint"), *endpoints.values()]
        if not all(rate is None or _positive(rate) for rate in rates) or not _positive(given.get("burst", 1)):
            raise Refused("Rates are calls a second, above 0 (null: unlimited); burst is seconds, above 0.")
        self.clear()
        self.per_account, self.per_endpoint = given.get("global"), given.get("endpoint")
        self.endpoints = {name: rate for name, rate in endpoints.items() if rate is not None}
        self.burst = given.get("burst", 1.0)

    def clear(self) -> None:
        """No limits, nothing counted."""
        self.per_account = self.per_endpoint = None
        self.endpoints = {}
        self.burst = 1.0
        self.allowed = 0
        self.refused = {}
        self._buckets = {}

    def admit(self, account: str, *endpoints: str) -> None:
        """Take a token from the account's bucket and from each of the endpoints', or raise the 429 and take none."""
        now = self.clock()
        taken: list[_Bucket] = []
        wanted = [(name, self.endpoints.get(name, self.per_endpoint), "endpoint-rate") for name in endpoints]
        for name, rate, reason in [*wanted, ("", self.per_account, "global-rate")]:
            if rate is None:
                continue
            bucket = self._buckets.get((account, name))
            if bucket is None:
                size = max(1.0, rate * self.burst)
                bucket = self._buckets[account, name] = _Bucket(rate, size, size, now)
            if bucket.refilled(now) < 1:
                counted = f"{reason} {endpoints[0]}"
                self.refused[counted] = self.refused.get(counted, 0) + 1
                raise too_many(reason)
            taken.append(bucket)
        for bucket in taken:
            bucket.tokens -= 1
        self.allowed += 1

    def shown(self) -> dict[str, Any]:
        return {"global": self.per_account, "endpoint": self.per_endpoint, "endpoints": self.endpoints,
                "burst": self.burst, "allowed": self.allowed, "refused": self.refused}  # fmt: skip


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def too_many(reason: str | None) -> StripeError:
    """429. With a reason a limiter refused; without one something else did (docs.stripe.com/rate-limits)."""
    return StripeError(
        "Request rate limit exceeded.", status=429, code="rate_limit",
        headers={} if reason is None else {"Stripe-Rate-Limited-Reason": reason},
    )  # fmt: skip
