"""Products."""

from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.resources import prices
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import cleared, deleted, edit, merged_metadata
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World

_MODELLED: Final = frozenset({*prices.PRODUCT_FIELDS, "metadata"})


@route("POST", "/v1/products", takes="ProductCreateParams",
       models=_MODELLED | {"id", "default_price_data.currency", "default_price_data.unit_amount",
                           "default_price_data.recurring", "default_price_data.metadata"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    product = prices.make_product(world, params)
    if "default_price_data" in params:
        price = prices.make(world, {**params["default_price_data"], "product": product["id"]})
        world.change(product, default_price=price["id"])
    return product


@route("GET", "/v1/products/{id}", takes="ProductRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("product", id)


@route("POST", "/v1/products/{id}", takes="ProductModifyParams", models=_MODELLED | {"default_price"})
def update(world: World, params: dict[str, Any], id: str) -> Row:
    product = world.find("product", id)
    fields = cleared(params, *prices.PRODUCT_FIELDS, "default_price")
    if fields.get("default_price"):
        world.find("price", fields["default_price"], "default_price")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(product["metadata"], params["metadata"])
    return edit(world, product, "product.updated", **fields, updated=world.now)


@route("DELETE", "/v1/products/{id}")
def delete(world: World, params: dict[str, Any], id: str) -> Row:
    product = world.find("product", id)
    if any(world.each("price", product=id)):
        raise StripeError(
            "This product cannot be deleted because it has one or more user-created prices.", code="resource_in_use"
        )
    world.emit("product.deleted", product)
    world.remove(product)
    return deleted(product)


@route("GET", "/v1/products", takes="ProductListParams", models={"active", "ids", "url", "shippable"})
def listed(world: World, params: dict[str, Any]) -> Row:
    ids, url = set(params.get("ids", ())), params.get("url")

    def where(row: Row) -> bool:
        return (not ids or row["id"] in ids) and (url is None or row["url"] == url)

    equal = {name: params.get(name) for name in ("active", "shippable")}
    return lists.page(world, "product", params, "/v1/products", where, **equal)
