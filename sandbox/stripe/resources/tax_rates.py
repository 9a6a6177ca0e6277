"""Tax rates that a merchant sets by hand."""

from fractions import Fraction
from typing import Any

from sandbox.stripe import lists
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import merged_metadata
from sandbox.stripe.tax import Rate
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World

_WORDS = ("country", "description", "jurisdiction", "state", "tax_type")


def rates(world: World, ids: list[str]) -> tuple[Rate, ...]:
    """The rates as the arithmetic wants them."""
    rows = [world.find("tax_rate", id) for id in ids]
    return tuple(
        Rate(row["id"], Fraction(str(row["percentage"])), row["inclusive"], row.get("_reason", "not_available"))
        for row in rows
    )


def usable(world: World, ids: Any, param: str) -> list[str]:
    """The ids that a parameter names ("" or None: none), each an active rate of this account."""
    for id in ids or []:
        if not world.find("tax_rate", id, param)["active"]:
            raise StripeError(f"The tax rate {id} is archived and cannot be used.", param=param)
    return list(ids or [])


@route("POST", "/v1/tax_rates", "TaxRateCreateParams", {
    "display_name", "percentage", "inclusive", "active", "country", "description", "jurisdiction", "state", "tax_type",
    "metadata",
})  # fmt: skip
def create_tax_rate(world: World, params: dict[str, Any]) -> Row:
    if not 0 <= params["percentage"] <= 100:
        raise StripeError("Invalid percentage: must be between 0 and 100", param="percentage")
    rate = world.add(
        {
            "id": world.new_id("txr"),
            "object": "tax_rate",
            "active": params.get("active", True),
            "created": world.now,
            "display_name": params["display_name"],
            "effective_percentage": None,
            "flat_amount": None,
            "inclusive": params["inclusive"],
            "jurisdiction_level": None,
            "livemode": world.livemode,
            "metadata": merged_metadata({}, params.get("metadata")),
            "percentage": params["percentage"],
            "rate_type": "percentage",
            **{word: params.get(word) for word in _WORDS},
        }
    )
    world.emit("tax_rate.created", rate)
    return rate


@route("GET", "/v1/tax_rates/{id}", "TaxRateRetrieveParams")
def retrieve_tax_rate(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("tax_rate", id)


@route("POST", "/v1/tax_rates/{id}", "TaxRateModifyParams", {"active", "display_name", *_WORDS, "metadata"})
def update_tax_rate(world: World, params: dict[str, Any], id: str) -> Row:
    rate = world.find("tax_rate", id)
    told = {name: value for name, value in params.items() if name != "metadata"}
    previous = world.change(rate, metadata=merged_metadata(rate["metadata"], params.get("metadata")), **told)
    if previous:
        world.emit("tax_rate.updated", rate, previous)
    return rate


@route("GET", "/v1/tax_rates", "TaxRateListParams", {"active", "inclusive"})
def list_tax_rates(world: World, params: dict[str, Any]) -> Row:
    equal = {"active": params.get("active"), "inclusive": params.get("inclusive")}
    return lists.page(world, "tax_rate", params, "/v1/tax_rates", **equal)
