"""The items of a subscription: what each costs, what was billed for it, and how subscriptions and items are shown."""

from typing import Any

from sandbox.stripe import discounts, pricing
from sandbox.stripe.invoicing import line, subscription_parent
from sandbox.stripe.periods import period_of
from sandbox.stripe.present import embedded, present, presents
from sandbox.stripe.proration import remaining
from sandbox.stripe.resources.tax_rates import usable
from sandbox.stripe.shapes import merged_metadata
from sandbox.stripe.tax import Line, worked_out
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World, index

index("subscription", "customer", "status")
index("subscription_item", "subscription")

Period = tuple[int, int]


def items_of(world: World, subscription: Row) -> list[Row]:
    """In the order in which they were added."""
    return world.rows("subscription_item", subscription=subscription["id"])


def price_of(world: World, item: Row) -> Row:
    return world.find("price", item["_price"])


def add_item(world: World, subscription: Row, wanted: dict[str, Any], param: str) -> Row:
    """A new item as a parameter asks for it. Its period is set by the caller."""
    if not wanted.get("price"):
        raise StripeError("Each item needs a price.", code="parameter_missing", param=f"{param}[price]")
    price = pricing.recurring(world, wanted["price"], f"{param}[price]", subscription["currency"])
    return world.add(
        {
            "id": world.new_id("si"),
            "object": "subscription_item",
            "billed_until": None,
            "billing_thresholds": None,
            "created": world.now,
            "current_period_end": world.now,
            "current_period_start": world.now,
            "current_trial": None,
            "discounts": [],
            "metadata": merged_metadata({}, wanted.get("metadata")),
            "quantity": quantity(wanted.get("quantity", 1), param),
            "subscription": subscription["id"],
            "_price": price["id"],
            "_rates": usable(world, wanted.get("tax_rates"), f"{param}[tax_rates]") or None,
            "_billed": [],
        }
    )


def quantity(given: int, param: str) -> int:
    if given < 0:
        raise StripeError("Invalid non-negative integer", code="parameter_invalid_integer", param=f"{param}[quantity]")
    return given


def aligned(world: World, subscription: Row, item: Row, when: int) -> Period:
    """The period of the item's price around a moment, counted from the subscription's anchor."""
    return period_of(subscription["billing_cycle_anchor"], *pricing.interval(price_of(world, item)), when)


def enter(world: World, item: Row, period: Period) -> None:
    """The item's present period."""
    world.change(item, current_period_start=period[0], current_period_end=period[1], billed_until=period[1])


def nets(world: World, subscription: Row, items: list[Row]) -> dict[str, int]:
    """What each item costs for a whole interval after the subscription's discounts, by item id."""
    lines = [Line(pricing.cost(price_of(world, item), item["quantity"])) for item in items]
    offs = discounts.offs(world, discounts.in_force(world, subscription["discounts"]))
    return {item["id"]: worked.net for item, worked in zip(items, worked_out(lines, offs), strict=True)}


def bill_item(
    world: World, invoice: Row, item: Row, period: Period, amount: int, description: str, proration: bool
) -> Row:
    """A line of the item's own price for a period."""
    return line(
        world,
        invoice,
        amount=amount,
        period=period,
        parent=subscription_parent(item, proration),
        rate_ids=item["_rates"],
        description=description,
        metadata=item["metadata"],
        pricing=pricing.pricing_of(price_of(world, item)),
        quantity=item["quantity"],
    )


def note_billed(world: World, invoice: Row) -> None:
    """Remember, per item, what this invoice debits for its present period: later credits follow it."""
    for row in world.rows("line_item", invoice=invoice["id"]):
        details = row["parent"]["subscription_item_details"]
        item = details and world.get("subscription_item", details["subscription_item"])
        if item is None or details["invoice_item"] is not None:
            continue
        net = row["amount"] - sum(off["amount"] for off in row["discount_amounts"])
        debit = {"amount": net, "start": row["period"]["start"], "end": row["period"]["end"],
                 "invoice": invoice["id"], "line": row["id"], "item": None}  # fmt: skip
        world.change(item, _billed=[debit])


@presents("subscription")
def _shown(world: World, subscription: Row) -> Row:
    url = f"/v1/subscription_items?subscription={subscription['id']}"
    return {
        "items": embedded(world, items_of(world, subscription), url),
        "default_tax_rates": [present(world, world.find("tax_rate", id)) for id in subscription["_rates"]],
    }


@presents("subscription_item")
def _shown_item(world: World, item: Row) -> Row:
    price = price_of(world, item)
    return {
        "plan": _plan(price),
        "price": present(world, price),
        "tax_rates": [present(world, world.find("tax_rate", id)) for id in item["_rates"] or []],
    }


def _plan(price: Row) -> Row:
    every = price["recurring"]
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": every["interval"],
        "interval_count": every["interval_count"],
        "livemode": price["livemode"],
        "metadata": price["metadata"],
        "meter": None,
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": every["usage_type"],
    }


def lines_for(world: World, invoice: Row, subscription: Row, items: list[Row]) -> None:
    """Bill the present period of these items: nothing while the trial lasts, a part of it before the first anchor."""
    trial = subscription["status"] == "trialing"
    for item in items:
        price, period = price_of(world, item), (item["current_period_start"], item["current_period_end"])
        if trial:
            bill_item(world, invoice, item, period, 0, f"Trial period for {pricing.product_name(world, price)}", False)
            continue
        whole = aligned(world, subscription, item, period[0])
        amount = pricing.cost(price, item["quantity"])
        text = pricing.described(world, price, item["quantity"])
        if whole[0] < period[0]:
            amount = remaining(amount, whole, period[0]) if subscription["_stub_costs"] else 0
        bill_item(world, invoice, item, period, amount, text, whole[0] < period[0])
