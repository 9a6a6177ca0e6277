"""A subscription's items, one by one. A change here is a change of the subscription."""

from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.cycles import differing, leave_to_stripe
from sandbox.stripe.present import present
from sandbox.stripe.resources.subscriptions import rearranged
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import deleted
from sandbox.stripe.subscribed import items_of
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World

_MODELS: Final = {"price", "quantity", "metadata", "tax_rates", "proration_behavior", "proration_date"}
_OF_ITEM: Final = ("price", "quantity", "metadata", "tax_rates")


def _rearrange(world: World, subscription: Row, params: dict[str, Any], item: dict[str, Any]) -> None:
    before = present(world, subscription)
    asked: dict[str, Any] = {name: params[name] for name in ("proration_behavior", "proration_date") if name in params}
    invoice = rearranged(world, subscription, {**asked, "items": [item]})
    previous = differing(world, subscription, before)
    if previous:
        world.emit("customer.subscription.updated", subscription, previous)
    if invoice is not None:
        leave_to_stripe(world, subscription, invoice, at_once=True)


def _asked(params: dict[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in _OF_ITEM if name in params}


@route("POST", "/v1/subscription_items", "SubscriptionItemCreateParams", _MODELS | {"subscription"})
def create(world: World, params: dict[str, Any]) -> Row:
    subscription = world.find("subscription", params["subscription"], "subscription")
    _rearrange(world, subscription, params, _asked(params))
    return items_of(world, subscription)[-1]


@route("GET", "/v1/subscription_items/{id}", "SubscriptionItemRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    row = world.get("subscription_item", id)
    if row is None:
        raise StripeError(f"Invalid subscription_item id: {id}", status=404)
    return row


@route("POST", "/v1/subscription_items/{id}", "SubscriptionItemModifyParams", _MODELS)
def update(world: World, params: dict[str, Any], id: str) -> Row:
    item = world.find("subscription_item", id)
    _rearrange(world, world.find("subscription", item["subscription"]), params, {"id": id, **_asked(params)})
    return item


@route(
    "DELETE", "/v1/subscription_items/{id}", "SubscriptionItemDeleteParams", {"proration_behavior", "proration_date"}
)
def delete(world: World, params: dict[str, Any], id: str) -> Row:
    item = world.find("subscription_item", id)
    _rearrange(world, world.find("subscription", item["subscription"]), params, {"id": id, "deleted": True})
    return deleted(item)


@route("GET", "/v1/subscription_items", "SubscriptionItemListParams", {"subscription"})
def listed(world: World, params: dict[str, Any]) -> Row:
    url = "/v1/subscription_items"
    world.find("subscription", params["subscription"], "subscription")
    return lists.page(world, "subscription_item", params, url, subscription=params["subscription"])
