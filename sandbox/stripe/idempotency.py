"""One key, one effect: Stripe's idempotency layer (stripe.md, section 8)."""

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from sandbox.stripe.wire import StripeError

LONGEST: Final = 255


def fingerprint(method: str, path: str, body: str) -> str:
    return hashlib.sha256(f"{method} {path}\n{body}".encode()).hexdigest()


def in_use(key: str) -> StripeError:
    """Not kept: the same key may be sent again once the other request has ended."""
    return StripeError(
        f"There is currently another in-progress request using this Idempotent Key: {key}.",
        status=409,
        type="idempotency_error",
        code="idempotency_key_in_use",
    )


def other_parameters(key: str) -> StripeError:
    return StripeError(
        "Keys for idempotent requests can only be used with the same parameters they were first used with. "
        f"Try using a key other than '{key}' if you meant to execute a different request.",
        type="idempotency_error",
    )


class Keys:
    """Answers by (account, key), kept for a time of the virtual clock: 2xx, 4xx and 500 alike once the endpoint has
    begun."""

    def __init__(self, lifetime: int) -> None:
        self._lifetime = lifetime
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}
        self._in_flight: set[tuple[str, str]] = set()

    def recall(self, account: str, key: str, method: str, path: str, body: str, now: int) -> dict[str, Any] | None:
        """The kept answer {status, body, request}; None for a new key. Raises what Stripe answers to a misused one."""
        if len(key) > LONGEST:
            raise StripeError(f"Idempotency keys have at most {LONGEST} characters.", type="idempotency_error")
        if (account, key) in self._in_flight:
            raise in_use(key)
        kept = self._kept.get((account, key))
        if kept is None or kept["at"] + self._lifetime <= now:
            return None
        if kept["endpoint"] != f"{method} {path}":
            raise StripeError(
                f"Keys for idempotent requests can only be used for the same endpoint they were first used for "
                f"('{kept['endpoint'].split()[1]}' not '{path}'). Try using a key other than '{key}' if you meant to "
                "execute a different request.",
                type="idempotency_error",
            )
        if kept["fingerprint"] != fingerprint(method, path, body):
            raise other_parameters(key)
        return kept

    def begin(self, account: str, key: str) -> None:
        self._in_flight.add((account, key))

    def end(self, account: str, key: str) -> None:
        self._in_flight.discard((account, key))

    def keep(self, account: str, key: str, answer: dict[str, Any]) -> None:
        self._kept[account, key] = answer

    def forget(self, account: str, key: str) -> None:
        self._kept.pop((account, key), None)

    put_back = keep

    def prune(self, now: int) -> None:
        """Drop what has outlived its day. Safe at any time: `recall` does not return such a key either."""
        self._kept = {name: kept for name, kept in self._kept.items() if kept["at"] + self._lifetime > now}

    def all(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for (account, key), kept in self._kept.items():
            yield account, key, kept
