"""Faults on demand: rules that say which calls go wrong, and how.

Whether a rule strikes is drawn from (seed, rule, call, key, how often that call came), so that the same seed gives the
same run whatever the order in which threads call.
"""

import hashlib
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

from sandbox.stripe.wire import Refused

LONGEST: Final = 120_000
"""Real milliseconds for which a fault may hold a call."""
RELEASE: Final = "release"
"""Instead of milliseconds: until `POST /_sandbox/faults/release`, and no longer than `LONGEST`."""
Milliseconds = int | tuple[int, int] | Literal["release"]


@dataclass(frozen=True)
class Kind:
    """What one kind of fault is."""

    options: dict[str, Any] = field(default_factory=dict)
    """The further fields of its rules, with what they are when left out."""
    executing: bool = False
    """It strikes only calls that are about to be executed: neither refused ones nor replays."""


KINDS: Final[dict[str, Kind]] = {
    # Refused before the idempotency layer: nothing is done, nothing is kept.
    "429": Kind({"reason": "endpoint-rate"}),
    "lock_timeout": Kind(),
    "401": Kind(),
    "403": Kind(),
    "409": Kind(),
    "idempotency_error": Kind(),
    "reset_before": Kind(),
    "timeout_before": Kind({"ms": 30_000}),
    # The call is executed as always (or replayed), and its answer suffers.
    "slow": Kind({"ms": 1_000}),
    "timeout_after": Kind({"ms": 30_000}),
    "reset_after": Kind(),
    "drip": Kind({"ms": 100}),
    "503": Kind({"effect": False}),
    "html": Kind({"effect": False}),
    "redirect": Kind({"effect": False, "location": "http://127.0.0.1:9/"}),
    "wrong_amount": Kind(),
    "wrong_currency": Kind(),
    "string_amount": Kind(),
    "unknown_status": Kind(),
    "unknown_field": Kind(),
    "huge": Kind({"bytes": 10_000_000}),
    "other_version": Kind({"version": "2027-03-31.next"}),
    "answer": Kind({"set": {}, "drop": []}),
    # Instead of what the endpoint would do; its answer is kept under the key.
    "500_before": Kind(executing=True),
    "500_after": Kind(executing=True),
    "404": Kind(executing=True),
    "error": Kind({"status": 400, "type": "invalid_request_error", "code": None, "param": None,
                   "message": "Something about this request is wrong."}, executing=True),
    "late_effect": Kind({"ms": 1_000}, executing=True),
}  # fmt: skip
REASONS: Final = ("endpoint-rate", "global-rate", "endpoint-concurrency", "global-concurrency", "resource-specific")
_RULE: Final = ("name", "match", "kind", "rate", "count", "seed")
_MATCH: Final = ("method", "path", "id", "account", "key", "nth", "after")


@dataclass(frozen=True)
class Arrival:
    """What a rule looks at."""

    method: str
    path: str
    endpoint: str
    """The path with `{…}` where ids stand: the sandbox's own ids have no say in what is drawn."""
    account: str
    key: str | None
    given: str
    """Query or body."""

    def names(self, id: str) -> bool:
        return id in self.path.split("/") or any(value == id for _, value in parse_qsl(self.given))


@dataclass(frozen=True)
class Match:
    method: str | None = None
    path: str | None = None
    id: str | None = None
    account: str | None = None
    key: str | None = None
    nth: tuple[int, ...] = ()
    after: int = 0

    def fits(self, call: Arrival) -> bool:
        return (
            self.method in (None, call.method)
            and (self.path is None or _path_fits(self.path, call.path))
            and self.account in (None, call.account)
            and (self.key is None or fnmatchcase(call.key or "", self.key))
            and (self.id is None or call.names(self.id))
        )


