"""The sandbox's own controls under `/_sandbox`: no part of Stripe's API, no key needed, this machine only."""

import json
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from sandbox.stripe import ledger
from sandbox.stripe.resources import accounts, disputes, refunds, webhook_endpoints
from sandbox.stripe.world import Row, World

if TYPE_CHECKING:
    from sandbox.stripe.service import Service
    from sandbox.stripe.universe import Universe

DEFAULT_KEY: Final = "sandbox"
"""What follows `sk_test_` in the operator's key, where a control names no account."""


class Refused(Exception):
    """A control was used wrongly; nothing was changed."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Advance:
    """Time on its way to a moment. Each `step` is a slice; it returns the answer when the moment is reached."""

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


def answer(service: "Service", method: str, path: str, query: str, body: str) -> "dict[str, Any] | Advance":
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
    done: dict[str, Any] | Advance = control(service, asked, *parts[1:2])
    return done


def _clock(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    return {"now": service.universe.now}


def _set_clock(service: "Service", asked: dict[str, Any]) -> "dict[str, Any] | Advance":
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
    return ledger.of(_worlds(service.universe, asked.get("account")))


def _requests(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    return {"requests": list(service.calls)}


def _forget_requests(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    service.calls.clear()
    return {"requests": []}


def _webhooks(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    universe = service.universe
    endpoints = [
        {"id": row["id"], "account": world.account, "url": row["url"], "events": row["enabled_events"]}
        for world in universe.worlds.values()
        for row in world.each("webhook_endpoint")
    ]
    deliveries = universe.deliveries
    log = [] if deliveries is None else list(deliveries.log)
    return {"endpoints": endpoints, "waiting": 0 if deliveries is None else deliveries.waiting(), "deliveries": log}


def _send_webhooks_to(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"url", "secret", "events": ["*"], "account"}: events of the account and of those connected to it."""
    unknown = set(asked) - {"url", "secret", "events", "account"}
    if unknown or not str(asked.get("url", "")).startswith(("http://", "https://")) or not asked.get("secret"):
        raise Refused('Say {"url": "http…", "secret": "whsec_…"}; "events" and "account" may follow, nothing else.')
    world = _world(service.universe, asked.get("account"))
    events = asked.get("events", ["*"])
    row = service.universe.perform(
        lambda: webhook_endpoints.listen(world, asked["url"], events, hears="both", secret=asked["secret"])
    )
    return {"id": row["id"], "account": world.account, "url": row["url"], "events": events}


def _dispute(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"payment_intent" or "charge", "amount", "reason"}: the bank takes the money."""
    named = asked.get("charge") or asked.get("payment_intent")
    if not named:
        raise Refused("Say which charge or payment_intent is disputed.")
    world, _ = _holder(service.universe, named)
    return service.universe.perform(
        lambda: disputes.open_dispute(world, named, asked.get("amount"), asked.get("reason", "fraudulent"))
    )


def _close_dispute(service: "Service", asked: dict[str, Any], id: str) -> dict[str, Any]:
    """{"outcome": "won" or "lost"}."""
    if asked.get("outcome") not in ("won", "lost"):
        raise Refused('Say {"outcome": "won"} or {"outcome": "lost"}.')
    world, _ = _holder(service.universe, id)
    return service.universe.perform(lambda: disputes.close_dispute(world, id, asked["outcome"]))


def _fail_refund(service: "Service", asked: dict[str, Any], id: str) -> dict[str, Any]:
    """{"reason": a Stripe failure_reason}: the bank sends a refund back, even one that had succeeded."""
    world, refund = _holder(service.universe, id)
    return service.universe.perform(
        lambda: refunds.fail(world, refund, asked.get("reason", "expired_or_canceled_card"))
    )


def _account(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"account": the platform}: a new account connected to it."""
    platform = _world(service.universe, asked.get("account"))
    row = service.universe.perform(lambda: accounts.connect(platform, asked.get("email")))
    return {"id": row["id"], "platform": platform.account}


def _reset(service: "Service", asked: dict[str, Any]) -> dict[str, Any]:
    """{"now": unix, by default the time on the wall}: as on the first day, nothing is left."""
    service.universe.reset(int(asked.get("now", time.time())))
    service.calls.clear()
    return {"now": service.universe.now}


def _world(universe: "Universe", account: str | None) -> World:
    if account is None:
        return universe.world(universe.account_of(DEFAULT_KEY))
    return _worlds(universe, account)[0]


def _worlds(universe: "Universe", account: str | None) -> list[World]:
    if account is None:
        return list(universe.worlds.values())
    if account not in universe.worlds:
        raise Refused(f"There is no account {account}.", 404)
    return [universe.worlds[account]]


def _holder(universe: "Universe", id: str) -> tuple[World, Row]:
    for world in universe.worlds.values():
        row = world.any(id)
        if row is not None:
            return world, row
    raise Refused(f"There is no object {id}.", 404)


_CONTROLS: Final[dict[tuple[str, ...], Callable[..., Any]]] = {
    ("GET", "clock"): _clock,
    ("POST", "clock"): _set_clock,
    ("GET", "ledger"): _ledger,
    ("GET", "requests"): _requests,
    ("DELETE", "requests"): _forget_requests,
    ("GET", "webhooks"): _webhooks,
    ("POST", "webhooks"): _send_webhooks_to,
    ("POST", "disputes"): _dispute,
    ("POST", "disputes", "*", "close"): _close_dispute,
    ("POST", "refunds", "*", "fail"): _fail_refund,
    ("POST", "accounts"): _account,
    ("POST", "reset"): _reset,
}
