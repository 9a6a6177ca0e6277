"""Webhook endpoints: who wants to hear of which events."""

from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import cleared, deleted, merged_metadata
from sandbox.stripe.wire import API_VERSION, StripeError
from sandbox.stripe.world import Row, World

MOST: Final = 16


def listen(
    world: World, url: str, events: list[str], hears: str = "own", secrets: list[str] | None = None,
    description: str | None = None, metadata: dict[str, str] | None = None, manners: dict[str, Any] | None = None,
) -> Row:  # fmt: skip
    """A new endpoint. `hears` says whose events: own, connected (accounts) or both. Each of the secrets signs."""
    return world.add({
        "id": world.new_id("we"), "object": "webhook_endpoint", "api_version": API_VERSION, "application": None,
        "created": world.now, "description": description, "enabled_events": events, "livemode": world.livemode,
        "metadata": metadata or {}, "status": "enabled", "url": url, "_hears": hears,
        "_secrets": secrets or [f"whsec_{world.universe.token(32)}"], "_manners": manners or {},
    })  # fmt: skip


@route("POST", "/v1/webhook_endpoints", takes="WebhookEndpointCreateParams",
       models={"url", "enabled_events", "api_version", "connect", "description", "metadata"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    version = params.get("api_version", API_VERSION)
    if version != API_VERSION:
        raise StripeError(f"Invalid Stripe API version: {version}", param="api_version")
    if not params["url"].startswith(("http://", "https://")):
        raise StripeError("Not a valid URL", code="url_invalid", param="url")
    if sum(1 for _ in world.each("webhook_endpoint")) >= MOST:
        raise StripeError(f"You have reached the maximum of {MOST} test webhook endpoints.")
    hears = "connected" if params.get("connect") else "own"
    metadata = merged_metadata(None, params.get("metadata"))
    row = listen(
        world, params["url"], params["enabled_events"], hears, None, params.get("description") or None, metadata
    )
    # The secret is shown once, here.
    return {**{key: value for key, value in row.items() if not key.startswith("_")}, "secret": row["_secrets"][0]}


@route("GET", "/v1/webhook_endpoints/{id}", takes="WebhookEndpointRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("webhook_endpoint", id)


@route("POST", "/v1/webhook_endpoints/{id}", takes="WebhookEndpointModifyParams",
       models={"url", "enabled_events", "disabled", "description", "metadata"})  # fmt: skip
def update(world: World, params: dict[str, Any], id: str) -> Row:
    row = world.find("webhook_endpoint", id)
    fields = cleared(params, "url", "enabled_events", "description")
    if "disabled" in params:
        fields["status"] = "disabled" if params["disabled"] else "enabled"
    if "metadata" in params:
        fields["metadata"] = merged_metadata(row["metadata"], params["metadata"])
    world.change(row, **fields)
    return row


@route("DELETE", "/v1/webhook_endpoints/{id}")
def delete(world: World, params: dict[str, Any], id: str) -> Row:
    row = world.find("webhook_endpoint", id)
    world.remove(row)
    return deleted(row)


@route("GET", "/v1/webhook_endpoints", takes="WebhookEndpointListParams")
def listed(world: World, params: dict[str, Any]) -> Row:
    return lists.page(world, "webhook_endpoint", params, "/v1/webhook_endpoints")
