"""Invoice items: amounts that wait for the customer's next invoice, or go onto a draft at once."""

from typing import Any

from sandbox.stripe import lists, pricing
from sandbox.stripe.changes import blank_item
from sandbox.stripe.invoicing import bill, retotal
from sandbox.stripe.present import present, presents
from sandbox.stripe.resources.tax_rates import usable
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import cleared, deleted, merged_metadata
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World


@presents("invoiceitem")
def _shown(world: World, item: Row) -> Row:
    return {"tax_rates": [present(world, world.find("tax_rate", id)) for id in item["_rates"] or []]}


@route("POST", "/v1/invoiceitems", "InvoiceItemCreateParams", {
    "customer", "amount", "currency", "description", "discountable", "invoice", "metadata", "period", "pricing.price",
    "quantity", "subscription", "tax_rates",
})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    customer = world.find("customer", params.get("customer", ""), "customer")["id"]
    amount, quantity, priced = _amount(world, params)
    row = blank_item(world, customer, (priced or params)["currency"].lower(), amount, quantity)
    row |= cleared(params, "description", "period") | {"metadata": merged_metadata({}, params.get("metadata"))}
    row["discountable"] = params.get("discountable", amount >= 0)
    row["pricing"] = pricing.pricing_of(priced) if priced else None
    row["_rates"] = usable(world, params.get("tax_rates"), "tax_rates") or None
    if params.get("subscription"):
        subscription = world.find("subscription", params["subscription"], "subscription")["id"]
        details = {"subscription": subscription, "subscription_item": None}
        row |= {
            "parent": {"subscription_details": details, "type": "subscription_details"},
            "_subscription": subscription,
        }
    world.add(row)
    world.emit("invoiceitem.created", row)
    if params.get("invoice"):
        _onto(world, world.find("invoice", params["invoice"], "invoice"), row)
    return row


def _amount(world: World, params: dict[str, Any]) -> tuple[int, int, Row | None]:
    """`(amount, quantity, price)` of what was asked for."""
    quantity = params.get("quantity", 1)
    if "pricing" in params:
        price = world.find("price", params["pricing"].get("price", ""), "pricing[price]")
        return pricing.cost(price, quantity), quantity, price
    if "amount" not in params or not params.get("currency"):
        raise StripeError(
            "You must provide an amount and a currency, or a price.", code="parameter_missing", param="amount"
        )
    if "quantity" in params:
        raise StripeError("A quantity goes with a price, not with an amount.", param="quantity")
    return params["amount"], 1, None


def _onto(world: World, invoice: Row, row: Row) -> None:
    if invoice["status"] != "draft":
        raise StripeError("This invoice is no longer editable", code="invoice_not_editable", param="invoice")
    if invoice["customer"] != row["customer"] or invoice["currency"] != row["currency"]:
        raise StripeError("The invoice is another customer's, or in another currency.", param="invoice")
    bill(world, invoice, row)
    retotal(world, invoice)
    world.emit("invoice.updated", invoice)


@route("GET", "/v1/invoiceitems/{id}", "InvoiceItemRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    row = world.get("invoiceitem", id)
    if row is None:
        mode = str(world.livemode).lower()
        raise StripeError(f"No such Invoice Item: '{id}'(livemode={mode})", status=404, code="resource_missing",
                          param="id")  # fmt: skip
    return row


@route("POST", "/v1/invoiceitems/{id}", "InvoiceItemModifyParams", {"description", "metadata"})
def update(world: World, params: dict[str, Any], id: str) -> Row:
    row = world.find("invoiceitem", id)
    _open(world, row)
    world.change(row, **cleared(params, "description"),
                 metadata=merged_metadata(row["metadata"], params.get("metadata")))  # fmt: skip
    return row


@route("DELETE", "/v1/invoiceitems/{id}", "InvoiceItemDeleteParams")
def delete(world: World, params: dict[str, Any], id: str) -> Row:
    row = world.find("invoiceitem", id)
    _open(world, row)
    if row["invoice"] is not None:
        world.remove(world.find("line_item", row["_line"]))
        retotal(world, world.find("invoice", row["invoice"]))
    world.emit("invoiceitem.deleted", row)
    world.remove(row)
    return deleted(row)


def _open(world: World, row: Row) -> None:
    if row["invoice"] is not None and world.find("invoice", row["invoice"])["status"] != "draft":
        raise StripeError("This invoice is no longer editable", code="invoice_not_editable")


@route("GET", "/v1/invoiceitems", "InvoiceItemListParams", {"customer", "invoice", "pending"})
def listed(world: World, params: dict[str, Any]) -> Row:
    pending = params.get("pending")
    return lists.page(
        world, "invoiceitem", params, "/v1/invoiceitems",
        None if pending is None else lambda row: (row["invoice"] is None) == pending,
        customer=params.get("customer"), invoice=params.get("invoice"),
    )  # fmt: skip