def _path_fits(pattern: str, path: str) -> bool:
    """`*` is one part of the path, `**` at its end is everything that follows."""
    wanted, parts = pattern.strip("/").split("/"), path.strip("/").split("/")
    if wanted[-1] == "**":
        wanted, parts = wanted[:-1], parts[: len(wanted) - 1]
    return len(wanted) == len(parts) and all(one in ("*", part) for one, part in zip(wanted, parts, strict=True))


@dataclass(frozen=True)
class Fault:
    """What befalls one call."""

    rule: str
    kind: str
    options: dict[str, Any]
    drawn: float
    """In [0, 1): where in a range of milliseconds it lies."""

    @property
    def ms(self) -> int | None:
        """Real milliseconds; None: until it is released."""
        wanted: Milliseconds = self.options["ms"]
        if wanted == RELEASE:
            return None
        if isinstance(wanted, int):
            return wanted
        least, most = wanted
        return int(least + (int(most) - int(least) + 1) * self.drawn)


@dataclass
class Rule:
    name: str
    kind: str
    match: Match
    rate: float
    count: int | None
    seed: str
    options: dict[str, Any]
    document: dict[str, Any]
    """As it was given."""
    seen: int = 0
    fired: int = 0
    _times: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def strikes(self, call: Arrival) -> Fault | None:
        """Count the call, if it is one of the rule's, and draw."""
        if not self.match.fits(call):
            return None
        self.seen += 1
        same = (call.method, call.endpoint, call.key) if call.key else (call.method, call.path, call.given)
        nth = self._times[same] = self._times.get(same, 0) + 1
        chosen = self.seen > self.match.after and (not self.match.nth or self.seen in self.match.nth)
        if not chosen or (self.count is not None and self.fired >= self.count):
            return None
        strike, place = drawn(self.seed, self.name, *same, str(nth))
        if strike >= self.rate:
            return None
        self.fired += 1
        return Fault(self.name, self.kind, self.options, place)

    def shown(self) -> dict[str, Any]:
        return {**self.document, "name": self.name, "seen": self.seen, "fired": self.fired}


