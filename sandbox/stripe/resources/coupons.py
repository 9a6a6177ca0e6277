"""Coupons and promotion codes."""

from typing import Any

from sandbox.stripe import lists
from sandbox.stripe.discounts import existing
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import merged_metadata
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World


@route("POST", "/v1/coupons", "CouponCreateParams", {
    "id", "amount_off", "currency", "percent_off", "duration", "duration_in_months", "max_redemptions", "metadata",
    "name", "redeem_by",
})  # fmt: skip
def create_coupon(world: World, params: dict[str, Any]) -> Row:
    amount, percent, duration = params.get("amount_off"), params.get("percent_off"), params.get("duration", "once")
    if (amount is None) == (percent is None):
        raise StripeError(
            "You must pass either percent_off or amount_off.", code="parameter_missing", param="percent_off"
        )
    if amount is not None and not params.get("currency"):
        raise StripeError("You must pass currency when passing amount_off", code="parameter_missing", param="currency")
    if percent is not None and not 0 < percent <= 100:
        raise StripeError("Invalid percent_off: must be between 0 and 100", param="percent_off")
    if amount is not None and amount <= 0:
        raise StripeError("Invalid positive integer", code="parameter_invalid_integer", param="amount_off")
    if (duration == "repeating") != ("duration_in_months" in params):
        raise StripeError("duration_in_months goes with duration repeating.", param="duration_in_months")
    id = params.get("id") or world.new_id("co").removeprefix("co_")[:8]
    if world.get("coupon", id) is not None:
        raise StripeError("Coupon already exists.", code="resource_already_exists", param="id")
    coupon = world.add(
        {
            "id": id,
            "object": "coupon",
            "amount_off": amount,
            "created": world.now,
            "currency": None if amount is None else params["currency"].lower(),
            "duration": duration,
            "duration_in_months": params.get("duration_in_months"),
            "livemode": world.livemode,
            "max_redemptions": params.get("max_redemptions"),
            "metadata": merged_metadata({}, params.get("metadata")),
            "name": params.get("name"),
            "percent_off": percent,
            "redeem_by": params.get("redeem_by"),
            "times_redeemed": 0,
            "valid": True,
            "_deleted": False,
        }
    )
    world.emit("coupon.created", coupon)
    return coupon


@route("GET", "/v1/coupons/{id}", "CouponRetrieveParams")
def retrieve_coupon(world: World, params: dict[str, Any], id: str) -> Row:
    return existing(world, id)


@route("POST", "/v1/coupons/{id}", "CouponModifyParams", {"metadata", "name"})
def update_coupon(world: World, params: dict[str, Any], id: str) -> Row:
    coupon = existing(world, id)
    previous = world.change(
        coupon,
        metadata=merged_metadata(coupon["metadata"], params.get("metadata")),
        name=params.get("name", coupon["name"]),
    )
    if previous:
        world.emit("coupon.updated", coupon, previous)
    return coupon


@route("DELETE", "/v1/coupons/{id}", "CouponDeleteParams")
def delete_coupon(world: World, params: dict[str, Any], id: str) -> Row:
    """It stays readable for the discounts that came from it, and takes no new ones."""
    coupon = existing(world, id)
    world.change(coupon, valid=False, _deleted=True)
    world.emit("coupon.deleted", coupon)
    return {"id": id, "object": "coupon", "deleted": True}


@route("GET", "/v1/coupons", "CouponListParams")
def list_coupons(world: World, params: dict[str, Any]) -> Row:
    return lists.page(world, "coupon", params, "/v1/coupons", lambda row: not row["_deleted"])


@route("POST", "/v1/promotion_codes", "PromotionCodeCreateParams", {
    "promotion", "code", "active", "customer", "expires_at", "max_redemptions", "metadata",
})  # fmt: skip
def create_promotion_code(world: World, params: dict[str, Any]) -> Row:
    coupon = existing(world, params["promotion"].get("coupon", ""), "promotion[coupon]")
    wanted = (params.get("code") or world.new_id("pc").removeprefix("pc_")[:8]).upper()
    if any(row["active"] for row in world.rows("promotion_code", code=wanted)):
        raise StripeError("An active promotion code with this code already exists.", code="resource_already_exists")
    code = world.add(
        {
            "id": world.new_id("promo"),
            "object": "promotion_code",
            "active": params.get("active", True),
            "code": wanted,
            "created": world.now,
            "customer": params.get("customer") and world.find("customer", params["customer"], "customer")["id"],
            "customer_account": None,
            "expires_at": params.get("expires_at"),
            "livemode": world.livemode,
            "max_redemptions": params.get("max_redemptions"),
            "metadata": merged_metadata({}, params.get("metadata")),
            "promotion": {"coupon": coupon["id"], "type": "coupon"},
            "restrictions": {"first_time_transaction": False, "minimum_amount": None, "minimum_amount_currency": None},
            "times_redeemed": 0,
        }
    )
    world.emit("promotion_code.created", code)
    return code


@route("GET", "/v1/promotion_codes/{id}", "PromotionCodeRetrieveParams")
def retrieve_promotion_code(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("promotion_code", id)


@route("POST", "/v1/promotion_codes/{id}", "PromotionCodeModifyParams", {"active", "metadata"})
def update_promotion_code(world: World, params: dict[str, Any], id: str) -> Row:
    code = world.find("promotion_code", id)
    previous = world.change(
        code,
        metadata=merged_metadata(code["metadata"], params.get("metadata")),
        active=params.get("active", code["active"]),
    )
    if previous:
        world.emit("promotion_code.updated", code, previous)
    return code


@route("GET", "/v1/promotion_codes", "PromotionCodeListParams", {"active", "code", "coupon", "customer"})
def list_promotion_codes(world: World, params: dict[str, Any]) -> Row:
    equal = {name: params.get(name) for name in ("active", "code", "coupon", "customer")}
    return lists.page(world, "promotion_code", params, "/v1/promotion_codes", **equal)
