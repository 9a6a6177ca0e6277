"""Subscriptions: created, changed, paused, cancelled. Their life on the clock is in `cycles.py`."""

from typing import Any, Final

from sandbox.stripe import automatic_tax, blanks, discounts, lists
from sandbox.stripe.changes import change_items, credit, twice
from sandbox.stripe.collection import advance, collect, default_method, payment_error
from sandbox.stripe.cycles import (
    ENDED,
    FIRST_PAYMENT,
    differing,
    end,
    ends_without_card,
    invoice_for,
    leave_to_stripe,
    schedule,
)
from sandbox.stripe.invoice_states import finalize
from sandbox.stripe.invoicing import DAY
from sandbox.stripe.present import present
from sandbox.stripe.pricing import recurring
from sandbox.stripe.resources.tax_rates import usable
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import cleared, merged_metadata
from sandbox.stripe.subscribed import add_item, aligned, enter, items_of
from sandbox.stripe.wire import NotModelled, StripeError
from sandbox.stripe.world import Row, World

_ITEM: Final = {"items.price", "items.quantity", "items.metadata", "items.tax_rates"}
_SHARED: Final = {
    "automatic_tax.enabled", "cancel_at_period_end", "collection_method", "days_until_due", "default_payment_method",
    "default_tax_rates", "description", "discounts", "metadata", "off_session", "payment_behavior",
    "proration_behavior", "trial_end", "trial_settings.end_behavior.missing_payment_method",
}  # fmt: skip


