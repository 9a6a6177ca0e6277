"""The sandbox's own controls under `/_sandbox`: no part of Stripe's API, no key needed, this machine only."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qs

from sandbox.stripe import assumptions, ledger, manners
from sandbox.stripe.detours import Detour
from sandbox.stripe.faults import RELEASE, is_whole
from sandbox.stripe.resources import webhook_endpoints
from sandbox.stripe.scenes import SCENES, holder, world_of, worlds_of
from sandbox.stripe.senders import Parcel
from sandbox.stripe.webhooks import Deliveries, listeners
from sandbox.stripe.wire import Refused

if TYPE_CHECKING:
    from sandbox.stripe.service import Service
    from sandbox.stripe.universe import Universe


class Going(Protocol):
    """What takes a while. Each `step` is a slice; it returns the answer when all is done."""

    def step(self) -> dict[str, Any] | None: ...


@dataclass
class Released:
    """Held calls that go on, until each of them has had its effect."""

    detours: list[Detour]

    def step(self) -> dict[str, Any] | None:
        return {"released": len(self.detours)} if all(detour.executed for detour in self.detours) else None


@dataclass
class Sent:
    """Deliveries that were asked for, until each of them was answered or given up."""

    parcels: list[Parcel]

    def step(self) -> dict[str, Any] | None:
        if not all(parcel.answered for parcel in self.parcels):
            return None
        return {"deliveries": [{"endpoint": one.endpoint, "status": one.answered[0]} for one in self.parcels]}


class Advance:
    """Time on its way to a moment."""

    def __init__(self, universe: "Universe", until: int) -> None:
        self.universe = universe
        self.until = until

    def step(self) -> dict[str, Any] | None:
        try:
            reached = self.until <= self.universe.now or self.universe.advance(self.until)
        except Exception as error:  # noqa: BLE001 - a bug in a due job stops the clock, and its caller must hear of it
            traceback.print_exc()
            return {"error": {"message": f"The clock stopped at {self.universe.now}: {type(error).__name__}: {error}"}}
        return {"now": self.universe.now} if reached else None


def answer(service: "Service", method: str, path: str, query: str, body: str) -> dict[str, Any] | Going:
    parts = path.strip("/").split("/")[1:]
    asked = {name: values[-1] for name, values in parse_qs(query).items()}
    if method == "POST" and body:
        try:
            asked |= json.loads(body)
        except (ValueError, TypeError):
            raise Refused("The body must be a JSON object.") from None
    pattern = (method, *("*" if place in (1,) else part for place, part in enumerate(parts)))
    control = _CONTROLS.get(pattern)
    if control is None:
        raise Refused(f"There is no control {method} {path}.", 404)
    done: dict[str, Any] | Going = control(service, asked, *parts[1:2])
    return done


def _clock(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    return {"now": service.universe.now}


def _set_clock(service: "Service", asked: dict[str, Any]) -> dict[str, Any] | Going:
    """{"now": unix} or {"advance": seconds}."""
    universe = service.universe
    if set(asked) not in ({"now"}, {"advance"}) or not all(isinstance(value, int) for value in asked.values()):
        raise Refused('Say either {"now": unix seconds} or {"advance": seconds}.')
    until = asked["now"] if "now" in asked else universe.now + asked["advance"]
    if until < universe.now:
        if not universe.may_go_back():
            raise Refused(f"The clock stands at {universe.now} and only an empty sandbox goes back: reset it first.")
        universe.set_now(until)
    return Advance(universe, until)


def _ledger(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    return ledger.of(worlds_of(service.universe, asked.get("account")))


def _requests(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    return {"requests": list(service.calls)}


def _forget_requests(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    service.calls.clear()
    return {"requests": []}


def _webhooks(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    endpoints = [
        {"id": row["id"], "account": world.account, "url": row["url"], "events": row["enabled_events"],
         **row["_manners"]}
        for world in service.universe.worlds.values()
        for row in world.each("webhook_endpoint")
    ]  # fmt: skip
    deliveries = _deliveries(service)
    return {"endpoints": endpoints, "waiting": deliveries.waiting(), "held": deliveries.held(),
            "deliveries": list(deliveries.log)}  # fmt: skip


def _deliveries(service: "Service") -> Deliveries:
    assert service.universe.deliveries is not None, "a served sandbox has them"
    return service.universe.deliveries


def _send_webhooks_to(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"url", "secret" (several sign side by side), "events": ["*"], "account", manners}: events of the account and of
    those connected to it. {"id", manners}: other manners for an endpoint."""
    told = {name: value for name, value in asked.items() if name not in manners.MANNERS}
    kept = manners.read(asked)
    if set(told) == {"id"}:
        world, row = holder(service.universe, str(told["id"]))
        if row["object"] != "webhook_endpoint":
            raise Refused(f"{told['id']} is no webhook endpoint.")
        service.universe.perform(lambda: world.change(row, _manners=kept))
        return {"id": row["id"], "account": world.account, "url": row["url"], **kept}
    secrets = told.get("secret")
    secrets = secrets if isinstance(secrets, list) else [secrets]
    events = told.get("events", ["*"])
    wrong = set(told) - {"url", "secret", "events", "account"} or not all(
        isinstance(one, str) and one for one in secrets
    )
    if wrong or not secrets or not str(told.get("url", "")).startswith(("http://", "https://")):
        raise Refused(
            'Say {"url": "http…", "secret": "whsec_…"} (or "id", for one that is there); "events" and "account" may '
            f"follow, and {', '.join(manners.MANNERS)}, nothing else."
        )
    if not isinstance(events, list) or not all(isinstance(one, str) for one in events):
        raise Refused('events is a list: ["*"] or ["refund.updated", …].')
    world = world_of(service.universe, told.get("account"))
    row = service.universe.perform(
        lambda: webhook_endpoints.listen(world, told["url"], events, "both", secrets, manners=kept)
    )
    return {"id": row["id"], "account": world.account, "url": row["url"], "events": events, **kept}


