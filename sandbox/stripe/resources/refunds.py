"""Refunds: how money goes back to a card, and what its bank may still do with it."""

from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.clock import due_job
from sandbox.stripe.resources import balance, charges
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import merged_metadata
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World, index

index("refund", "charge", "payment_intent", "status")

LATER: Final = 3600
"""Virtual seconds until the bank of a test card that waits or fails later has decided."""
LIVE: Final = ("pending", "requires_action", "succeeded")


def refund_payment(
    world: World, *, payment_intent: str | None = None, charge: str | None = None, amount: int | None = None,
    metadata: dict[str, str] | None = None, reason: str | None = None,
) -> Row:  # fmt: skip
    """Send `amount` (None: all that is left) of a payment back. Every refusal of Stripe's is here."""
    row = _charge_of(world, payment_intent, charge)
    left = charges.refundable(row)
    if _open_dispute(world, row):
        raise StripeError(f"Charge {row['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    if left <= 0:
        lost = row["_disputed_amount"] > 0 and row["amount_refunded"] < row["amount_captured"]
        word, code = ("charged back", "charge_disputed") if lost else ("refunded", "charge_already_refunded")
        raise StripeError(f"Charge {row['id']} has already been {word}.", code=code)
    if amount is None:
        amount = left
    if amount < 1:
        raise StripeError("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    if amount > left:
        asked, rest = _money(amount, row["currency"]), _money(left, row["currency"])
        raise StripeError(
            f"Refund amount ({asked}) is greater than unrefunded amount on charge ({rest})",
            param="amount",
        )
    return _send(world, row, amount, metadata or {}, reason)


def _charge_of(world: World, payment_intent: str | None, charge: str | None) -> Row:
    if charge is None and payment_intent is None:
        raise StripeError("One of the following params should be provided for this request: payment_intent or charge.")
    if charge is not None:
        row = world.find("charge", charge, "charge")
        if payment_intent is not None and row["payment_intent"] != payment_intent:
            raise StripeError(f"Charge {charge} does not belong to {payment_intent}.", param="payment_intent")
    else:
        assert payment_intent is not None
        intent = world.find("payment_intent", payment_intent, "payment_intent")
        if intent["latest_charge"] is None or intent["status"] != "succeeded":
            raise StripeError(
                f"This PaymentIntent ({payment_intent}) does not have a successful charge to refund.",
                code="payment_intent_unexpected_state", param="payment_intent",
            )  # fmt: skip
        row = world.find("charge", intent["latest_charge"])
    if row["status"] != "succeeded" or not row["captured"]:
        raise StripeError(f"Charge {row['id']} is not refundable.", code="charge_not_refundable")
    return row


def _open_dispute(world: World, charge: Row) -> bool:
    return any(
        row["status"] in ("needs_response", "under_review") for row in world.each("dispute", charge=charge["id"])
    )


def _send(world: World, charge: Row, amount: int, metadata: dict[str, str], reason: str | None) -> Row:
    fate = charge["_refund"]
    status = {"waits": "pending", "refused": "failed"}.get(fate, "succeeded")
    refund: Row = {
        "id": world.new_id("re"), "object": "refund", "amount": amount, "balance_transaction": None,
        "charge": charge["id"],
        "created": world.now, "currency": charge["currency"], "customer": charge["customer"], "customer_account": None,
        "destination_details": {
            "card": {"reference": None, "reference_status": "pending", "reference_type": "acquirer_reference_number",
                     "type": "refund"},
            "type": "card",
        },
        "metadata": metadata, "payment_intent": charge["payment_intent"], "payment_method": charge["payment_method"],
        "reason": reason, "receipt_number": None, "source_transfer_reversal": None, "status": status,
        "transfer_reversal": None, "_key": world.idempotency_key,
    }  # fmt: skip
    if status == "pending":
        refund["pending_reason"] = "processing"
    if status == "failed":
        refund["failure_reason"] = "expired_or_canceled_card"
    world.add(refund)
    if status == "failed":
        world.emit("refund.created", refund)
        world.emit("refund.failed", refund)
        return refund
    entry = balance.book(
        world,
        type="refund",
        amount=-amount,
        currency=refund["currency"],
        source=refund["id"],
        description="REFUND FOR CHARGE",
    )
    world.change(refund, balance_transaction=entry["id"])
    world.emit("refund.created", refund)
    _count(world, charge)
    if fate == "waits":
        world.at(world.now + LATER, "settle_refund", refund=refund["id"])
    elif fate == "fails_later":
        world.at(world.now + LATER, "fail_refund", refund=refund["id"])
    return refund


def _count(world: World, charge: Row) -> None:
    """Bring the charge's cumulative sum up to date and tell of it when it rose."""
    refunded = sum(row["amount"] for row in world.each("refund", charge=charge["id"]) if row["status"] in LIVE)
    rose = refunded > charge["amount_refunded"]
    previous = world.change(charge, amount_refunded=refunded, refunded=refunded == charge["amount_captured"])
    if previous:
        world.emit("charge.refunded" if rose else "charge.updated", charge, previous)


def fail(world: World, refund: Row, reason: str) -> Row:
    """The bank sends the money back: the balance has it again, and the charge may be refunded anew."""
    if refund["status"] not in LIVE:
        raise StripeError(f"Refund {refund['id']} is {refund['status']} already.")
    entry = balance.book(
        world, type="refund_failure", amount=refund["amount"], currency=refund["currency"], source=refund["id"],
        description="REFUND FAILURE",
    )  # fmt: skip
    previous = world.change(
        refund, status="failed", failure_reason=reason, failure_balance_transaction=entry["id"], pending_reason=None
    )
    _tell_of_update(world, refund, previous)
    world.emit("refund.failed", refund)
    _count(world, world.find("charge", refund["charge"]))
    return refund


def _tell_of_update(world: World, refund: Row, previous: Row) -> None:
    """Twice: under today's name and under the one that Stripe has deprecated and still sends."""
    if previous:
        world.emit("refund.updated", refund, previous)
        world.emit("charge.refund.updated", refund, previous)


@due_job("fail_refund")
def _fail_later(world: World, refund: str) -> None:
    row = world.get("refund", refund)
    if row is not None and row["status"] in LIVE:
        fail(world, row, "expired_or_canceled_card")


@due_job("settle_refund")
def _settle(world: World, refund: str) -> None:
    row = world.get("refund", refund)
    if row is not None and row["status"] == "pending":
        _tell_of_update(world, row, world.change(row, status="succeeded", pending_reason=None))


def _money(amount: int, currency: str) -> str:
    """As Stripe writes it in that one message: $25.00."""
    if currency == "jpy":
        return f"¥{amount:,}"
    sign = {"usd": "$", "eur": "€", "gbp": "£"}.get(currency, currency.upper() + " ")
    return f"{sign}{amount // 100:,}.{amount % 100:02}"


@route(
    "POST",
    "/v1/refunds",
    takes="RefundCreateParams",
    models={"amount", "charge", "metadata", "payment_intent", "reason"},
)
def create(world: World, params: dict[str, Any]) -> Row:
    return refund_payment(
        world, payment_intent=params.get("payment_intent"), charge=params.get("charge"), amount=params.get("amount"),
        metadata=merged_metadata(None, params.get("metadata")), reason=params.get("reason"),
    )  # fmt: skip


@route("GET", "/v1/refunds/{id}", takes="RefundRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("refund", id)


@route("POST", "/v1/refunds/{id}", takes="RefundModifyParams", models={"metadata"})
def update(world: World, params: dict[str, Any], id: str) -> Row:
    refund = world.find("refund", id)
    if "metadata" in params:
        metadata = merged_metadata(refund["metadata"], params["metadata"])
        _tell_of_update(world, refund, world.change(refund, metadata=metadata))
    return refund


@route("POST", "/v1/refunds/{id}/cancel", takes="RefundCancelParams")
def cancel(world: World, params: dict[str, Any], id: str) -> Row:
    world.find("refund", id)
    raise StripeError("Canceling this refund is unsupported.")


@route("GET", "/v1/refunds", takes="RefundListParams", models={"charge", "payment_intent"})
def listed(world: World, params: dict[str, Any]) -> Row:
    equal = {name: params.get(name) for name in ("charge", "payment_intent")}
    return lists.page(world, "refund", params, "/v1/refunds", **equal)


@route("GET", "/v1/charges/{charge}/refunds", takes="ChargeListRefundsParams")
def listed_of(world: World, params: dict[str, Any], charge: str) -> Row:
    world.find("charge", charge)
    return lists.page(world, "refund", params, f"/v1/charges/{charge}/refunds", charge=charge)


@route("GET", "/v1/charges/{charge}/refunds/{id}", takes="ChargeRetrieveRefundParams")
def retrieve_of(world: World, params: dict[str, Any], charge: str, id: str) -> Row:
    refund = world.find("refund", id)
    if refund["charge"] != charge:
        raise StripeError(f"No such refund: '{id}'", status=404, code="resource_missing", param="id")
    return refund
