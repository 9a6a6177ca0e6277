"""Charges: one attempt to take money from a card. They are made by payment intents only."""

from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.present import embedded, includes
from sandbox.stripe.resources import balance
from sandbox.stripe.resources.payment_methods import card_of, message_for
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import cleared, edit, merged_metadata
from sandbox.stripe.world import Row, World, index

index("charge", "customer", "payment_intent", "status")

_SHOWN_OF_BANK: Final = (
    "account_holder_type", "account_type", "bank_name", "fingerprint", "last4", "routing_number"
)  # fmt: skip
_SAID: Final = {
    "generic_decline": "The bank did not return any further details with this decline.",
    "insufficient_funds": "The bank returned the decline code `insufficient_funds`.",
    "authentication_required": "The bank returned the decline code `authentication_required`.",
}


def make(world: World, intent: Row, method: Row, capture: bool, decline: str | None) -> Row:
    """Charge the intent's amount: a succeeded charge (money booked when captured), or a failed one with its decline."""
    card = card_of(method)
    failed = decline is not None
    charge: Row = {
        "id": world.new_id("ch"), "object": "charge", "amount": intent["amount"], "amount_captured": 0,
        "amount_refunded": 0,
        "application": None, "application_fee": None, "application_fee_amount": None, "balance_transaction": None,
        "billing_details": method["billing_details"], "calculated_statement_descriptor": None, "captured": False,
        "created": world.now, "currency": intent["currency"], "customer": intent["customer"],
        "description": intent["description"], "disputed": False, "failure_balance_transaction": None,
        "failure_code": _code(decline),
        "failure_message": None if decline is None else message_for(decline),
        "fraud_details": {}, "livemode": world.livemode, "metadata": intent["metadata"], "on_behalf_of": None,
        "outcome": _outcome(decline), "paid": not failed, "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": _details(method, intent["amount"]), "radar_options": {},
        "receipt_email": intent["receipt_email"],
        "receipt_number": None, "receipt_url": None, "refunded": False, "review": None, "shipping": intent["shipping"],
        "source_transfer": None, "statement_descriptor": intent["statement_descriptor"],
        "statement_descriptor_suffix": intent["statement_descriptor_suffix"],
        "status": "failed" if failed else "succeeded", "transfer_data": None, "transfer_group": None,
        "_disputed_amount": 0, "_refund": card.refund,
        "_at_once": card.settles_at_once,
    }  # fmt: skip
    world.add(charge)
    if not failed and capture:
        take(world, charge, charge["amount"])
    return charge


def take(world: World, charge: Row, amount: int) -> None:
    """Capture: the money is booked, less Stripe's fee."""
    entry = balance.book(
        world, type="charge", amount=amount, currency=charge["currency"], source=charge["id"],
        fee=balance.fee_for(amount),
        delay=0 if charge["_at_once"] else balance.SETTLES, description=charge["description"],
    )  # fmt: skip
    world.change(charge, captured=True, amount_captured=amount, balance_transaction=entry["id"])


def refundable(charge: Row) -> int:
    """What could still go back: captured, less refunds that have not failed, less what lost disputes took."""
    left: int = charge["amount_captured"] - charge["amount_refunded"] - charge["_disputed_amount"]
    return left


def _code(decline: str | None) -> str | None:
    return decline if decline in (None, "authentication_required") else "card_declined"


def _outcome(decline: str | None) -> Row:
    allowed = decline is None
    return {
        "advice_code": None if allowed else "try_again_later", "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "approved_by_network" if allowed else "declined_by_network", "reason": decline,
        "risk_level": "normal", "seller_message": "Payment complete." if allowed else _SAID[str(decline)],
        "type": "authorized" if allowed else "issuer_declined",
    }  # fmt: skip


def _details(method: Row, amount: int) -> Row:
    if method["type"] == "us_bank_account":
        shown = {key: method["us_bank_account"][key] for key in _SHOWN_OF_BANK}
        return {"type": "us_bank_account", "us_bank_account": {**shown, "mandate": None, "payment_reference": None}}
    card = method["card"]
    unavailable = {"status": "unavailable"}
    return {
        "card": {
            "amount_authorized": amount, "authorization_code": None, "brand": card["brand"],
            "checks": {**card["checks"], "cvc_check": "pass"},
            "country": card["country"], "exp_month": card["exp_month"], "exp_year": card["exp_year"],
            "extended_authorization": {"status": "disabled"}, "fingerprint": card["fingerprint"],
            "funding": card["funding"],
            "incremental_authorization": unavailable, "installments": None, "last4": card["last4"], "mandate": None,
            "multicapture": unavailable, "network": card["brand"], "network_token": {"used": False},
            "network_transaction_id": None, "overcapture": {"maximum_amount_capturable": amount,
            "status": "unavailable"},
            "regulated_status": card["regulated_status"], "three_d_secure": None, "transaction_link_id": None,
            "wallet": None,
        },
        "type": "card",
    }  # fmt: skip


@includes("charge", "refunds")
def _refunds(world: World, charge: Row) -> Row:
    rows = world.rows("refund", charge=charge["id"])[::-1]
    return embedded(world, rows[: lists.USUAL], f"/v1/charges/{charge['id']}/refunds", len(rows) > lists.USUAL)


@route("GET", "/v1/charges/{id}", takes="ChargeRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("charge", id)


@route(
    "POST",
    "/v1/charges/{id}",
    takes="ChargeModifyParams",
    models={"description", "metadata", "receipt_email", "customer"},
)
def update(world: World, params: dict[str, Any], id: str) -> Row:
    charge = world.find("charge", id)
    fields = cleared(params, "description", "receipt_email", "customer")
    if "metadata" in params:
        fields["metadata"] = merged_metadata(charge["metadata"], params["metadata"])
    return edit(world, charge, "charge.updated", **fields)


@route("GET", "/v1/charges", takes="ChargeListParams", models={"customer", "payment_intent"})
def listed(world: World, params: dict[str, Any]) -> Row:
    equal = {name: params.get(name) for name in ("customer", "payment_intent")}
    return lists.page(world, "charge", params, "/v1/charges", **equal)
