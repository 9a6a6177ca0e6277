"""Payment intents: what is to be paid, with which card, and how far that has come."""

from collections.abc import Callable
from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.present import present
from sandbox.stripe.resources import charges, disputes, payment_methods
from sandbox.stripe.resources.payment_methods import card_of
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import address, cleared, merged_metadata
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World, index

index("payment_intent", "customer", "status")

SMALLEST: Final = {"usd": 50, "eur": 50, "gbp": 30, "jpy": 50, "cad": 50, "aud": 50, "chf": 50}
"""Least amount that a card can be charged, in smallest units; other currencies have none here."""
LARGEST: Final = 99_999_999

on_success: Final[list[Callable[[World, Row], None]]] = []
"""Told of every intent that has just succeeded by being charged: invoices wait for theirs."""

_EDITABLE: Final = frozenset(
    {"amount", "currency", "customer", "description", "metadata", "payment_method", "receipt_email",
    "setup_future_usage",
     "shipping", "statement_descriptor", "statement_descriptor_suffix", "payment_method_data.type",
     "payment_method_data.billing_details", "payment_method_data.metadata", "payment_method_data.allow_redisplay"}
)  # fmt: skip


@route("POST", "/v1/payment_intents", takes="PaymentIntentCreateParams",
       models=_EDITABLE | {"automatic_payment_methods", "capture_method", "confirm", "confirmation_method",
                           "error_on_requires_action", "off_session", "return_url", "use_stripe_sdk"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    intent = make(
        world,
        amount=params["amount"],
        currency=params["currency"].lower(),
        customer=params.get("customer"),
        capture_method=params.get("capture_method", "automatic_async"),
        metadata=merged_metadata(None, params.get("metadata")),
        automatic=params.get("automatic_payment_methods", {"enabled": True}),
        confirmation_method=params.get("confirmation_method", "automatic"),
    )
    world.change(intent, **_given(world, intent, params))
    world.emit("payment_intent.created", intent)
    if params.get("confirm"):
        return pay(world, intent, params.get("off_session") is True)
    for name in ("off_session", "error_on_requires_action"):
        if params.get(name):
            raise StripeError(f"The parameter {name} can only be used when confirm is true.", param=name)
    return intent


def make(
    world: World, *, amount: int, currency: str, customer: str | None, metadata: dict[str, str], automatic: Row | None,
    capture_method: str = "automatic_async", confirmation_method: str = "automatic", description: str | None = None,
) -> Row:  # fmt: skip
    """A new intent that nobody has heard of yet: the caller emits its event."""
    _check_amount(amount, currency)
    if customer is not None:
        world.find("customer", customer, "customer")
    id = world.new_id("pi")
    return world.add({
        "id": id, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_details": {"tip": {}},
        "amount_received": 0, "application": None, "application_fee_amount": None,
        "automatic_payment_methods": automatic and {"allow_redirects": "always", **automatic}, "canceled_at": None,
        "cancellation_reason": None, "capture_method": capture_method,
        "client_secret": f"{id}_secret_{world.universe.token(25)}",
        "confirmation_method": confirmation_method, "created": world.now, "currency": currency, "customer": customer,
        "customer_account": None, "description": description, "excluded_payment_method_types": None,
        "last_payment_error": None, "latest_charge": None, "livemode": world.livemode, "metadata": metadata,
        "next_action": None, "on_behalf_of": None, "payment_method": None, "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"installments": None, "mandate_options": None, "network": None,
                                            "request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"], "processing": None, "receipt_email": None, "review": None,
        "setup_future_usage": None, "shipping": None, "source": None, "statement_descriptor": None,
        "statement_descriptor_suffix": None, "status": "requires_payment_method", "transfer_data": None,
        "transfer_group": None,
    })  # fmt: skip


def _check_amount(amount: int, currency: str) -> None:
    if amount < 1:
        raise StripeError(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if amount < SMALLEST.get(currency, 1):
        raise StripeError(
            f"Amount must be at least {SMALLEST[currency]} of the smallest unit of {currency}", code="amount_too_small",
            param="amount",
        )  # fmt: skip
    if amount > LARGEST:
        raise StripeError("Amount must be no more than 99999999", code="amount_too_large", param="amount")


def _given(world: World, intent: Row, params: dict[str, Any]) -> Row:
    """The fields that parameters of create, update or confirm set."""
    fields: Row = cleared(
        params,
        "description",
        "receipt_email",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "setup_future_usage",
    )
    if params.get("shipping"):
        fields["shipping"] = {
            "carrier": None,
            "name": None,
            "phone": None,
            "tracking_number": None,
            **params["shipping"],
        }
        fields["shipping"]["address"] = address(params["shipping"].get("address"))
    method = params.get("payment_method")
    if method is None and "payment_method_data" in params:
        raise StripeError(
            "Collect card details with a token: payment_method=pm_card_visa.", param="payment_method_data"
        )
    if method:
        row = payment_methods.resolve(world, method)
        owner = params.get("customer", intent["customer"])
        if row["customer"] is not None and row["customer"] != owner:
            raise StripeError(
                f"The provided PaymentMethod ({row['id']}) belongs to another customer; give that customer too.",
                param="payment_method",
            )
        fields["payment_method"] = row["id"]
        if intent["status"] in ("requires_payment_method", "requires_action"):
            fields |= {"next_action": None}
            fields |= {"status": "requires_confirmation", "last_payment_error": None}
    return fields


# --- paying -----------------------------------------------------------------------------------------------------------


def pay(world: World, intent: Row, off_session: bool = False) -> Row:
    """Confirm: the intent as it is then, or Stripe's card error, which leaves intent and failed charge behind."""
    if intent["payment_method"] is None:
        raise StripeError(
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either update the "
            "PaymentIntent with a payment method and then confirm it again, or confirm it again directly with a "
            "payment method or ConfirmationToken.",
            code="payment_intent_unexpected_state",
        )
    method = world.find("payment_method", intent["payment_method"], "payment_method")
    if card_of(method).authenticates == "every" and not off_session:
        return _ask_holder(world, intent)
    charge = _charge(world, intent, method)
    if charge["status"] == "failed":
        raise payment_methods.declined(
            intent["last_payment_error"]["decline_code"], commits=True, charge=charge["id"],
            payment_intent=present(world, intent), payment_method=present(world, method),
        )  # fmt: skip
    return intent


def _ask_holder(world: World, intent: Row) -> Row:
    """The bank wants its holder, who is not modelled: the intent stays here until it is canceled or paid otherwise."""
    action = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
    world.change(intent, status="requires_action", next_action=action, last_payment_error=None)
    world.emit("payment_intent.requires_action", intent)
    return intent


def _charge(world: World, intent: Row, method: Row) -> Row:
    card = card_of(method)
    world.change(intent, payment_method_types=[method["type"]])
    manual = intent["capture_method"] == "manual"
    decline = card.declines or ("authentication_required" if card.authenticates else None)
    charge = charges.make(world, intent, method, capture=not manual, decline=decline)
    if decline is not None:
        error = payment_methods.declined(decline, charge=charge["id"], payment_method=present(world, method)).error
        world.change(
            intent, status="requires_payment_method", payment_method=None, latest_charge=charge["id"],
            last_payment_error=error,
        )  # fmt: skip
        world.emit("charge.failed", charge)
        world.emit("payment_intent.payment_failed", intent)
        return charge
    if manual:
        world.change(
            intent, status="requires_capture", amount_capturable=intent["amount"], latest_charge=charge["id"],
            last_payment_error=None,
        )  # fmt: skip
        world.emit("charge.succeeded", charge)
        world.emit("payment_intent.amount_capturable_updated", intent)
        return charge
    world.change(
        intent, status="succeeded", amount_received=intent["amount"], latest_charge=charge["id"],
        last_payment_error=None,
    )  # fmt: skip
    world.emit("charge.succeeded", charge)
    if card.disputed is not None:
        disputes.open_dispute(world, charge["id"], None, card.disputed, inquiry=card.inquires)
    world.emit("payment_intent.succeeded", intent)
    for tell in on_success:
        tell(world, intent)
    return charge


def charge_customer(
    world: World, *, customer: str, payment_method: str, amount: int, currency: str, invoice: str | None,
    metadata: dict[str, str] | None = None, description: str | None = None,
) -> Row:  # fmt: skip
    """Charge a customer's card off session, for `invoice` if it is for one: the intent, which is `succeeded`, or
    `requires_payment_method` with its `last_payment_error` when the card declines. Never raises for a decline."""
    words = description or ("Subscription update" if invoice else None)
    intent = make(
        world,
        amount=amount,
        currency=currency,
        customer=customer,
        metadata=metadata or {},
        automatic=None,
        description=words,
    )
    method = payment_methods.resolve(world, payment_method)
    world.change(intent, payment_method=method["id"], status="requires_confirmation")
    world.emit("payment_intent.created", intent)
    _charge(world, intent, method)
    return intent


# --- the rest of the endpoints ----------------------------------------------------------------------------------------


@route("GET", "/v1/payment_intents/{id}", takes="PaymentIntentRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("payment_intent", id)


@route("POST", "/v1/payment_intents/{id}", takes="PaymentIntentModifyParams", models=_EDITABLE)
def update(world: World, params: dict[str, Any], id: str) -> Row:
    intent = world.find("payment_intent", id)
    fields = _given(world, intent, params)
    paid = intent["status"] in ("succeeded", "canceled", "requires_capture")
    if paid and any(name in params for name in ("amount", "currency", "customer", "payment_method")):
        raise _unexpected(intent, "updated")
    if "customer" in params:
        world.find("customer", params["customer"], "customer")
        fields["customer"] = params["customer"]
    if "amount" in params or "currency" in params:
        fields["amount"] = params.get("amount", intent["amount"])
        fields["currency"] = str(params.get("currency", intent["currency"])).lower()
        _check_amount(fields["amount"], fields["currency"])
    if "metadata" in params:
        fields["metadata"] = merged_metadata(intent["metadata"], params["metadata"])
    world.change(intent, **fields)
    return intent


@route("POST", "/v1/payment_intents/{id}/confirm", takes="PaymentIntentConfirmParams",
       models={"payment_method", "off_session", "return_url", "receipt_email", "setup_future_usage", "shipping",
               "error_on_requires_action", "use_stripe_sdk"})  # fmt: skip
def confirm(world: World, params: dict[str, Any], id: str) -> Row:
    intent = world.find("payment_intent", id)
    if intent["status"] not in ("requires_payment_method", "requires_confirmation", "requires_action"):
        raise _unexpected(intent, "confirmed")
    world.change(intent, **_given(world, intent, params))
    return pay(world, intent, params.get("off_session") is True)


@route(
    "POST",
    "/v1/payment_intents/{id}/capture",
    takes="PaymentIntentCaptureParams",
    models={"amount_to_capture", "metadata"},
)
def capture(world: World, params: dict[str, Any], id: str) -> Row:
    intent = world.find("payment_intent", id)
    if intent["status"] != "requires_capture":
        raise _unexpected(intent, "captured")
    amount = int(params.get("amount_to_capture") or intent["amount_capturable"])
    if not 1 <= amount <= intent["amount_capturable"]:
        raise StripeError(
            "The amount to capture must be positive and at most the amount capturable.", code="amount_too_large",
            param="amount_to_capture",
        )  # fmt: skip
    charge = world.find("charge", intent["latest_charge"])
    charges.take(world, charge, amount)
    metadata = merged_metadata(intent["metadata"], params.get("metadata"))
    world.change(intent, status="succeeded", amount_capturable=0, amount_received=amount, metadata=metadata)
    world.emit("charge.captured", charge)
    world.emit("payment_intent.succeeded", intent)
    return intent


@route("POST", "/v1/payment_intents/{id}/cancel", takes="PaymentIntentCancelParams", models={"cancellation_reason"})
def cancel(world: World, params: dict[str, Any], id: str) -> Row:
    intent = world.find("payment_intent", id)
    if intent["status"] in ("succeeded", "canceled"):
        raise _unexpected(intent, "canceled")
    reason = params.get("cancellation_reason")
    held = intent["status"] == "requires_capture"
    world.change(intent, status="canceled", canceled_at=world.now, cancellation_reason=reason, amount_capturable=0)
    if held:
        world.change(world.find("charge", intent["latest_charge"]), refunded=True, amount_refunded=intent["amount"])
    world.emit("payment_intent.canceled", intent)
    return intent


@route("GET", "/v1/payment_intents", takes="PaymentIntentListParams", models={"customer"})
def listed(world: World, params: dict[str, Any]) -> Row:
    return lists.page(world, "payment_intent", params, "/v1/payment_intents", customer=params.get("customer"))


def _unexpected(intent: Row, verb: str) -> StripeError:
    return StripeError(
        f"This PaymentIntent could not be {verb} because it has a status of {intent['status']}.",
        code="payment_intent_unexpected_state",
        payment_intent={"id": intent["id"], "object": "payment_intent", "status": intent["status"]},
    )
