"""What becomes of an invoice: finalized, charged, retried, paid, voided, given up.

The customer's balance is spent at finalization, and only then. A failed charge is tried again after 3, 5 and 7 days;
after that the invoice stays open and its subscription past due (Stripe's setting "leave the subscription past-due").
"""

from typing import Any, Final

from sandbox.stripe.clock import due_job
from sandbox.stripe.invoicing import DAY, HOUR, balance_of
from sandbox.stripe.resources.customers import adjust_balance
from sandbox.stripe.resources.payment_intents import SMALLEST, cancel, charge_customer, on_success, pay
from sandbox.stripe.resources.payment_methods import resolve
from sandbox.stripe.standing import failed, settled
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World, index

RETRIES: Final = (3 * DAY, 5 * DAY, 7 * DAY)

index("invoice_payment", "invoice", "status", payment_intent=lambda row: row["payment"].get("payment_intent"))


def finalize(world: World, invoice: Row, *, spends_balance: bool = True) -> None:
    """Number a draft and open it; what the balance covers, or is too small to be charged, is paid at once."""
    if invoice["status"] != "draft":
        raise StripeError("This invoice is already finalized, you can't re-finalize a non-draft invoice.",
                          code="invoice_not_editable")  # fmt: skip
    if spends_balance:
        start = balance_of(world, invoice["customer"], invoice["currency"])
        due, end = _after_balance(invoice["total"] + start, invoice["currency"])
    else:
        start, due, end = 0, max(0, invoice["total"]), 0
    method = invoice["collection_method"]
    days = invoice["_days_until_due"] if invoice["_days_until_due"] is not None else 30
    world.change(
        invoice,
        amount_due=due,
        amount_remaining=due,
        automatically_finalizes_at=None,
        due_date=invoice["due_date"] or (world.now + days * DAY if method == "send_invoice" else None),
        effective_at=invoice["effective_at"] or world.now,
        ending_balance=end,
        number=invoice["number"] or _number(world, invoice["customer"]),
        starting_balance=start,
        status="open",
        status_transitions={**invoice["status_transitions"], "finalized_at": world.now},
        **_papers(invoice),
    )
    if end != start:
        kind = "invoice_too_small" if end > 0 and end > start else "applied_to_invoice"
        _move(world, invoice, end - start, kind)
    world.emit("invoice.finalized", invoice)
    if due == 0 and spends_balance:
        _close(world, invoice)
    elif invoice["due_date"] is not None:
        world.at(invoice["due_date"], "invoice_overdue", invoice=invoice["id"])


def _after_balance(owed: int, currency: str) -> tuple[int, int]:
    """`(due now, balance afterwards)`. What is too small to be charged stays on the balance as a debt."""
    if owed <= 0:
        return 0, owed
    return (0, owed) if owed < SMALLEST.get(currency, 0) else (owed, 0)


def _papers(invoice: Row) -> Row:
    return {
        "hosted_invoice_url": f"https://invoice.stripe.com/i/{invoice['id']}",
        "invoice_pdf": f"https://pay.stripe.com/invoice/{invoice['id']}/pdf",
    }


def _number(world: World, customer: str) -> str:
    who = world.find("customer", customer, "customer")
    sequence = who["next_invoice_sequence"] or 1
    world.change(who, next_invoice_sequence=sequence + 1)
    return f"{who['invoice_prefix']}-{sequence:04d}"


def _move(world: World, invoice: Row, amount: int, type: str) -> Row:
    """Put `amount` on the customer's balance; positive takes credit away."""
    return adjust_balance(
        world,
        customer=invoice["customer"],
        amount=amount,
        currency=invoice["currency"],
        type=type,
        invoice=invoice["id"],
    )


def advance(world: World, invoice: Row) -> None:
    """Finalize a draft and collect it, as Stripe does by itself."""
    finalize(world, invoice)
    if invoice["status"] != "open":
        return
    if invoice["collection_method"] == "send_invoice":
        world.emit("invoice.sent", invoice)
    else:
        collect(world, invoice)


def collect(world: World, invoice: Row, payment_method: str | None = None) -> Row | None:
    """Charge what remains of an open invoice. Returns the error of a payment that failed."""
    remaining = invoice["amount_remaining"]
    if remaining < SMALLEST.get(invoice["currency"], 0):
        _move(world, invoice, remaining, "invoice_too_small")
        world.change(invoice, amount_due=invoice["amount_due"] - remaining, amount_remaining=0,
                     ending_balance=(invoice["ending_balance"] or 0) + remaining)  # fmt: skip
        _close(world, invoice)
        return None
    method = payment_method or method_of(world, invoice)
    previous = world.change(
        invoice, attempt_count=invoice["attempt_count"] + 1, attempted=True, next_payment_attempt=None
    )
    if method is None:
        return _missed(world, invoice, {"type": "invalid_request_error", "message": NO_METHOD}, previous)
    intent = _charged(world, invoice, method)
    if intent["status"] == "succeeded":
        if not world.rows("invoice_payment", payment_intent=intent["id"], status="paid"):
            record_payment(world, invoice, intent["id"], remaining)
        return None
    if _open_payment(world, invoice) is None:
        _payment(world, invoice, intent["id"], remaining, paid=False)
    return _missed(world, invoice, intent["last_payment_error"], previous)


