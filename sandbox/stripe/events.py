"""Events: written with the change, the object as it was at that moment."""

from typing import TYPE_CHECKING, Any, Final

from sandbox.stripe.present import present
from sandbox.stripe.wire import API_VERSION

if TYPE_CHECKING:
    from sandbox.stripe.world import Row, World

KEPT: Final = 30 * 24 * 3600
"""Seconds of virtual time for which `GET /v1/events` still knows an event."""


def made(world: "World", obj: "Row", fields: dict[str, Any]) -> "Row":
    """The event that `fields` {id, type, previous, request: [id, key], pending} describe, of the object as it is."""
    shown = present(world, obj) if "id" in obj and world.get(obj["object"], obj["id"]) is obj else dict(obj)
    data: dict[str, Any] = {"object": shown}
    if fields["previous"] is not None:
        data["previous_attributes"] = _differing(fields["previous"], shown)
    request, key = fields["request"]
    event: Row = {
        "id": fields["id"],
        "object": "event",
        "api_version": API_VERSION,
        "created": world.now,
        "data": data,
        "livemode": world.livemode,
        "pending_webhooks": fields["pending"],
        "request": {"id": request, "idempotency_key": key},
        "type": fields["type"],
    }
    if world.platform is not None:
        event["account"] = world.account
    return event


def _differing(previous: "Row", now: "Row") -> "Row":
    """What differed before; of a hash only the keys that differed, with null for one that was not there."""
    found = {}
    for name, before in previous.items():
        after = now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found[name] = {key: before.get(key) for key in {**before, **after} if before.get(key) != after.get(key)}
        else:
            found[name] = before
    return found
