"""What a price costs for a quantity, and how an invoice line words it. Amounts in the currency's smallest unit."""

from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from sandbox.stripe.proration import rounded
from sandbox.stripe.wire import NotModelled, StripeError
from sandbox.stripe.world import Row, World

ZERO_DECIMAL: Final = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)


def recurring(world: World, id: str, param: str, currency: str | None = None) -> Row:
    """The price of a subscription item. Raises 400 if it cannot be one, `NotModelled` for metered and tiered ones."""
    price = world.find("price", id, param)
    if price["type"] != "recurring":
        raise StripeError(
            f"The price {id} is set to `type=one_time` but this field only accepts prices with `type=recurring`.",
            param=param,
        )
    if not price["active"]:
        raise StripeError("The price specified is inactive. This field only accepts active prices.", param=param)
    if price["recurring"]["usage_type"] != "licensed" or price["billing_scheme"] != "per_unit":
        raise NotModelled("The sandbox does not model metered or tiered prices on subscriptions.")
    if currency is not None and price["currency"] != currency:
        raise StripeError(
            f"The price specified only supports `{price['currency']}`. This doesn't match the expected currency: "
            f"`{currency}`.",
            param=param,
        )
    return price


def cost(price: Row, quantity: int) -> int:
    """Of one whole interval."""
    return rounded(Fraction(str(price["unit_amount_decimal"])) * quantity)


def interval(price: Row) -> tuple[str, int]:
    return price["recurring"]["interval"], price["recurring"]["interval_count"]


def pricing_of(price: Row) -> dict[str, Any]:
    """A line's `pricing`."""
    return {
        "price_details": {"price": price["id"], "product": price["product"]},
        "type": "price_details",
        "unit_amount_decimal": str(price["unit_amount_decimal"]),
    }


def product_name(world: World, price: Row) -> str:
    name: str = world.find("product", price["product"])["name"]
    return name


def described(world: World, price: Row, quantity: int) -> str:
    """`2 × Facebook Pages (at $31.00 / month)`."""
    every, count = interval(price)
    period = every if count == 1 else f"{count} {every}s"
    unit = signed(price["unit_amount_decimal"], price["currency"])
    return f"{quantity} × {product_name(world, price)} (at {unit} / {period})"


def signed(amount: Any, currency: str) -> str:
    """An amount as Stripe writes it in texts: `$31.00`."""
    sign = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}.get(currency, currency.upper() + " ")
    if currency in ZERO_DECIMAL:
        return f"{sign}{int(amount):,}"
    return f"{sign}{Decimal(str(amount)) / 100:,.2f}"


def written(amount: Any, currency: str) -> str:
    """An amount for people: `31.00 USD`."""
    if currency in ZERO_DECIMAL:
        return f"{amount} {currency.upper()}"
    return f"{Decimal(str(amount)) / 100:.2f} {currency.upper()}"
