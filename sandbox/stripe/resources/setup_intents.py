"""Setup intents: a card is made ready for payments to come."""

from typing import Any

from sandbox.stripe import lists
from sandbox.stripe.present import present
from sandbox.stripe.resources import payment_methods
from sandbox.stripe.resources.payment_methods import card_of
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import merged_metadata
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World, index

index("setup_intent", "customer", "payment_method")


@route("POST", "/v1/setup_intents", takes="SetupIntentCreateParams",
       models={"customer", "payment_method", "confirm", "description", "metadata", "usage", "automatic_payment_methods",
               "return_url", "use_stripe_sdk"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    if "customer" in params:
        world.find("customer", params["customer"], "customer")
    id = world.new_id("seti")
    intent = world.add({
        "id": id, "object": "setup_intent", "application": None, "automatic_payment_methods":
        {"allow_redirects": "always", **params.get("automatic_payment_methods", {"enabled": True})},
        "cancellation_reason": None, "client_secret": f"{id}_secret_{world.universe.token(25)}", "created": world.now,
        "customer": params.get("customer"), "customer_account": None, "description": params.get("description"),
        "excluded_payment_method_types": None, "flow_directions": None, "last_setup_error": None,
        "latest_attempt": None,
        "livemode": world.livemode, "mandate": None, "metadata": merged_metadata(None, params.get("metadata")),
        "next_action": None, "on_behalf_of": None, "payment_method": None, "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"mandate_options": None, "network": None,
        "request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"], "single_use_mandate": None, "status": "requires_payment_method",
        "usage": params.get("usage", "off_session"),
    })  # fmt: skip
    _take(world, intent, params.get("payment_method"))
    world.emit("setup_intent.created", intent)
    return _set_up(world, intent) if params.get("confirm") else intent


def _take(world: World, intent: Row, method: str | None) -> None:
    if method is not None:
        row = payment_methods.resolve(world, method)
        world.change(intent, payment_method=row["id"], status="requires_confirmation")


def _set_up(world: World, intent: Row) -> Row:
    if intent["payment_method"] is None:
        raise StripeError(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            code="setup_intent_unexpected_state",
        )
    method = world.find("payment_method", intent["payment_method"])
    card = card_of(method)
    if card.authenticates:
        action = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
        world.change(intent, status="requires_action", next_action=action)
        world.emit("setup_intent.requires_action", intent)
        return intent
    if not card.attaches:
        error = payment_methods.declined(card.declines or "generic_decline", payment_method=present(world, method))
        world.change(intent, status="requires_payment_method", payment_method=None, last_setup_error=error.error)
        world.emit("setup_intent.setup_failed", intent)
        raise payment_methods.declined(
            card.declines or "generic_decline", commits=True, setup_intent=present(world, intent)
        )
    if intent["customer"] is not None:
        payment_methods.attach_to(world, method["id"], intent["customer"])
    world.change(intent, status="succeeded")
    world.emit("setup_intent.succeeded", intent)
    return intent


@route("POST", "/v1/setup_intents/{id}/confirm", takes="SetupIntentConfirmParams",
       models={"payment_method", "return_url", "use_stripe_sdk"})  # fmt: skip
def confirm(world: World, params: dict[str, Any], id: str) -> Row:
    intent = world.find("setup_intent", id)
    if intent["status"] in ("succeeded", "canceled"):
        raise _unexpected(intent, "confirmed")
    _take(world, intent, params.get("payment_method"))
    return _set_up(world, intent)


@route("POST", "/v1/setup_intents/{id}/cancel", takes="SetupIntentCancelParams", models={"cancellation_reason"})
def cancel(world: World, params: dict[str, Any], id: str) -> Row:
    intent = world.find("setup_intent", id)
    if intent["status"] in ("succeeded", "canceled"):
        raise _unexpected(intent, "canceled")
    world.change(intent, status="canceled", cancellation_reason=params.get("cancellation_reason"), next_action=None)
    world.emit("setup_intent.canceled", intent)
    return intent


@route("GET", "/v1/setup_intents/{id}", takes="SetupIntentRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("setup_intent", id)


@route("GET", "/v1/setup_intents", takes="SetupIntentListParams", models={"customer", "payment_method"})
def listed(world: World, params: dict[str, Any]) -> Row:
    equal = {name: params.get(name) for name in ("customer", "payment_method")}
    return lists.page(world, "setup_intent", params, "/v1/setup_intents", **equal)


def _unexpected(intent: Row, verb: str) -> StripeError:
    return StripeError(
        f"This SetupIntent could not be {verb} because it has a status of {intent['status']}.",
        code="setup_intent_unexpected_state",
    )
