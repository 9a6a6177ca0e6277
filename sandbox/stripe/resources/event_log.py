"""The events of the last 30 days, as the API shows them."""

from typing import Any

from sandbox.stripe import lists
from sandbox.stripe.routes import route
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World

MOST_TYPES = 20


@route("GET", "/v1/events/{id}", takes="EventRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("event", id)


@route("GET", "/v1/events", takes="EventListParams", models={"type", "types", "delivery_success"})
def listed(world: World, params: dict[str, Any]) -> Row:
    types = params.get("types")
    if types is not None and "type" in params:
        raise StripeError("You may pass either type or types, not both.", code="parameters_exclusive", param="types")
    if types is not None and len(types) > MOST_TYPES:
        raise StripeError(f"You may pass at most {MOST_TYPES} types.", param="types")
    wanted = [params["type"]] if "type" in params else types
    delivered = params.get("delivery_success")

    def where(row: Row) -> bool:
        return (wanted is None or any(_fits(row["type"], one) for one in wanted)) and (
            delivered is None or delivered == (row["pending_webhooks"] == 0)
        )

    return lists.page(world, "event", params, "/v1/events", where)


def _fits(type: str, wanted: str) -> bool:
    """`charge.*` stands for every event of charges."""
    return type.startswith(wanted[:-1]) if wanted.endswith("*") else type == wanted