def _charged(world: World, invoice: Row, method: str) -> Row:
    """The payment intent of this attempt: the one of the last attempt, if that failed."""
    remaining = invoice["amount_remaining"]
    open_payment = _open_payment(world, invoice)
    if open_payment is None:
        return charge_customer(
            world, customer=invoice["customer"], payment_method=method, amount=remaining, currency=invoice["currency"],
            invoice=invoice["id"],
        )  # fmt: skip
    world.change(open_payment, amount_requested=remaining)
    intent = world.find("payment_intent", open_payment["payment"]["payment_intent"])
    card = resolve(world, method)
    world.change(intent, amount=remaining, payment_method=card["id"], status="requires_confirmation")
    try:
        pay(world, intent, off_session=True)
    except StripeError as error:
        if error.type != "card_error":
            raise
    return intent


def _open_payment(world: World, invoice: Row) -> Row | None:
    return next((row for row in world.rows("invoice_payment", invoice=invoice["id"]) if row["status"] == "open"), None)


NO_METHOD: Final = (
    "There is no `default_payment_method` set on this Customer or Invoice. "
    "Please provide a payment_method or set a default."
)


def method_of(world: World, invoice: Row) -> str | None:
    """The card that would be charged: the invoice's, the subscription's, the customer's."""
    chosen: str | None = invoice["default_payment_method"]
    if chosen is None and invoice["_subscription"] is not None:
        chosen = world.find("subscription", invoice["_subscription"])["default_payment_method"]
    return chosen or default_method(world, invoice["customer"])


def default_method(world: World, customer: str) -> str | None:
    settings = world.find("customer", customer, "customer").get("invoice_settings") or {}
    chosen: str | None = settings.get("default_payment_method")
    return chosen


def _missed(world: World, invoice: Row, error: Row, previous: Row) -> Row:
    """The first invoice of a subscription is not tried again: without its payment there is no subscription."""
    first = invoice["billing_reason"] == "subscription_create"
    if invoice["auto_advance"] and not first and invoice["attempt_count"] <= len(RETRIES):
        attempt_at(world, invoice, world.now + RETRIES[invoice["attempt_count"] - 1])
    world.emit("invoice.payment_failed", invoice)
    if error.get("code") == "authentication_required":
        world.emit("invoice.payment_action_required", invoice)
    world.emit("invoice.updated", invoice, previous)
    failed(world, invoice)
    return error


def attempt_at(world: World, invoice: Row, when: int) -> None:
    """Let Stripe charge this open invoice by itself at a time."""
    world.change(invoice, next_payment_attempt=when)
    world.at(when, "charge_invoice", invoice=invoice["id"])


def record_payment(world: World, invoice: Row, intent: str, amount: int) -> Row:
    """A payment intent that has succeeded pays (a part of) an open invoice. What is too much goes to the balance."""
    payment = _open_payment(world, invoice)
    if payment is not None and payment["payment"]["payment_intent"] == intent:
        moments = {**payment["status_transitions"], "paid_at": world.now}
        world.change(payment, amount_paid=amount, status="paid", status_transitions=moments)
    else:
        payment = _payment(world, invoice, intent, amount, paid=True)
    over = max(0, amount - invoice["amount_remaining"])
    previous = world.change(
        invoice,
        amount_overpaid=invoice["amount_overpaid"] + over,
        amount_paid=invoice["amount_paid"] + amount - over,
        amount_remaining=invoice["amount_remaining"] - (amount - over),
    )
    world.emit("invoice_payment.paid", payment)
    if over:
        _move(world, invoice, -over, "adjustment")
        world.emit("invoice.overpaid", invoice)
    if invoice["amount_remaining"] == 0:
        _close(world, invoice)
    else:
        world.emit("invoice.updated", invoice, previous)
    return payment


def _paid_by_its_customer(world: World, intent: Row) -> None:
    """The intent of a failed attempt was confirmed with another card."""
    for payment in world.rows("invoice_payment", payment_intent=intent["id"], status="open"):
        record_payment(world, world.find("invoice", payment["invoice"]), intent["id"], intent["amount_received"])


on_success.append(_paid_by_its_customer)


def _payment(world: World, invoice: Row, intent: str, amount: int, *, paid: bool) -> Row:
    return world.add(
        {
            "id": world.new_id("inpay"),
            "object": "invoice_payment",
            "amount_paid": amount if paid else None,
            "amount_requested": amount,
            "created": world.now,
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": not world.rows("invoice_payment", invoice=invoice["id"]),
            "livemode": world.livemode,
            "payment": {"payment_intent": intent, "type": "payment_intent"},
            "status": "paid" if paid else "open",
            "status_transitions": {"canceled_at": None, "paid_at": world.now if paid else None},
        }
    )


