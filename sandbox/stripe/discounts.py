"""Discounts in force: a coupon given to a subscription, an invoice or an invoice item, from a start to an end."""

from fractions import Fraction
from typing import Any

from sandbox.stripe.periods import add_months
from sandbox.stripe.tax import Off
from sandbox.stripe.wire import StripeError, missing
from sandbox.stripe.world import Row, World, index

index("discount", "subscription", "invoice")
index("promotion_code", "code", coupon=lambda row: row["promotion"]["coupon"])


def given(world: World, wanted: Any, *, customer: str, currency: str, **owner: str) -> list[str]:
    """The ids of the discounts that a `discounts` parameter asks for, made where it names coupons or promotion codes.

    Raises 400 for coupons that are unknown, used up, expired or of another currency."""
    found = []
    for position, one in enumerate(wanted or []):
        if one.get("discount"):
            found.append(world.find("discount", one["discount"], f"discounts[{position}][discount]")["id"])
            continue
        coupon, code = _named(world, one, f"discounts[{position}]")
        if coupon["currency"] is not None and coupon["currency"] != currency:
            raise StripeError(
                f"This coupon is in {coupon['currency']} and cannot be used for {currency}.",
                param=f"discounts[{position}]",
            )
        found.append(_redeem(world, coupon, code, customer, owner)["id"])
    return found


def existing(world: World, id: str, param: str = "id") -> Row:
    """A coupon that was not deleted. Deleted ones stay behind for the discounts that came from them."""
    coupon = world.find("coupon", id, param)
    if coupon["_deleted"]:
        raise missing("coupon", id, param)
    return coupon


def _named(world: World, one: dict[str, Any], param: str) -> tuple[Row, Row | None]:
    if one.get("promotion_code"):
        code = world.find("promotion_code", one["promotion_code"], f"{param}[promotion_code]")
        if not code["active"]:
            raise StripeError("This promotion code is inactive.", param=f"{param}[promotion_code]")
        coupon = existing(world, code["promotion"]["coupon"], f"{param}[promotion_code]")
    elif one.get("coupon"):
        code, coupon = None, existing(world, one["coupon"], f"{param}[coupon]")
    else:
        raise StripeError("Each discount needs a coupon, a discount or a promotion_code.", param=param)
    if not coupon["valid"] or (coupon["redeem_by"] is not None and coupon["redeem_by"] <= world.now):
        raise StripeError(f"Coupon expired: {coupon['id']}", code="coupon_expired", param=param)
    return coupon, code


def _redeem(world: World, coupon: Row, code: Row | None, customer: str, owner: dict[str, str]) -> Row:
    used = coupon["times_redeemed"] + 1
    most = coupon["max_redemptions"]
    world.change(coupon, times_redeemed=used, valid=most is None or used < most)
    if code is not None:
        most = code["max_redemptions"]
        world.change(code, times_redeemed=code["times_redeemed"] + 1,
                     active=most is None or code["times_redeemed"] + 1 < most)  # fmt: skip
    end = add_months(world.now, coupon["duration_in_months"]) if coupon["duration"] == "repeating" else None
    return world.add(
        {
            "id": world.new_id("di"),
            "object": "discount",
            "checkout_session": None,
            "customer": customer,
            "customer_account": None,
            "end": end,
            "invoice": None,
            "invoice_item": None,
            "promotion_code": code and code["id"],
            "source": {"coupon": coupon["id"], "type": "coupon"},
            "start": world.now,
            "subscription": None,
            "subscription_item": None,
            **owner,
        }
    )


def offs(world: World, ids: list[str]) -> list[Off]:
    """The discounts as the arithmetic wants them, in the order in which they apply."""
    return [_off(world, world.find("discount", id)) for id in ids]


def _off(world: World, discount: Row) -> Off:
    coupon = world.find("coupon", discount["source"]["coupon"])
    percent = coupon["percent_off"]
    return Off(discount["id"], None if percent is None else Fraction(str(percent)), coupon["amount_off"])


def in_force(world: World, ids: list[str]) -> list[str]:
    """Without those that have ended by now."""
    rows = [world.find("discount", id) for id in ids]
    return [row["id"] for row in rows if row["end"] is None or row["end"] > world.now]


def after_use(world: World, ids: list[str]) -> list[str]:
    """What is left of a subscription's discounts once they were on an invoice: `once` is used up."""
    rows = [world.find("discount", id) for id in ids]
    kept = []
    for row in rows:
        if world.find("coupon", row["source"]["coupon"])["duration"] == "once":
            world.change(row, end=world.now)
        else:
            kept.append(row["id"])
    return kept
