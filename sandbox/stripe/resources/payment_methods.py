"""Payment methods: test cards. `pm_card_…` and `tok_…` are templates; each use makes a card of its own."""

from dataclasses import dataclass
from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import NO_BILLING_DETAILS, address, edit, merged_metadata
from sandbox.stripe.wire import StripeError, missing
from sandbox.stripe.world import Row, World, index

index("payment_method", "customer")


@dataclass(frozen=True)
class Card:
    """What one of Stripe's test cards is and does."""

    last4: str
    brand: str = "visa"
    funding: str = "credit"
    attaches: bool = True
    declines: str | None = None
    """Stripe's decline code for every charge."""
    refund: str = "succeeds"
    """What becomes of a refund: succeeds, fails_later, waits, refused."""
    authenticates: str | None = None
    """When its bank asks for its holder: at `every` payment, or only at those off session (`absent`)."""
    disputed: str | None = None
    """The reason with which its holder disputes every charge at once."""
    inquires: bool = False
    """Its bank only asks first: no money moves."""
    settles_at_once: bool = False
    bank_account: bool = False
    """No card: a bank account in the United States, debited at once."""


CARDS: Final = {
    "visa": Card("4242"),
    "visa_debit": Card("5556", funding="debit"),
    "mastercard": Card("4444", "mastercard"),
    "mastercard_debit": Card("3222", "mastercard", "debit"),
    "amex": Card("8431", "amex"),
    "us": Card("4242"),
    "bypassPending": Card("0077", settles_at_once=True),
    "chargeDeclined": Card("0002", attaches=False, declines="generic_decline"),
    "chargeDeclinedInsufficientFunds": Card("9995", attaches=False, declines="insufficient_funds"),
    "chargeCustomerFail": Card("0341", declines="generic_decline"),
    "threeDSecure2Required": Card("3220", authenticates="every"),
    "authenticationRequired": Card("3184", authenticates="every"),
    "authenticationRequiredOnSetup": Card("3155", authenticates="absent"),
    "refundFail": Card("5126", refund="fails_later"),
    "pendingRefund": Card("7726", refund="waits"),
    "createDispute": Card("0259", disputed="fraudulent"),
    "createDisputeProductNotReceived": Card("2685", disputed="product_not_received"),
    "createDisputeInquiry": Card("1976", disputed="fraudulent", inquires=True),
    "usBankAccount_success": Card("6789", bank_account=True),
    # Not one of Stripe's: the bank refuses every refund at once, as it does for a card that was closed.
    "refundRefused": Card("9999", refund="refused"),
}
_MESSAGES: Final = {
    "generic_decline": "Your card was declined.",
    "insufficient_funds": "Your card has insufficient funds.",
    "authentication_required": "Your card was declined. This transaction requires authentication.",
}


def card_named(template: str) -> str | None:
    """The name in `CARDS` behind `pm_card_…`, `tok_…` or `pm_usBankAccount_…`; None for anything else."""
    if template == "pm_usBankAccount_success":
        return "usBankAccount_success"
    for prefix in ("pm_card_visa_", "pm_card_", "tok_visa_", "tok_"):
        name = template.removeprefix(prefix)
        if name != template and name in CARDS:
            return name
    return None


def card_of(method: Row) -> Card:
    return CARDS[method["_card"]]


def declined(code: str, **more: Any) -> StripeError:
    """Stripe's answer for a card that its bank declines."""
    name = code if code == "authentication_required" else "card_declined"
    advice: dict[str, Any] = (
        {"advice_code": "try_again_later", "network_decline_code": "01"} if code == "generic_decline" else {}
    )
    return StripeError(message_for(code), status=402, type="card_error", code=name, decline_code=code, **advice, **more)


def message_for(decline: str) -> str:
    return _MESSAGES[decline]


def make(world: World, name: str, billing: Any = None, metadata: Any = None, allow_redisplay: str | None = None) -> Row:
    """A new card of a template, attached to nobody."""
    card = CARDS[name]
    details = {**NO_BILLING_DETAILS, **{key: value or None for key, value in (billing or {}).items()}}
    details["address"] = address((billing or {}).get("address")) or NO_BILLING_DETAILS["address"]
    type = "us_bank_account" if card.bank_account else "card"
    return world.add({
        "id": world.new_id("pm"), "object": "payment_method", "allow_redisplay": allow_redisplay or "unspecified",
        "billing_details": details, type: _bank_account(card) if card.bank_account else _card(card),
        "created": world.now, "customer": None, "customer_account": None, "livemode": world.livemode,
        "metadata": merged_metadata(None, metadata), "type": type, "_card": name,
    })  # fmt: skip


def _card(card: Card) -> Row:
    return {
        "brand": card.brand,
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "unchecked"},
        "country": "US", "display_brand": card.brand, "exp_month": 12, "exp_year": 2034,
        "fingerprint": f"fp{card.last4}{card.brand}", "funding": card.funding, "generated_from": None,
        "last4": card.last4, "networks": {"available": [card.brand], "preferred": None},
        "regulated_status": "unregulated", "three_d_secure_usage": {"supported": True}, "wallet": None,
    }  # fmt: skip


def _checked(card: Row) -> Row:
    """As it is once its bank was asked."""
    return {**card, "checks": {**card["checks"], "cvc_check": "pass"}}


