"""Disputes: the card's holder asks the bank for the money, the bank takes it, and keeps it or gives it back."""

from typing import Any, Final

from sandbox.stripe import lists
from sandbox.stripe.present import present, presents
from sandbox.stripe.resources import balance, refunds
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import edit, merged_metadata
from sandbox.stripe.wire import NotModelled, StripeError
from sandbox.stripe.world import Row, World, index

index("dispute", "charge", "payment_intent")

DAY: Final = 24 * 3600
REASON_CODES: Final = {"fraudulent": "10.4", "product_not_received": "13.1"}
_EVIDENCE: Final = (
    "access_activity_log", "billing_address", "cancellation_policy", "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication", "customer_email_address", "customer_name", "customer_purchase_ip", "customer_signature",
    "duplicate_charge_documentation", "duplicate_charge_explanation", "duplicate_charge_id", "product_description",
    "receipt",
    "refund_policy", "refund_policy_disclosure", "refund_refusal_explanation", "service_date", "service_documentation",
    "shipping_address", "shipping_carrier", "shipping_date", "shipping_documentation", "shipping_tracking_number",
    "uncategorized_file", "uncategorized_text",
)  # fmt: skip
_VERDICTS: Final = {"winning_evidence": "won", "losing_evidence": "lost"}
OPEN: Final = ("needs_response", "under_review", "warning_needs_response", "warning_under_review")


def open_dispute(world: World, named: str, amount: int | None, reason: str, inquiry: bool = False) -> Row:
    """Dispute a charge, or a payment intent's, whole or `amount` of it: money and a fee leave at once.

    After an inquiry, in which the bank only asks, the money is still here and can be refunded."""
    charge = world.get("charge", named)
    if charge is None:
        intent = world.find("payment_intent", named, "payment_intent")
        charge = world.find("charge", intent["latest_charge"] or "", "payment_intent")
    if charge["payment_method_details"]["type"] != "card":
        raise NotModelled("The sandbox disputes payments by card only.")
    if not inquiry:
        refunds.disputed(world, charge)
    left = charge["amount_captured"] - charge["amount_refunded"] - charge["_disputed_amount"]
    amount = left if amount is None else amount
    if charge["disputed"] or not 0 < amount <= left:
        raise StripeError(f"{amount} of charge {charge['id']} cannot be disputed.", param="amount")
    code = "10" if inquiry else REASON_CODES.get(reason, "10.4")
    dispute: Row = {
        "id": world.new_id("du"), "object": "dispute", "amount": amount, "balance_transactions": [],
        "charge": charge["id"],
        "created": world.now, "currency": charge["currency"], "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(_EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {"due_by": _due_by(world.now), "enhanced_eligibility": {}, "has_evidence": False,
                             "past_due": False, "submission_count": 0, "submission_method": "not_submitted"},
        "is_charge_refundable": inquiry, "livemode": world.livemode, "metadata": {}, "network_reason_code": code,
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {"brand": charge["payment_method_details"]["card"]["brand"],
            "case_type": "inquiry" if inquiry else "chargeback",
            "network": charge["payment_method_details"]["card"]["brand"],
                     "network_reason_code": code},
            "type": "card",
        },
        "reason": reason, "status": "warning_needs_response" if inquiry else "needs_response", "_transactions": [],
    }  # fmt: skip
    world.add(dispute)
    if inquiry:
        world.emit("charge.dispute.created", dispute)
        return dispute
    world.change(charge, disputed=True, _disputed_amount=charge["_disputed_amount"] + amount)
    world.emit("charge.dispute.created", dispute)
    _move(world, dispute, -amount, balance.DISPUTE_FEE, "dispute")
    world.emit("charge.dispute.funds_withdrawn", dispute)
    return dispute


def _due_by(now: int) -> int:
    """The end of the eighth day from today, in UTC."""
    return (now // DAY + 9) * DAY - 1


def _move(world: World, dispute: Row, amount: int, fee: int, category: str) -> None:
    entry = balance.book(
        world, type="adjustment", amount=amount, currency=dispute["currency"], source=dispute["id"], fee=fee,
        category=category, fee_for_what="Dispute fee",
        description=f"Chargeback {'withdrawal' if amount < 0 else 'reversal'} for {dispute['charge']}",
    )  # fmt: skip
    world.change(dispute, _transactions=[*dispute["_transactions"], entry["id"]])


@presents("dispute")
def _shown(world: World, row: Row) -> Row:
    entries = [world.find("balance_transaction", id) for id in row["_transactions"]]
    return {"balance_transactions": [present(world, entry) for entry in entries]}


def close_dispute(world: World, id: str, outcome: str) -> Row:
    """`won`: the money comes back, the fee does not. `lost`: it stays away."""
    dispute = world.find("dispute", id)
    if dispute["status"] not in OPEN:
        raise StripeError("This dispute is already closed")
    if dispute["status"].startswith("warning"):
        world.emit("charge.dispute.closed", dispute, world.change(dispute, status="warning_closed"))
        return dispute
    previous = world.change(dispute, status=outcome)
    if outcome == "won":
        charge = world.find("charge", dispute["charge"])
        world.change(charge, _disputed_amount=charge["_disputed_amount"] - dispute["amount"])
        world.change(dispute, is_charge_refundable=True)
        _move(world, dispute, dispute["amount"], 0, "dispute_reversal")
        world.emit("charge.dispute.funds_reinstated", dispute)
    world.emit("charge.dispute.closed", dispute, previous)
    return dispute


@route("GET", "/v1/disputes/{id}", takes="DisputeRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("dispute", id)


@route("POST", "/v1/disputes/{id}", takes="DisputeModifyParams",
       models={"metadata", "submit", *(f"evidence.{name}" for name in _EVIDENCE)})  # fmt: skip
def update(world: World, params: dict[str, Any], id: str) -> Row:
    """Evidence `winning_evidence` or `losing_evidence` decides the dispute when submitted, as in Stripe's test mode."""
    dispute = world.find("dispute", id)
    fields: Row = {}
    if "metadata" in params:
        fields["metadata"] = merged_metadata(dispute["metadata"], params["metadata"])
    if params.get("evidence"):
        if dispute["status"] not in OPEN:
            raise StripeError("This dispute is already closed")
        fields["evidence"] = {**dispute["evidence"], **params["evidence"]}
        submitted = params.get("submit", True)
        details = dispute["evidence_details"]
        fields["evidence_details"] = {
            **details, "has_evidence": True, "submission_count": details["submission_count"] + submitted
        }  # fmt: skip
        if submitted:
            inquiry = dispute["status"].startswith("warning")
            fields["status"] = "warning_under_review" if inquiry else "under_review"
    edit(world, dispute, "charge.dispute.updated", **fields)
    verdict = _VERDICTS.get(dispute["evidence"]["uncategorized_text"] or "")
    if dispute["status"].endswith("under_review") and verdict:
        close_dispute(world, id, verdict)
    return dispute


@route("POST", "/v1/disputes/{id}/close", takes="DisputeCloseParams")
def close(world: World, params: dict[str, Any], id: str) -> Row:
    return close_dispute(world, id, "lost")


@route("GET", "/v1/disputes", takes="DisputeListParams", models={"charge", "payment_intent"})
def listed(world: World, params: dict[str, Any]) -> Row:
    equal = {name: params.get(name) for name in ("charge", "payment_intent")}
    return lists.page(world, "dispute", params, "/v1/disputes", **equal)
