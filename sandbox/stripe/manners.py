"""How deliveries go wrong on demand: which of them, drawn from a seed, and what is sent beside the truth."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sandbox.stripe.faults import LONGEST, drawn, is_share, is_whole, milliseconds
from sandbox.stripe.wire import Refused, encode

if TYPE_CHECKING:
    from sandbox.stripe.world import Row

STRAYS: Final = ("forged", "wrong_secret", "other_account", "other_livemode", "dated_back", "dated_ahead")
"""Sent just before the true delivery, which comes all the same: whoever believes one will miss the truth."""
SHARES: Final = ("drop", "duplicate", "early", "delayed", *STRAYS)
MANNERS: Final = (*SHARES, "delay", "shuffle", "connections", "seed")
DATED_BY: Final = 3600
"""Seconds of the wall by which a signature is dated back or ahead."""
MOST_CONNECTIONS: Final = 32
FOREIGN: Final = ("whsec_of_somebody_else",)
FOREIGN_ACCOUNT: Final = "acct_0000000000000000"


def read(given: dict[str, Any]) -> dict[str, Any]:
    """The manners among the fields of a control, as they are kept. Raises `Refused`."""
    kept: dict[str, Any] = {name: given[name] for name in MANNERS if name in given}
    for name in SHARES:
        if not is_share(kept.get(name, 0)):
            raise Refused(f"{name} is a share of events, from 0 to 1.")
    if "delay" in kept:
        kept["delay"] = milliseconds(kept["delay"], "delay")
    if not is_whole(kept.get("shuffle", 0), 0) or kept.get("shuffle", 0) > LONGEST:
        raise Refused(f"shuffle is 0 to {LONGEST} real milliseconds that each delivery waits at most.")
    connections = kept.get("connections", 1)
    if not is_whole(connections, 1) or connections > MOST_CONNECTIONS:
        raise Refused(f"connections is how many deliveries run at once: 1 to {MOST_CONNECTIONS}.")
    if not isinstance(kept.get("seed", 0), int | str):
        raise Refused("seed is a number or a text.")
    return kept


@dataclass(frozen=True)
class Treatment:
    """What befalls the delivery of one event to one endpoint."""

    dropped: bool = False
    early: bool = False
    strays: tuple[str, ...] = ()
    waits: tuple[float, ...] = (0.0,)
    """Real seconds (infinite: until released) before each copy is sent; two when it is a duplicate."""


def treatment(manners: dict[str, Any], about: tuple[str, str, str], caused_by_call: bool) -> Treatment:
    """The treatment of an event that is `about` (its type, its idempotency key, how often that came)."""
    if not manners:
        return Treatment()
    seed = str(manners.get("seed", 0))

    def chosen(name: str, usual: float = 0) -> bool:
        share: float = manners.get(name, usual)
        return drawn(seed, name, *about)[0] < share

    strays = tuple(name for name in STRAYS if chosen(name))
    if chosen("drop"):
        return Treatment(dropped=True, strays=strays)
    if caused_by_call and chosen("early"):
        return Treatment(early=True, strays=strays, waits=(0.0, 0.0) if chosen("duplicate") else (0.0,))
    copies = ("first", "second") if chosen("duplicate") else ("first",)
    delayed = "delay" in manners and chosen("delayed", 1)
    return Treatment(strays=strays, waits=tuple(_wait(manners, (seed, copy, *about), delayed) for copy in copies))


def _wait(manners: dict[str, Any], about: tuple[str, ...], delayed: bool) -> float:
    delay = manners["delay"] if delayed else 0
    if delay == "release":
        return float("inf")
    least, most = (delay, delay) if isinstance(delay, int) else delay
    place, turn = drawn(*about)
    return float(least + (most - least) * place + manners.get("shuffle", 0) * turn) / 1000


@dataclass(frozen=True)
class Letter:
    """A body as it goes out, and how it is signed."""

    body: bytes
    signed: bytes
    secrets: tuple[str, ...]
    dated: int = 0
    """Seconds of the wall by which the signature's time is off."""


def letter(event: "Row", secrets: list[str], stray: str | None = None) -> Letter:
    """The true delivery of an event, or one of the strays."""
    true = encode(event)
    match stray:
        case "forged":
            changed = json.loads(true)
            changed["data"]["object"]["metadata"] = {"forged": "yes"}
            return Letter(encode(changed), true, tuple(secrets))
        case "wrong_secret":
            return Letter(true, true, FOREIGN)
        case "other_account":
            body = encode({**event, "account": FOREIGN_ACCOUNT})
            return Letter(body, body, tuple(secrets))
        case "other_livemode":
            body = encode({**event, "livemode": not event["livemode"]})
            return Letter(body, body, tuple(secrets))
        case "dated_back" | "dated_ahead":
            return Letter(true, true, tuple(secrets), DATED_BY if stray == "dated_ahead" else -DATED_BY)
    return Letter(true, true, tuple(secrets))
