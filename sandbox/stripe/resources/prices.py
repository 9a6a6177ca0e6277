"""Prices: so much per unit, once or every so often. Tiers and metered usage are not modelled."""

from decimal import Decimal
from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import cleared, edit, merged_metadata, one_of
from sandbox.stripe.wire import NotModelled, StripeError
from sandbox.stripe.world import Row, World, index

index("price", "product", "lookup_key", "active")

LONGEST: Final = {"day": 1095, "week": 156, "month": 36, "year": 3}
_RECURRING: Final = frozenset({"recurring.interval", "recurring.interval_count", "recurring.usage_type"})
PRODUCT_FIELDS: Final = (
    "active", "description", "images", "name", "shippable", "statement_descriptor", "unit_label", "url",
)  # fmt: skip


def make_product(world: World, params: dict[str, Any]) -> Row:
    """A new product of the fields that product_data and the products endpoint share."""
    product: Row = {
        "id": params.get("id") or "prod_" + world.universe.token(14), "object": "product", "active": True,
        "created": world.now, "default_price": None, "description": None, "images": [], "livemode": world.livemode,
        "marketing_features": [], "metadata": merged_metadata(None, params.get("metadata")), "name": params["name"],
        "package_dimensions": None, "shippable": None, "statement_descriptor": None, "tax_code": None,
        "tax_details": None,
        "type": "service", "unit_label": None, "updated": world.now, "url": None,
    }  # fmt: skip
    product |= cleared(params, *PRODUCT_FIELDS)
    if world.get("product", product["id"]) is not None:
        raise StripeError("Product already exists.", code="resource_already_exists", param="id")
    world.add(product)
    world.emit("product.created", product)
    return product


def make(world: World, params: dict[str, Any]) -> Row:
    """A new price of a product that exists."""
    product = world.find("product", params["product"], "product")
    amount, exact = _amount(params)
    recurring = _recurring(params.get("recurring"))
    key = params.get("lookup_key") or None
    if key is not None and any(row["active"] for row in world.each("price", lookup_key=key)):
        raise StripeError(f"A price (`{key}`) already uses that lookup key.", param="lookup_key")
    price: Row = {
        "id": world.new_id("price"), "object": "price", "active": params.get("active", True),
        "billing_scheme": "per_unit",
        "created": world.now, "currency": params["currency"].lower(), "custom_unit_amount": None,
        "livemode": world.livemode, "lookup_key": key, "metadata": merged_metadata(None, params.get("metadata")),
        "nickname": params.get("nickname"), "product": product["id"], "recurring": recurring,
        "tax_behavior": params.get("tax_behavior", "unspecified"), "tiers_mode": None, "transform_quantity": None,
        "type": "recurring" if recurring else "one_time", "unit_amount": amount, "unit_amount_decimal": exact,
    }  # fmt: skip
    world.add(price)
    world.emit("price.created", price)
    return price


def _amount(params: dict[str, Any]) -> tuple[int | None, str]:
    """Whole smallest units (None when they are not whole) and the exact number as Stripe writes it."""
    given = one_of({name: str(params[name]) for name in ("unit_amount", "unit_amount_decimal") if name in params},
                   "unit_amount", "unit_amount_decimal")  # fmt: skip
    exact = Decimal(params[given])
    if exact < 0:
        raise StripeError("Invalid non-negative integer", code="parameter_invalid_integer", param=given)
    whole = exact == exact.to_integral_value()
    return (int(exact) if whole else None), (str(int(exact)) if whole else format(exact.normalize(), "f"))


def _recurring(given: dict[str, Any] | None) -> Row | None:
    if given is None:
        return None
    if given.get("usage_type", "licensed") != "licensed":
        raise NotModelled("The sandbox does not model metered prices.")
    interval, count = given["interval"], given.get("interval_count", 1)
    if not 1 <= count <= LONGEST[interval]:
        raise StripeError("Subscription intervals can be at most three years long.", param="recurring[interval_count]")
    return {
        "interval": interval,
        "interval_count": count,
        "meter": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }


_PRICE: Final = frozenset(
    {"currency", "unit_amount", "unit_amount_decimal", "active", "nickname", "metadata", "lookup_key", "tax_behavior",
     *_RECURRING}
)  # fmt: skip


@route("POST", "/v1/prices", takes="PriceCreateParams",
       models=_PRICE | {"product", "product_data.name", "product_data.id", "product_data.metadata",
       "product_data.active",
                        "product_data.statement_descriptor", "product_data.unit_label"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    if one_of(params, "product", "product_data") == "product_data":
        params = {**params, "product": make_product(world, params["product_data"])["id"]}
    return make(world, params)


@route("GET", "/v1/prices/{id}", takes="PriceRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("price", id)


@route("POST", "/v1/prices/{id}", takes="PriceModifyParams",
       models={"active", "metadata", "nickname", "lookup_key", "tax_behavior"})  # fmt: skip
def update(world: World, params: dict[str, Any], id: str) -> Row:
    price = world.find("price", id)
    fields = cleared(params, "active", "nickname", "lookup_key", "tax_behavior")
    if "tax_behavior" in fields and price["tax_behavior"] not in ("unspecified", fields["tax_behavior"]):
        raise StripeError(
            "You cannot change `tax_behavior` once it is set to `inclusive` or `exclusive`.", param="tax_behavior"
        )
    if "metadata" in params:
        fields["metadata"] = merged_metadata(price["metadata"], params["metadata"])
    return edit(world, price, "price.updated", **fields)


@route("GET", "/v1/prices", takes="PriceListParams",
       models={"active", "currency", "product", "type", "lookup_keys", "recurring.interval"})  # fmt: skip
def listed(world: World, params: dict[str, Any]) -> Row:
    keys = params.get("lookup_keys")
    interval = params.get("recurring", {}).get("interval")

    def where(row: Row) -> bool:
        every = (row["recurring"] or {}).get("interval")
        return (not keys or row["lookup_key"] in keys) and (interval is None or every == interval)

    equal = {name: params.get(name) for name in ("active", "currency", "product", "type")}
    return lists.page(world, "price", params, "/v1/prices", where, **equal)