def _bank_account(card: Card) -> Row:
    return {
        "account_holder_type": "individual", "account_type": "checking", "bank_name": "STRIPE TEST BANK",
        "financial_connections_account": None, "fingerprint": f"fp{card.last4}bank", "last4": card.last4,
        "networks": {"preferred": "ach", "supported": ["ach"]}, "routing_number": "110000000", "status_details": {},
    }  # fmt: skip


def resolve(world: World, id: str, param: str = "payment_method") -> Row:
    """The payment method that an id names; a template's name makes a new card."""
    found = world.get("payment_method", id)
    if found is not None:
        return found
    name = card_named(id)
    if name is None:
        raise missing("PaymentMethod", id, param, "payment_method")
    return make(world, name)


def attached(world: World, template: str, customer: str) -> Row | None:
    """The customer's newest card of a template: `pm_card_visa` in a default means the one attached by that name."""
    name = card_named(template)
    cards = world.rows("payment_method", customer=customer) if name else []
    return next((row for row in reversed(cards) if row["_card"] == name), None)


def attach_to(world: World, id: str, customer: str, param: str = "id") -> Row:
    method = resolve(world, id, param)
    if method["customer"] == customer:
        return method
    if method["customer"] is not None:
        raise StripeError(
            "The payment method you provided has already been attached to a customer.",
            code="payment_method_unexpected_state",
        )
    card = card_of(method)
    if not card.attaches:
        assert card.declines is not None
        raise declined(card.declines)
    world.change(method, customer=customer)
    if method["type"] == "card":
        world.change(method, card=_checked(method["card"]))
    world.emit("payment_method.attached", method)
    return method


@route("POST", "/v1/payment_methods", takes="PaymentMethodCreateParams",
       models={"type", "card.token", "billing_details", "metadata", "allow_redisplay"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    if params.get("type", "card") != "card" or "card" not in params:
        raise StripeError("The sandbox has cards only: type=card and card[token]=tok_visa.", param="type", status=400)
    token = params["card"].get("token", "")
    name = card_named(token)
    if name is None:
        raise missing("token", token, "card[token]")
    return make(world, name, params.get("billing_details"), params.get("metadata"), params.get("allow_redisplay"))


@route("GET", "/v1/payment_methods/{id}", takes="PaymentMethodRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return resolve(world, id, "id")


@route("POST", "/v1/payment_methods/{id}", takes="PaymentMethodModifyParams",
       models={"billing_details", "metadata", "allow_redisplay"})  # fmt: skip
def update(world: World, params: dict[str, Any], id: str) -> Row:
    method = world.find("payment_method", id)
    fields: Row = {}
    if "metadata" in params:
        fields["metadata"] = merged_metadata(method["metadata"], params["metadata"])
    if "billing_details" in params:
        given = {key: value or None for key, value in (params["billing_details"] or {}).items()}
        if "address" in given:
            given["address"] = address(given["address"]) or NO_BILLING_DETAILS["address"]
        fields["billing_details"] = {**method["billing_details"], **given}
    if "allow_redisplay" in params:
        fields["allow_redisplay"] = params["allow_redisplay"]
    return edit(world, method, "payment_method.updated", **fields)


@route("POST", "/v1/payment_methods/{id}/attach", takes="PaymentMethodAttachParams", models={"customer"})
def attach(world: World, params: dict[str, Any], id: str) -> Row:
    customer = params.get("customer")
    if customer is None:
        raise StripeError("Missing required param: customer.", code="parameter_missing", param="customer")
    world.find("customer", customer, "customer")
    return attach_to(world, id, customer)


@route("POST", "/v1/payment_methods/{id}/detach", takes="PaymentMethodDetachParams")
def detach(world: World, params: dict[str, Any], id: str) -> Row:
    method = world.find("payment_method", id)
    customer = method["customer"]
    if customer is None:
        raise StripeError(
            "The payment method you provided is not attached to a customer so detachment is impossible.",
            code="payment_method_unexpected_state",
        )
    owner = world.find("customer", customer, "customer")
    if owner["invoice_settings"]["default_payment_method"] == id:
        world.change(owner, invoice_settings={**owner["invoice_settings"], "default_payment_method": None})
    world.emit("payment_method.detached", method, world.change(method, customer=None))
    return method


@route("GET", "/v1/payment_methods", takes="PaymentMethodListParams", models={"customer", "type"})
def listed(world: World, params: dict[str, Any]) -> Row:
    if params.get("type", "card") != "card":
        return lists.page_of([], params, "/v1/payment_methods")
    if "customer" not in params:
        return lists.page(world, "payment_method", params, "/v1/payment_methods", lambda row: row["customer"] is None)
    world.find("customer", params["customer"], "customer")
    return lists.page(world, "payment_method", params, "/v1/payment_methods", customer=params["customer"])


@route("GET", "/v1/customers/{customer}/payment_methods", takes="CustomerListPaymentMethodsParams", models={"type"})
def listed_of(world: World, params: dict[str, Any], customer: str) -> Row:
    world.find("customer", customer)
    url = f"/v1/customers/{customer}/payment_methods"
    return lists.page(world, "payment_method", params, url, customer=customer, type=params.get("type"))


@route("GET", "/v1/customers/{customer}/payment_methods/{id}", takes="CustomerRetrievePaymentMethodParams")
def retrieve_of(world: World, params: dict[str, Any], customer: str, id: str) -> Row:
    method = world.find("payment_method", id)
    if method["customer"] != customer:
        raise missing("PaymentMethod", id)
    return method