def _drop_open_payments(world: World, invoice: Row) -> None:
    for payment in world.rows("invoice_payment", invoice=invoice["id"]):
        if payment["status"] == "open":
            cancel(world, {}, payment["payment"]["payment_intent"])
            moments = {**payment["status_transitions"], "canceled_at": world.now}
            world.change(payment, status="canceled", status_transitions=moments)


def _close(world: World, invoice: Row) -> None:
    """Nothing is due any more."""
    _drop_open_payments(world, invoice)
    world.change(
        invoice,
        attempted=True,
        auto_advance=False,
        next_payment_attempt=None,
        status="paid",
        status_details=None,
        status_transitions={**invoice["status_transitions"], "paid_at": world.now},
    )
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)
    settled(world, invoice)


def pay_outside(world: World, invoice: Row) -> None:
    """Somebody says that the rest was paid outside of Stripe."""
    rest = invoice["amount_remaining"]
    world.change(
        invoice,
        amount_paid=invoice["amount_paid"] + rest,
        amount_paid_off_stripe=invoice["amount_paid_off_stripe"] + rest,
        amount_remaining=0,
    )
    _close(world, invoice)


def reduce(world: World, invoice: Row, amount: int) -> None:
    """A credit note lowers what is due; at 0 the invoice counts as paid."""
    previous = world.change(
        invoice,
        amount_due=invoice["amount_due"] - amount,
        amount_remaining=invoice["amount_remaining"] - amount,
        pre_payment_credit_notes_amount=invoice["pre_payment_credit_notes_amount"] + amount,
    )
    if amount > 0 and invoice["amount_remaining"] == 0:
        _close(world, invoice)
    world.emit("invoice.updated", invoice, previous)


def void(world: World, invoice: Row) -> None:
    """Nobody owes it any more. What it took from the balance goes back."""
    if invoice["status"] not in ("open", "uncollectible"):
        raise StripeError("You can only pass in open invoices. This invoice isn't open.", code="invoice_not_editable")
    if invoice["amount_paid"]:
        raise StripeError("This invoice was paid in part and cannot be voided. Issue a credit note instead.")
    taken = (invoice["ending_balance"] or 0) - invoice["starting_balance"]
    if taken:
        _move(world, invoice, -taken, "unapplied_from_invoice")
    _drop_open_payments(world, invoice)
    _end(world, invoice, "void", "voided_at")
    world.emit("invoice.voided", invoice)
    settled(world, invoice)


def give_up(world: World, invoice: Row, reason: str) -> None:
    """Mark an open invoice as uncollectible. It can still be paid or voided."""
    if invoice["status"] != "open":
        raise StripeError("You can only pass in open invoices. This invoice isn't open.", code="invoice_not_editable")
    world.change(invoice, status_details={"uncollectible": {"reason": reason}})
    _end(world, invoice, "uncollectible", "marked_uncollectible_at")
    world.emit("invoice.marked_uncollectible", invoice)
    settled(world, invoice)


def _end(world: World, invoice: Row, status: str, moment: str) -> None:
    world.change(
        invoice,
        auto_advance=False,
        next_payment_attempt=None,
        status=status,
        status_transitions={**invoice["status_transitions"], moment: world.now},
    )


def payment_error(error: Row) -> StripeError:
    """What `pay` answers when the card declines. The attempt stays in the books."""
    told: dict[str, Any] = {key: error[key] for key in ("decline_code", "charge") if error.get(key)}
    card = error.get("type", "card_error") == "card_error"
    return StripeError(
        error.get("message") or "Your card was declined.", status=402 if card else 400,
        type="card_error" if card else "invalid_request_error", code=error.get("code"), commits=True, **told,
    )  # fmt: skip


@due_job("finalize_invoice")
def _finalize_due(world: World, invoice: str) -> None:
    row = world.get("invoice", invoice)
    if row is None or row["status"] != "draft" or not row["auto_advance"]:
        return
    if row["automatically_finalizes_at"] is not None and row["automatically_finalizes_at"] <= world.now:
        advance(world, row)


@due_job("charge_invoice")
def _charge_due(world: World, invoice: str) -> None:
    row = world.get("invoice", invoice)
    if row is None or row["status"] != "open" or not row["auto_advance"]:
        return
    if row["next_payment_attempt"] is not None and row["next_payment_attempt"] <= world.now:
        collect(world, row)


@due_job("invoice_overdue")
def _overdue(world: World, invoice: str) -> None:
    row = world.get("invoice", invoice)
    if row is not None and row["status"] == "open":
        world.emit("invoice.overdue", row)
        failed(world, row)


def finalize_in_an_hour(world: World, invoice: Row) -> None:
    """Let Stripe finalize this draft by itself."""
    when = world.now + HOUR
    world.change(invoice, auto_advance=True, automatically_finalizes_at=when)
    world.at(when, "finalize_invoice", invoice=invoice["id"])