def drawn(*about: str) -> tuple[float, float]:
    """Two numbers in [0, 1) that only these words decide."""
    digest = hashlib.sha256("|".join(about).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48, int.from_bytes(digest[6:12]) / 2**48


class Faults:
    """The rules that stand. The first one that strikes a call is the only one."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._made = 0

    def add(self, document: Any) -> list[Rule]:
        """Add one rule, or all of {"rules": […]}. Raises `Refused`, and has added none then."""
        many = isinstance(document, dict) and "rules" in document
        wanted = document["rules"] if many else [document]
        if not isinstance(wanted, list) or (many and len(document) > 1):
            raise Refused('Say {"rules": [rule, …]} and nothing else, or one rule.')
        taken = {rule.name for rule in self.rules}
        made: list[Rule] = []
        for number, one in enumerate(wanted, self._made + 1):
            rule = _rule(one, number)
            if rule.name in taken:
                raise Refused(f"There is a rule called {rule.name} already: DELETE /_sandbox/faults/{rule.name} first.")
            taken.add(rule.name)
            made.append(rule)
        self._made += len(made)
        self.rules += made
        return made

    def remove(self, name: str | None = None) -> bool:
        """Remove one rule, or all of them; says whether there was one."""
        kept = [] if name is None else [rule for rule in self.rules if rule.name != name]
        removed = len(kept) < len(self.rules)
        self.rules = kept
        if name is None:
            self._made = 0
        return removed

    def strike(self, call: Arrival, executing: bool) -> Fault | None:
        """The fault of a call, of the kinds that strike at this point of its way."""
        for rule in self.rules:
            if KINDS[rule.kind].executing is executing and (fault := rule.strikes(call)) is not None:
                return fault
        return None


# --- reading a rule -----------------------------------------------------------------------------------------------


def _rule(given: Any, number: int) -> Rule:
    if not isinstance(given, dict):
        raise Refused('A rule is an object: {"match": {"method": "POST", "path": "/v1/refunds"}, "kind": "429"}.')
    kind = str(given.get("kind", ""))
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, 3, 0.4) or list(KINDS)
        raise Refused(f"There is no kind {kind or '(none)'}. Did you mean {', '.join(near)}?")
    unknown = set(given) - {*_RULE, *KINDS[kind].options}
    if unknown:
        known = ", ".join((*_RULE, *KINDS[kind].options))
        raise Refused(f"A rule of kind {kind} has no {', '.join(sorted(unknown))}; it may have {known}.")
    rate, count = given.get("rate", 1), given.get("count")
    if not is_share(rate):
        raise Refused("rate is a share of calls, from 0 to 1.")
    if count is not None and not is_whole(count, 1):
        raise Refused("count is how often the rule strikes at most: a whole number from 1 on.")
    seed, name = given.get("seed", 0), given.get("name", f"{kind}-{number}")
    if not isinstance(seed, int | str) or not isinstance(name, str) or not name or "/" in name:
        raise Refused("seed is a number or a text, name a text without a slash.")
    options = {**KINDS[kind].options, **{key: given[key] for key in KINDS[kind].options if key in given}}
    for key, value in options.items():
        options[key] = _option(key, value)
    return Rule(name, kind, _match(given.get("match", {})), float(rate), count, str(seed), options, given)


def _match(given: Any) -> Match:
    if not isinstance(given, dict) or set(given) - set(_MATCH):
        raise Refused(f"match is an object that may have {', '.join(_MATCH)}.")
    for key in ("method", "path", "id", "account", "key"):
        if key in given and (not isinstance(given[key], str) or not given[key]):
            raise Refused(f"match.{key} is a text.")
    if given.get("method", "GET") not in ("GET", "POST", "DELETE"):
        raise Refused("match.method is GET, POST or DELETE.")
    if not given.get("path", "/v1/").startswith("/v1/"):
        raise Refused("match.path begins with /v1/; * stands for one part of it, ** for all that follows.")
    nth = given.get("nth", [])
    nth = nth if isinstance(nth, list) else [nth]
    if not all(is_whole(one, 1) for one in nth) or not is_whole(given.get("after", 0), 0):
        raise Refused("match.nth is 1 for the first call that matches (or a list); match.after leaves so many alone.")
    return Match(**{**given, "nth": tuple(nth)})


def _option(key: str, value: Any) -> Any:
    if key == "ms":
        return milliseconds(value)
    if key == "reason" and value is not None and value not in REASONS:
        raise Refused(f"reason is null or one of {', '.join(REASONS)}.")
    if key == "effect" and not isinstance(value, bool):
        raise Refused("effect is true or false: whether the call is executed all the same.")
    if key == "status" and not (is_whole(value, 400) and value <= 599):
        raise Refused("status is an HTTP status from 400 to 599.")
    if key == "bytes" and not (is_whole(value, 1) and value <= 100_000_000):
        raise Refused("bytes is a whole number from 1 to 100,000,000.")
    if key in ("location", "version", "type", "message") and not isinstance(value, str):
        raise Refused(f"{key} is a text.")
    if key in ("code", "param") and not isinstance(value, str | None):
        raise Refused(f"{key} is a text or null.")
    if key == "set" and not isinstance(value, dict):
        raise Refused('set is an object of dotted paths and what stands there: {"data.0.id": null}.')
    if key == "drop" and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise Refused('drop is a list of dotted paths: ["id", "data.0.amount"].')
    return value


def milliseconds(value: Any, name: str = "ms") -> Milliseconds:
    """The real milliseconds that a control names. Raises `Refused`."""
    if value == RELEASE:
        return "release"
    least, most = value if isinstance(value, list) and len(value) == 2 else (value, value)
    if not (is_whole(least, 0) and is_whole(most, 0) and least <= most <= LONGEST):
        raise Refused(f'{name} is 0 to {LONGEST} real milliseconds, a range [from, to] of them, or "{RELEASE}".')
    return least if least == most else (least, most)


def is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
