"""Stripe Tax, as far as an invoice meets it: one rate for each place, on top of a price or inside it.

What is due where is Stripe's to know. Here a place has the rate below, or the one that `POST /_sandbox/tax` gives it;
where neither says anything no tax is collected. How much of a location it takes: https://docs.stripe.com/tax/invoicing
"""

from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from sandbox.stripe.tax import Rate
from sandbox.stripe.wire import Refused, StripeError
from sandbox.stripe.world import Row, World, index

index("tax_rate", _place=lambda row: row.get("_place"))

RATES: Final = {
    "AT": ("vat", "20"), "DE": ("vat", "19"), "FR": ("vat", "20"), "GB": ("vat", "20"), "IE": ("vat", "23"),
    "JP": ("jct", "10"), "US-CA": ("sales_tax", "7.25"), "US-NY": ("sales_tax", "4"), "US-TX": ("sales_tax", "6.25"),
}  # fmt: skip
"""Type and percentage, by country or by country and state."""
_NAMES: Final = {"vat": "VAT", "jct": "JCT", "sales_tax": "Sales Tax"}
_ZIP: Final = 5
NOWHERE: Final = (
    "The customer's location isn't recognized. Set a valid customer address in order to automatically calculate tax."
)
EXEMPT: Final = {"exempt": "customer_exempt", "reverse": "reverse_charge"}


def of_subscription(enabled: bool) -> Row:
    liability = {"account": None, "type": "self"} if enabled else None
    return {"disabled_reason": None, "enabled": enabled, "liability": liability}


def of_invoice(enabled: bool) -> Row:
    return {**of_subscription(enabled), "provider": "stripe" if enabled else None, "status": None}


def place_of(customer: Row) -> str | None:
    """`DE`, `US-CA`: where tax is due; None where Stripe asks for more. The shipping address comes first."""
    shipping = (customer["shipping"] or {}).get("address") or {}
    found = shipping if any(shipping.values()) else customer["address"] or {}
    country, state, code = (found.get(name) or "" for name in ("country", "state", "postal_code"))
    whole = {"US": len(code) >= _ZIP and code[:_ZIP].isdigit(), "CA": bool(state or code)}.get(country, True)
    if not country or not whole:
        return None
    return f"{country}-{state}" if country in ("US", "CA") and state else country


def check(world: World, subscription: Row, items: list[Row]) -> None:
    """Raises 400 where the tax of a subscription is to be automatic and cannot be."""
    if not subscription["automatic_tax"]["enabled"]:
        return
    if place_of(world.find("customer", subscription["customer"])) is None:
        raise StripeError(NOWHERE, code="customer_tax_location_invalid")
    if subscription["_rates"] or any(item["_rates"] for item in items):
        raise StripeError("Tax rates cannot be set where automatic tax is enabled.", param="automatic_tax")
    for item in items:
        _behavior(world, item["_price"])


def look(world: World, invoice: Row) -> None:
    """See where its customer is by now, and so whether the tax of a draft can be worked out."""
    if invoice["automatic_tax"]["enabled"]:
        known = place_of(world.find("customer", invoice["customer"])) is not None
        status = "complete" if known else "requires_location_inputs"
        world.change(invoice, automatic_tax={**invoice["automatic_tax"], "status": status})


def lacks_location(invoice: Row) -> bool:
    return bool(invoice["automatic_tax"]["status"] == "requires_location_inputs")


def do_without(world: World, invoice: Row, *, asked: bool) -> None:
    """The location is needed now and is not there. Stripe by itself goes on without tax, and says so in
    `disabled_reason`; whoever asked for it is refused."""
    if asked:
        error = {"code": "customer_tax_location_invalid", "message": NOWHERE, "type": "invalid_request_error"}
        world.change(invoice, last_finalization_error=error)
        world.emit("invoice.finalization_failed", invoice)
        raise StripeError(NOWHERE, code="customer_tax_location_invalid", commits=True)
    reason = {"disabled_reason": "finalization_requires_location_inputs"}
    world.change(invoice, automatic_tax=of_invoice(False) | reason)
    if invoice["_subscription"] is not None:
        subscription = world.find("subscription", invoice["_subscription"])
        previous = world.change(subscription, automatic_tax=of_subscription(False) | reason)
        world.emit("customer.subscription.updated", subscription, previous)


def rates_of(world: World, invoice: Row, line: Row) -> tuple[Rate, ...]:
    """What is due on a line; nothing while nobody knows where. Raises 400 where its price does not say how."""
    price = (line["pricing"] or {}).get("price_details", {}).get("price")
    behavior = _behavior(world, price)
    customer = world.find("customer", invoice["customer"])
    place = place_of(customer)
    if place is None:
        return ()
    kind, percentage = _registered(world, place)
    reason = "standard_rated" if Decimal(percentage) else "not_collecting"
    if Decimal(percentage) and customer["tax_exempt"] in EXEMPT:
        percentage, reason = "0", EXEMPT[customer["tax_exempt"]]
    row = _rate_row(world, place, kind, percentage, reason, inclusive=behavior == "inclusive")
    return (Rate(row["id"], Fraction(percentage), row["inclusive"], reason),)


def register(world: World, place: str, percentage: Any) -> Row:
    """From now on this is the rate of a place such as `DE` or `US-CA`. Raises `Refused`."""
    country, _, state = place.partition("-")
    if not (len(country) == 2 and country.isascii() and country.isupper()) or not (state + "x").isalnum():
        raise Refused("place is a country such as DE, or a country and its state such as US-CA.")
    try:
        exact = Decimal(str(percentage))
    except ArithmeticError:
        exact = Decimal(-1)
    if not 0 <= exact <= 100:
        raise Refused("percentage is a number from 0 to 100.")
    told = {"percentage": str(exact)}
    row = world.get("tax_place", f"tax_{place}")
    if row is None:
        return world.add({"id": f"tax_{place}", "object": "tax_place", **told})
    world.change(row, **told)
    return row


def _registered(world: World, place: str) -> tuple[str, str]:
    kind, percentage = RATES.get(place, ("sales_tax" if place.startswith("US") else "vat", "0"))
    row = world.get("tax_place", f"tax_{place}")
    return kind, row["percentage"] if row is not None else percentage


def _behavior(world: World, price: str | None) -> str:
    behavior = "unspecified" if price is None else str(world.find("price", price)["tax_behavior"])
    if behavior == "unspecified":
        raise StripeError(
            "Automatic tax needs a price with a `tax_behavior` of `inclusive` or `exclusive` for everything billed.",
            param="automatic_tax",
        )
    return behavior


def _rate_row(world: World, place: str, kind: str, percentage: str, reason: str, *, inclusive: bool) -> Row:
    """The tax rate that Stripe keeps for it, of its own making: nobody else can use it."""
    key = f"{place} {percentage} {reason} {inclusive}"
    for row in world.rows("tax_rate", _place=key):
        return row
    country, _, state = place.partition("-")
    return world.add(
        {
            "id": world.new_id("txr"), "object": "tax_rate", "active": False, "country": country,
            "created": world.now, "description": None, "display_name": _NAMES[kind],
            "effective_percentage": float(percentage), "flat_amount": None, "inclusive": inclusive,
            "jurisdiction": state or country, "jurisdiction_level": "state" if state else "country",
            "livemode": world.livemode, "metadata": {}, "percentage": float(percentage), "rate_type": "percentage",
            "state": state or None, "tax_type": kind, "_place": key, "_reason": reason,
        }
    )  # fmt: skip
