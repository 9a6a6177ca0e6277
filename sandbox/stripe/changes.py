"""Changes in the middle of a period: credits for what was billed and is not used, debits for what is used instead.

A credit is exactly the unused part of the debit that it takes back; where that debit was discounted, so is the credit.
Both are pending invoice items until an invoice bills them. While a trial lasts nothing was billed, so nothing is due.
"""

from datetime import UTC, datetime
from typing import Any

from sandbox.stripe import pricing
from sandbox.stripe.proration import remaining, unused
from sandbox.stripe.resources.tax_rates import usable
from sandbox.stripe.shapes import merged_metadata
from sandbox.stripe.subscribed import add_item, aligned, enter, items_of, nets, price_of, quantity
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World


def twice(price: str) -> StripeError:
    """What Stripe says when two items would have one price."""
    return StripeError(
        f"Cannot create a Subscription with multiple Subscription Items with the same Price: {price}", param="plan"
    )


def change_items(world: World, subscription: Row, wanted: list[dict[str, Any]], *, since: int, prorates: bool) -> None:
    """Add, change and remove items as an `items` parameter asks for it."""
    touched: list[Row] = []
    for position, one in enumerate(wanted):
        item = _changed(world, subscription, one, f"items[{position}]", since=since, prorates=prorates)
        if item is not None:
            touched.append(item)
    left = items_of(world, subscription)
    if not left:
        raise StripeError("A subscription must have at least one active plan.", param="items")
    prices = [item["_price"] for item in left]
    if len(set(prices)) != len(prices):
        raise twice(next(price for price in prices if prices.count(price) > 1))
    if prorates:
        costs = nets(world, subscription, left)
        for item in touched:
            debit(world, subscription, item, costs[item["id"]], since)


def _changed(
    world: World, subscription: Row, one: dict[str, Any], param: str, *, since: int, prorates: bool
) -> Row | None:
    """One entry of the parameter. Returns the item if something has to be billed anew for it."""
    if not one.get("id"):
        item = add_item(world, subscription, one, param)
        _align(world, subscription, item)
        return item
    item = world.find("subscription_item", one["id"], f"{param}[id]")
    if item["subscription"] != subscription["id"]:
        raise StripeError(f"No such subscription item: '{one['id']}'", code="resource_missing", param=f"{param}[id]")
    if one.get("deleted"):
        if prorates:
            credit(world, subscription, item, since)
        world.remove(item)
        return None
    before = price_of(world, item)
    price = before
    if one.get("price"):
        price = pricing.recurring(world, one["price"], f"{param}[price]", subscription["currency"])
    fields: Row = {
        "_price": price["id"],
        "quantity": quantity(one["quantity"] if "quantity" in one else item["quantity"], param),
    }
    if "metadata" in one:
        fields["metadata"] = merged_metadata(item["metadata"], one["metadata"])
    if "tax_rates" in one:
        fields["_rates"] = usable(world, one["tax_rates"], f"{param}[tax_rates]") or None
    costs_another = price["id"] != before["id"] or fields["quantity"] != item["quantity"]
    if costs_another and prorates:
        credit(world, subscription, item, since)
    world.change(item, **fields)
    if pricing.interval(price) != pricing.interval(before):
        _align(world, subscription, item)
    return item if costs_another else None


def _align(world: World, subscription: Row, item: Row) -> None:
    if subscription["status"] == "trialing":
        enter(world, item, (subscription["trial_start"], subscription["trial_end"]))
    else:
        enter(world, item, aligned(world, subscription, item, world.now))


def credit(world: World, subscription: Row, item: Row, since: int) -> None:
    """Take back what was billed for an item from `since` on."""
    price = price_of(world, item)
    for billed in item["_billed"]:
        amount = unused(billed["amount"], billed["start"], billed["end"], since)
        if billed["end"] > since and amount:
            text = f"Unused time on {_words(world, price, item)} after {_day(since)}"
            _pending(world, subscription, item, amount, (max(since, billed["start"]), billed["end"]), text, billed)
    world.change(item, _billed=[])


def debit(world: World, subscription: Row, item: Row, net: int, since: int) -> None:
    """Bill the rest of an item's period, of which the whole costs `net`."""
    if subscription["status"] == "trialing":
        return
    period = aligned(world, subscription, item, since)
    amount = remaining(net, period, since)
    text = f"Remaining time on {_words(world, price_of(world, item), item)} after {_day(since)}"
    made = _pending(world, subscription, item, amount, (since, period[1]), text, None)
    billed = {"amount": amount, "start": since, "end": period[1], "invoice": None, "line": None, "item": made["id"]}
    world.change(item, _billed=[billed])


def _words(world: World, price: Row, item: Row) -> str:
    name = pricing.product_name(world, price)
    return name if item["quantity"] == 1 else f"{item['quantity']} × {name}"


def _day(when: int) -> str:
    return f"{datetime.fromtimestamp(when, UTC):%d %b %Y}"


def _pending(
    world: World, subscription: Row, item: Row, amount: int, period: tuple[int, int], text: str, takes_back: Row | None
) -> Row:
    details = {"subscription": subscription["id"], "subscription_item": item["id"]}
    made = world.add(
        {
            **blank_item(world, subscription["customer"], subscription["currency"], amount, item["quantity"]),
            "description": text,
            "discountable": False,
            "parent": {"subscription_details": details, "type": "subscription_details"},
            "period": {"start": period[0], "end": period[1]},
            "pricing": pricing.pricing_of(price_of(world, item)),
            "proration": True,
            "proration_details": {
                "credited_items": None if takes_back is None else _credited(world, takes_back),
                "discount_amounts": [],
            },
            "_subscription": subscription["id"],
            "_subscription_item": item["id"],
            "_rates": item["_rates"],
        }
    )
    world.emit("invoiceitem.created", made)
    return made


def _credited(world: World, billed: Row) -> Row:
    """Which debit a credit takes back: lines of an invoice, or an invoice item that is still pending."""
    invoice, line = billed["invoice"], billed["line"]
    if billed["item"] is not None:
        item = world.get("invoiceitem", billed["item"])
        if item is None or item["invoice"] is None:
            return {"invoice_item": billed["item"], "invoice_line_item_details": None, "type": "invoice_item"}
        invoice, line = item["invoice"], item["_line"]
    details = {"invoice": invoice, "invoice_line_items": [line]}
    return {"invoice_item": None, "invoice_line_item_details": details, "type": "invoice_line_items"}


def blank_item(world: World, customer: str, currency: str, amount: int, quantity: int) -> Row:
    """An invoice item that is pending now."""
    return {
        "id": world.new_id("ii"),
        "object": "invoiceitem",
        "amount": amount,
        "currency": currency,
        "customer": customer,
        "customer_account": None,
        "date": world.now,
        "description": None,
        "discountable": True,
        "discounts": [],
        "frozen_fields": [],
        "invoice": None,
        "invoicing_rules": [],
        "livemode": world.livemode,
        "metadata": {},
        "net_amount": amount,
        "parent": None,
        "period": {"start": world.now, "end": world.now},
        "pricing": None,
        "proration": False,
        "proration_details": None,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "test_clock": None,
        "_subscription": None,
        "_subscription_item": None,
        "_rates": None,
        "_line": None,
    }
