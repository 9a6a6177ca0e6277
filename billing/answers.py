"""What can come back from Stripe: an Answer to each write, and a refusal named for what happens next to each read."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from billing.errors import BadRequest, NotFound, Refused, Unavailable

Fact = TypeVar("Fact", covariant=True)


class Outcome(StrEnum):
    """What became of one POST. Only DONE is a success; only NOT_SENT and STOPPED surely never reached Stripe."""

    DONE = "done"
    NOT_SENT = "not_sent"
    """No connection could be made. The same key, soon."""
    STOPPED = "stopped"
    """It was held back at the last moment, because whoever asked for it may not send any more."""
    UNKNOWN = "unknown"
    """Timeout, reset, 5xx, or an answer that is not what was asked for: it may have happened. The same key, later."""
    BUSY = "busy"
    """409, or a lock on the object: nothing happened yet. The same key, later."""
    LIMITED = "limited"
    """429: the limiter came first. The same key, slower; this was no attempt."""
    REFUSED = "refused"
    """400, 402 or 404 with Stripe's reason."""
    KEY_MISUSED = "key_misused"
    """The key was used before with other parameters. Never again with this key; page somebody."""
    LOCKED_OUT = "locked_out"
    """401 or 403: nothing more on this account until a person has looked."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[Fact]):
    """One answer to one write. `fact` is set exactly when `outcome` is DONE, and is what was asked for.

    `replayed` says that Stripe repeated a stored answer. `limited_by` is Stripe's reason for a 429.
    """

    outcome: Outcome
    fact: Fact | None = None
    code: str | None = None
    message: str = ""
    param: str | None = None
    http_status: int | None = None
    replayed: bool = False
    request_id: str | None = None
    limited_by: str | None = None


class Unreachable(Unavailable):
    """Stripe does not answer, or answers what cannot be read: try again later, unchanged."""

    code = "stripe_unreachable"


class Unreadable(Unreachable):
    """Stripe's answer is not what its API documents."""

    code = "stripe_unreadable"


class LockedOut(Unreachable):
    """Stripe refuses the key: give another one."""

    code = "stripe_locked_out"


class Gone(NotFound):
    """Stripe has no such object."""

    code = "stripe_gone"


class ReadRefused(Refused):
    """Stripe does not answer this question; `code` and `param` are its own words."""

    status = 502

    def __init__(self, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code or "stripe_refused"
        self.param = param


class BadSignature(BadRequest):
    """Nobody who knows the secret sent this, or not now: answer 400 and keep nothing."""

    code = "bad_signature"


class BadEvent(BadRequest):
    """Signed, but no event that can be kept: answer 400."""

    code = "bad_event"