def _release_webhooks(service: "Service", asked: dict[str, Any], word: str) -> dict[str, Any]:
    if word != RELEASE:
        raise Refused(f"There is no control POST /_sandbox/webhooks/{word}.", 404)
    return {"released": _deliveries(service).release()}


def _send_event(service: "Service", asked: dict[str, Any], id: str) -> Going:
    """{"as": a stray or "duplicate" or nothing, "endpoint": by default all that listen}: send an event once more."""
    manner = asked.get("as")
    if set(asked) - {"as", "endpoint"} or manner not in (None, "duplicate", *manners.STRAYS):
        raise Refused(f'"as" is duplicate or one of {", ".join(manners.STRAYS)}; "endpoint" may follow, nothing else.')
    world, event = holder(service.universe, id)
    if event["object"] != "event":
        raise Refused(f"{id} is no event.")
    heard_by = [
        (home, row) for home, row in listeners(world, event["type"]) if asked.get("endpoint") in (None, row["id"])
    ]
    if not heard_by:
        raise Refused(f"No endpoint listens to {event['type']}.", 404)
    deliveries = _deliveries(service)
    return Sent([deliveries.send(world, event, home, row, 0, manner) for home, row in heard_by])


def _faults(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    return {"rules": [rule.shown() for rule in service.faults.rules], **service.under_way.shown()}


def _add_faults(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """One rule, or {"rules": [rule, …]}: see docs/sandbox.md."""
    return {"rules": [rule.shown() for rule in service.faults.add(asked)]}


def _remove_faults(service: "Service", asked: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    """All rules, or the one of a name. What is on its way goes on."""
    if not service.faults.remove(name) and name is not None:
        raise Refused(f"There is no rule called {name}.", 404)
    return _faults(service, asked)


def _release(service: "Service", asked: dict[str, Any], word: str) -> "Going":
    if word != RELEASE:
        raise Refused(f"There is no control POST /_sandbox/faults/{word}.", 404)
    return Released(service.under_way.release())


def _limits(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    return service.limits.shown()


def _set_limits(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"global": 100, "endpoint": 25, "endpoints": {"POST /v1/refunds": 10}, "burst": seconds}: calls a second."""
    service.limits.set(asked)
    return service.limits.shown()


def _remove_limits(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    service.limits.clear()
    return service.limits.shown()


def _reset(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"now": unix, by default the time on the wall; "assume": {…}}: as on the first day, nothing is left."""
    now = asked.get("now", int(time.time()))
    if set(asked) - {"now", "assume"} or not is_whole(now, 0):
        raise Refused('Say {"now": unix seconds, "assume": {…}}, or nothing.')
    assume = assumptions.read(asked.get("assume", {}))
    service.under_way.forget()
    service.universe.reset(now, assume)
    service.calls.clear()
    service.faults.remove()
    service.limits.clear()
    return {"now": service.universe.now, "assume": assume.as_fields()}


_CONTROLS: Final[dict[tuple[str, ...], Callable[..., Any]]] = {
    ("GET", "clock"): _clock,
    ("POST", "clock"): _set_clock,
    ("GET", "ledger"): _ledger,
    ("GET", "requests"): _requests,
    ("DELETE", "requests"): _forget_requests,
    ("GET", "webhooks"): _webhooks,
    ("POST", "webhooks"): _send_webhooks_to,
    ("GET", "faults"): _faults,
    ("POST", "faults"): _add_faults,
    ("POST", "faults", "*"): _release,
    ("DELETE", "faults"): _remove_faults,
    ("DELETE", "faults", "*"): _remove_faults,
    ("GET", "limits"): _limits,
    ("POST", "limits"): _set_limits,
    ("DELETE", "limits"): _remove_limits,
    ("POST", "webhooks", "*"): _release_webhooks,
    ("POST", "events", "*", "send"): _send_event,
    ("POST", "reset"): _reset,
    **SCENES,
}
