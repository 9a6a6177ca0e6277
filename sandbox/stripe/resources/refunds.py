"""Refunds: how money goes back to a card, and what its bank may still do with it."""

from typing import Any, Final

from sandbox.stripe import funds, lists
from sandbox.stripe.clock import due_job
from sandbox.stripe.pricing import signed
from sandbox.stripe.resources import balance, charges
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import merged_metadata
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World, index

index("refund", "charge", "payment_intent", "status", "_waits")

DAY: Final = 24 * 3600
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
        raise StripeError(f"Charge {row['id']} has been charged back; cannot issue a refund.",
                          code=world.universe.assume.disputed_code)  # fmt: skip
    if left <= 0:
        lost = row["_disputed_amount"] > 0 and row["amount_refunded"] < row["amount_captured"]
        word, code = ("charged back", "charge_disputed") if lost else ("refunded", "charge_already_refunded")
        raise StripeError(f"Charge {row['id']} has already been {word}.", code=code)
    if amount is None:
        amount = left
    if amount < 1:
        raise StripeError(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    if amount > left:
        asked, rest = signed(amount, row["currency"]), signed(left, row["currency"])
        raise StripeError(
            f"Refund amount ({asked}) is greater than unrefunded amount on charge ({rest})",
            param="amount",
        )
    return _send(world, row, amount, metadata or {}, reason)


def _charge_of(world: World, payment_intent: str | None, charge: str | None) -> Row:
    if charge is None and payment_intent is None:
        raise StripeError("One of the following params should be provided for this request: payment_intent or charge.")
    if charge is not None:
        row = world.find("charge", charge)  # 404, as if the path named it
        if payment_intent is not None and row["payment_intent"] != payment_intent:
            raise StripeError(f"Charge {charge} does not belong to {payment_intent}.", param="payment_intent")
    else:
        assert payment_intent is not None
        intent = world.find("payment_intent", payment_intent, "payment_intent")
        latest = intent["latest_charge"]
        if latest is None:
            raise _no_charge(payment_intent)
        row = world.find("charge", latest)
    if row["status"] != "succeeded":
        raise _no_charge(row["payment_intent"])
    if not row["captured"]:
        raise StripeError(
            f"This uncaptured Charge was created by a PaymentIntent ({row['payment_intent']}): cancel that instead."
        )
    return row


def _no_charge(intent: str) -> StripeError:
    return StripeError(f"This PaymentIntent ({intent}) does not have a successful charge to refund.")


def _open_dispute(world: World, charge: Row) -> bool:
    return any(
        row["status"] in ("needs_response", "under_review") for row in world.each("dispute", charge=charge["id"])
    )


def _send(world: World, charge: Row, amount: int, metadata: dict[str, str], reason: str | None) -> Row:
    fate = charge["_refund"]
    status = {"waits": "pending", "refused": "failed"}.get(fate, "succeeded")
    at_hand = funds.at_hand(world, charge["currency"])
    short = status != "failed" and at_hand is not None and at_hand < amount
    if short:
        # docs.stripe.com/refunds: a card's refund waits for the balance, that of any other method fails.
        status = "pending" if _by_card(charge) else "failed"
    refund: Row = {
        "id": world.new_id("re"), "object": "refund", "amount": amount, "balance_transaction": None,
        "charge": charge["id"],
        "created": world.now, "currency": charge["currency"], "customer": charge["customer"], "customer_account": None,
        "destination_details": _destination(charge),
        "metadata": metadata, "payment_intent": charge["payment_intent"], "payment_method": charge["payment_method"],
        "reason": reason, "receipt_number": None, "source_transfer_reversal": None, "status": status,
        "transfer_reversal": None, "_key": world.idempotency_key,
        "_waits": short and status == "pending",
    }  # fmt: skip
    if status == "pending":
        refund["pending_reason"] = "insufficient_funds" if short else "processing"
    if status == "failed":
        refund["failure_reason"] = "insufficient_funds" if short else "expired_or_canceled_card"
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
        description=f"REFUND FOR CHARGE ({charge['description']})" if charge["description"] else "REFUND FOR CHARGE",
    )
    world.change(refund, balance_transaction=entry["id"])
    world.emit("refund.created", refund)
    _count(world, charge)
    days = world.universe.assume.refunds_wait_days
    if not short:
        _meet_fate(world, refund, fate)
    elif days is not None:
        world.at(world.now + days * DAY, "give_up_refund", refund=refund["id"])
    return refund


def _by_card(charge: Row) -> bool:
    return bool(charge["payment_method_details"]["type"] == "card")


def _destination(charge: Row) -> Row:
    if not _by_card(charge):
        return {"type": "us_bank_transfer", "us_bank_transfer": {"reference": None, "reference_status": "pending"}}
    card = {"reference_status": "pending", "reference_type": "acquirer_reference_number",
            "type": "refund"}  # fmt: skip
    return {"card": card, "type": "card"}


def _meet_fate(world: World, refund: Row, fate: str) -> None:
    """What its card has in store for a refund that is on its way."""
    if fate == "waits":
        world.at(world.now + LATER, "settle_refund", refund=refund["id"])
    elif fate == "fails_later":
        world.at(world.now + LATER, "fail_refund", refund=refund["id"])


@due_job("send_waiting_refunds")
def _send_waiting(world: World, currency: str) -> None:
    """Send those that wait for money, oldest first, while the balance covers the whole of one."""
    waiting = [row for row in world.rows("refund", _waits=True) if row["currency"] == currency]
    left = funds.at_hand(world, currency)
    if left is not None:
        left += sum(row["amount"] for row in waiting)  # they are booked already
    for refund in waiting:
        if left is not None and left < refund["amount"]:
            return
        left = None if left is None else left - refund["amount"]
        fate = world.find("charge", refund["charge"])["_refund"]
        status, reason = ("pending", "processing") if fate == "waits" else ("succeeded", None)
        _tell_of_update(world, refund, world.change(refund, status=status, pending_reason=reason, _waits=False))
        _meet_fate(world, refund, fate)


@due_job("give_up_refund")
def _give_up(world: World, refund: str) -> None:
    row = world.get("refund", refund)
    if row is not None and row["_waits"]:
        fail(world, row, "insufficient_funds")


def disputed(world: World, charge: Row) -> None:
    """Refunds that still wait for money fail when the payment is disputed (Stripe's help on pending refunds)."""
    for refund in world.rows("refund", charge=charge["id"], _waits=True):
        fail(world, refund, "charge_for_pending_refund_disputed")


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
        refund,
        status="failed",
        failure_reason=reason,
        failure_balance_transaction=entry["id"],
        pending_reason=None,
        _waits=False,
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
    if row is not None and row["status"] == "pending" and not row["_waits"]:
        _tell_of_update(world, row, world.change(row, status="succeeded", pending_reason=None))


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