@route("POST", "/v1/subscriptions", "SubscriptionCreateParams",
       _ITEM | _SHARED | {"customer", "currency", "billing_cycle_anchor", "trial_period_days"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    """Charged at once; when that payment fails the subscription is incomplete for 23 hours, then it expires."""
    customer = world.find("customer", params.get("customer", ""), "customer")
    wanted = params.get("items")
    if not wanted:
        raise StripeError("Missing required param: items.", code="parameter_missing", param="items")
    currency = recurring(world, wanted[0].get("price", ""), "items[0][price]")["currency"]
    row = blanks.subscription(world, customer["id"], str(params.get("currency", currency)).lower())
    if params.get("payment_behavior") == "pending_if_incomplete":
        raise StripeError("`pending_if_incomplete` has no effect on a new subscription.", param="payment_behavior")
    row |= _collected(world, row, params) | _plain(world, row, params)
    trial = _trial_end(world, params)
    anchor = params.get("billing_cycle_anchor", trial or world.now)
    if anchor < world.now:
        raise StripeError("billing_cycle_anchor cannot be in the past.", param="billing_cycle_anchor")
    charged = row["collection_method"] == "charge_automatically"
    row["_stub_costs"] = params.get("proration_behavior") != "none"
    row |= {"billing_cycle_anchor": anchor, "trial_end": trial, "trial_start": trial and world.now,
            "status": "trialing" if trial else "incomplete" if charged else "active"}  # fmt: skip
    if charged and not trial and not (row["default_payment_method"] or default_method(world, customer["id"])):
        raise StripeError(
            "This customer has no attached payment source or default payment method. Please consider adding a default "
            "payment method.",
            code="resource_missing",
        )
    world.add(row)
    row_discounts = discounts.given(
        world, params.get("discounts"), customer=customer["id"], currency=row["currency"], subscription=row["id"]
    )
    world.change(row, discounts=row_discounts)
    for position, one in enumerate(wanted):
        item = add_item(world, row, one, f"items[{position}]")
        period = (world.now, trial or aligned(world, row, item, world.now)[1])
        enter(world, item, period)
    if len({item["_price"] for item in items_of(world, row)}) != len(wanted):
        raise twice(wanted[0]["price"])
    if row["cancel_at_period_end"]:
        world.change(row, **_ending(world, row))
    automatic_tax.check(world, row, items_of(world, row))
    _first_invoice(world, row, params)
    schedule(world, row)
    if trial:
        world.at(max(world.now, trial - 3 * DAY), "trial_will_end", subscription=row["id"])
    return row


def _first_invoice(world: World, subscription: Row, params: dict[str, Any]) -> None:
    invoice = invoice_for(world, subscription, items_of(world, subscription), "subscription_create", world.now)
    world.emit("customer.subscription.created", subscription)
    if subscription["collection_method"] == "send_invoice" and not subscription["trial_end"]:
        leave_to_stripe(world, subscription, invoice)
        return
    world.emit("invoice.created", invoice)
    finalize(world, invoice)
    error = collect(world, invoice) if invoice["status"] == "open" else None
    if error is None:
        return
    if params.get("payment_behavior") == "error_if_incomplete":
        refusal = payment_error(error)
        refusal.commits = False
        raise refusal
    world.at(world.now + FIRST_PAYMENT, "expire_subscription", subscription=subscription["id"])


def _trial_end(world: World, params: dict[str, Any]) -> int | None:
    if "trial_end" in params and "trial_period_days" in params:
        raise StripeError("You may only specify one of these parameters: trial_end, trial_period_days.",
                          code="parameters_exclusive", param="trial_end")  # fmt: skip
    if params.get("trial_period_days"):
        return world.now + int(params["trial_period_days"]) * DAY
    ends = params.get("trial_end")
    if ends is None or ends == "now":
        return None
    if ends <= world.now:
        raise StripeError("Invalid timestamp: must be an integer Unix timestamp in the future.", param="trial_end")
    return int(ends)


def _collected(world: World, row: Row, params: dict[str, Any]) -> Row:
    """How its invoices are collected, checked."""
    if params.get("payment_behavior") in ("default_incomplete", "pending_if_incomplete"):
        raise NotModelled(f"The sandbox does not model payment_behavior={params['payment_behavior']}.")
    method = params.get("collection_method", row["collection_method"])
    days = params.get("days_until_due", row["days_until_due"])
    if method == "send_invoice" and days is None:
        raise StripeError("collection_method send_invoice needs days_until_due.", code="parameter_missing",
                          param="days_until_due")  # fmt: skip
    if method == "charge_automatically" and "days_until_due" in params:
        raise StripeError("days_until_due goes with collection_method send_invoice.", param="days_until_due")
    fields: Row = {"collection_method": method, "days_until_due": days if method == "send_invoice" else None}
    if "default_payment_method" in params:
        card = world.find("payment_method", params["default_payment_method"], "default_payment_method")
        if card["customer"] != row["customer"]:
            raise StripeError(
                f"The customer does not have a payment method with the ID {card['id']}. The payment method must be "
                "attached to the customer.",
                code="resource_missing",
                param="default_payment_method",
            )
        fields["default_payment_method"] = card["id"]
    return fields


def _plain(world: World, row: Row, params: dict[str, Any]) -> Row:
    fields = cleared(params, "description", "cancel_at_period_end")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(row["metadata"], params["metadata"])
    if "trial_settings" in params:
        behavior = {**row["trial_settings"]["end_behavior"], **params["trial_settings"]["end_behavior"]}
        fields["trial_settings"] = {"end_behavior": behavior}
    if "automatic_tax" in params:
        fields["automatic_tax"] = automatic_tax.of_subscription(params["automatic_tax"]["enabled"])
    if "default_tax_rates" in params:
        fields["_rates"] = usable(world, params["default_tax_rates"], "default_tax_rates")
    return fields


@route("GET", "/v1/subscriptions/{id}", "SubscriptionRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("subscription", id)


@route("POST", "/v1/subscriptions/{id}", "SubscriptionModifyParams",
       _ITEM | _SHARED | {"items.id", "items.deleted", "pause_collection", "proration_date", "billing_cycle_anchor",
                          "cancellation_details.comment", "cancellation_details.feedback"})  # fmt: skip
def update(world: World, params: dict[str, Any], id: str) -> Row:
    row = world.find("subscription", id)
    if row["status"] in ENDED and set(params) - {"metadata", "cancellation_details"}:
        raise StripeError(
            "A canceled subscription can only update its cancellation_details and metadata.",
            code="invalid_canceled_subscription_fields",
        )
    before = present(world, row)
    fields = _collected(world, row, params) | _plain(world, row, params) | _paused(world, row, params)
    if "discounts" in params:
        fields["discounts"] = discounts.given(
            world, params["discounts"], customer=row["customer"], currency=row["currency"], subscription=id
        )
    if "cancellation_details" in params:
        said = cleared(params["cancellation_details"], "comment", "feedback")
        fields["cancellation_details"] = {**row["cancellation_details"], **said}
    world.change(row, **fields)
    if "cancel_at_period_end" in params:
        world.change(row, **_ending(world, row))
    invoice = rearranged(world, row, params)
    if {"automatic_tax", "default_tax_rates", "items"} & set(params):
        automatic_tax.check(world, row, items_of(world, row))
    previous = differing(world, row, before)
    if previous:
        world.emit("customer.subscription.updated", row, previous)
    if invoice is not None:
        leave_to_stripe(world, row, invoice, at_once=True)
    return row


def _paused(world: World, row: Row, params: dict[str, Any]) -> Row:
    if "pause_collection" not in params:
        return {}
    wanted = params["pause_collection"]
    if wanted == "":
        return {"pause_collection": None}
    if row["status"] in ("past_due", "unpaid") and not world.universe.assume.past_due_can_be_paused:
        raise StripeError(f"A subscription that is {row['status']} cannot be paused.", param="pause_collection")
    resumes = wanted.get("resumes_at")
    if resumes is not None:
        if resumes <= world.now:
            raise StripeError("resumes_at must be in the future.", param="pause_collection[resumes_at]")
        world.at(resumes, "lift_pause", subscription=row["id"])
    return {"pause_collection": {"behavior": wanted["behavior"], "resumes_at": resumes}}


def _ending(world: World, row: Row) -> Row:
    """The fields that follow from `cancel_at_period_end`."""
    ends = row["cancel_at_period_end"]
    return {
        "cancel_at": min(item["current_period_end"] for item in items_of(world, row)) if ends else None,
        "canceled_at": world.now if ends else None,
        "cancellation_details": {
            **row["cancellation_details"], "reason": "cancellation_requested" if ends else None,
        },
    }  # fmt: skip


def rearranged(world: World, row: Row, params: dict[str, Any]) -> Row | None:
    """Change items, trial and anchor; the invoice that this makes at once, if any."""
    behavior = params.get("proration_behavior", "create_prorations")
    since = params.get("proration_date", world.now)
    restarts = (params.get("billing_cycle_anchor") or {}).get("type") == "now"
    if params.get("trial_end") == "now":
        if ends_without_card(world, row):
            return None
        restarts = restarts or row["status"] == "trialing"
    elif "trial_end" in params:
        _extend_trial(world, row, params["trial_end"])
    if restarts:
        return _restarted(world, row, params, since, credits=behavior != "none")
    if "items" not in params:
        return None
    change_items(world, row, params["items"], since=since, prorates=behavior != "none")
    schedule(world, row)
    pending = [item for item in world.rows("invoiceitem", customer=row["customer"], invoice=None)
               if item["_subscription"] == row["id"]]  # fmt: skip
    if behavior != "always_invoice" or not pending:
        return None
    return invoice_for(world, row, [], "subscription_update", world.now)


def _extend_trial(world: World, row: Row, ends: int) -> None:
    if row["status"] != "trialing":
        raise NotModelled("The sandbox does not model giving a trial to a subscription that has begun.")
    if ends <= world.now:
        raise StripeError("Invalid timestamp: must be an integer Unix timestamp in the future.", param="trial_end")
    world.change(row, trial_end=ends, billing_cycle_anchor=ends)
    for item in items_of(world, row):
        enter(world, item, (row["trial_start"], ends))
    schedule(world, row)
    world.at(max(world.now, ends - 3 * DAY), "trial_will_end", subscription=row["id"])


def _restarted(world: World, row: Row, params: dict[str, Any], since: int, *, credits: bool) -> Row:
    """A fresh period of every item from now on, billed at once."""
    for item in items_of(world, row) if credits else []:
        credit(world, row, item, since)
    if "items" in params:
        change_items(world, row, params["items"], since=since, prorates=False)
    fields: Row = {"billing_cycle_anchor": world.now}
    if row["status"] == "trialing":
        fields |= {"status": "active", "trial_end": world.now}
    world.change(row, **fields)
    for item in items_of(world, row):
        enter(world, item, aligned(world, row, item, world.now))
    schedule(world, row)
    return invoice_for(world, row, items_of(world, row), "subscription_update", world.now)


@route("DELETE", "/v1/subscriptions/{id}", "SubscriptionCancelParams",
       {"invoice_now", "prorate", "cancellation_details.comment", "cancellation_details.feedback"})  # fmt: skip
def cancel(world: World, params: dict[str, Any], id: str) -> Row:
    """At once. `prorate` credits what is not used, `invoice_now` bills what is pending."""
    row = world.find("subscription", id)
    if row["status"] in ENDED:
        raise StripeError(f"No such subscription: '{id}'", status=404, code="resource_missing", param="id")
    if params.get("prorate"):
        for item in items_of(world, row):
            credit(world, row, item, world.now)
    if params.get("invoice_now"):
        invoice = invoice_for(world, row, [], "subscription_update", world.now)
        world.emit("invoice.created", invoice)
        advance(world, invoice)
    said = cleared(params.get("cancellation_details") or {}, "comment", "feedback")
    world.change(row, cancellation_details={**row["cancellation_details"], **said})
    end(world, row, "cancellation_requested")
    return row


@route("GET", "/v1/subscriptions", "SubscriptionListParams",
       {"customer", "status", "price", "collection_method", "current_period_start", "current_period_end"})  # fmt: skip
def listed(world: World, params: dict[str, Any]) -> Row:
    """Without `status` those that have not been canceled. Periods: the earliest end, the latest start of the items."""
    status = params.get("status")
    exact = None if status in (None, "all", "ended") else status

    def passes(row: Row) -> bool:
        if status is None and row["status"] == "canceled":
            return False
        if status == "ended" and row["status"] not in ENDED:
            return False
        items = items_of(world, row)
        return (
            ("price" not in params or any(item["_price"] == params["price"] for item in items))
            and within(params.get("current_period_end"), min(item["current_period_end"] for item in items))
            and within(params.get("current_period_start"), max(item["current_period_start"] for item in items))
        )

    equal = {"customer": params.get("customer"), "status": exact, "collection_method": params.get("collection_method")}
    return lists.page(world, "subscription", params, "/v1/subscriptions", passes, **equal)


def within(bounds: Any, value: int | None) -> bool:
    """Whether a time passes a filter: an exact second, or gt, gte, lt, lte. A null passes only without a filter."""
    if bounds is None:
        return True
    if value is None:
        return False
    if isinstance(bounds, int):
        return value == bounds
    return bool(
        value > bounds.get("gt", value - 1)
        and value >= bounds.get("gte", value)
        and value < bounds.get("lt", value + 1)
        and value <= bounds.get("lte", value)
    )
