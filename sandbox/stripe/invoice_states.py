"""The states of an invoice after its draft: open, paid in parts or whole, reduced, voided, given up.

The customer's balance is spent at finalization, and only then.
"""

from typing import Final

from sandbox.stripe import automatic_tax
from sandbox.stripe.clock import due_job
from sandbox.stripe.invoicing import DAY, balance_of, retotal
from sandbox.stripe.resources.customers import adjust_balance
from sandbox.stripe.resources.payment_intents import SMALLEST, cancel, on_success
from sandbox.stripe.standing import failed, settled
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World, index

index("invoice_payment", "invoice", "status", payment_intent=lambda row: row["payment"].get("payment_intent"))


NOT_OPEN: Final = "You can only pass in open invoices. This invoice isn't open."


def finalize(world: World, invoice: Row, *, spends_balance: bool = True, asked: bool = False) -> None:
    """Number a draft and open it; what the balance covers, or is too small to be charged, is paid at once.

    `asked`: a call wants it, and hears of it when automatic tax cannot be worked out; otherwise Stripe does without.
    """
    if invoice["status"] != "draft":
        raise StripeError("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    if invoice["automatic_tax"]["enabled"]:
        retotal(world, invoice)
        if automatic_tax.lacks_location(invoice):
            automatic_tax.do_without(world, invoice, asked=asked)
            retotal(world, invoice)
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
        next_payment_attempt=None,
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


def too_small(world: World, invoice: Row) -> bool:
    """Whether the rest is less than can be charged. If so it goes to the balance as a debt, and the invoice is paid."""
    rest = invoice["amount_remaining"]
    if rest >= SMALLEST.get(invoice["currency"], 0):
        return False
    _move(world, invoice, rest, "invoice_too_small")
    world.change(
        invoice,
        amount_due=invoice["amount_due"] - rest,
        amount_remaining=0,
        ending_balance=(invoice["ending_balance"] or 0) + rest,
    )
    _close(world, invoice)
    return True


def record_payment(world: World, invoice: Row, intent: str, amount: int) -> Row:
    """A payment intent that has succeeded pays (a part of) an open invoice. What is too much goes to the balance."""
    payment = open_payment(world, invoice)
    if payment is not None and payment["payment"]["payment_intent"] == intent:
        moments = {**payment["status_transitions"], "paid_at": world.now}
        world.change(payment, amount_paid=amount, status="paid", status_transitions=moments)
    else:
        payment = note_payment(world, invoice, intent, amount, paid=True)
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


def note_payment(world: World, invoice: Row, intent: str, amount: int, *, paid: bool) -> Row:
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


def open_payment(world: World, invoice: Row) -> Row | None:
    return next((row for row in world.rows("invoice_payment", invoice=invoice["id"]) if row["status"] == "open"), None)


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
        paid = invoice["status"] == "paid"
        raise StripeError("Invoices with `paid` payments cannot be voided." if paid else NOT_OPEN)
    if invoice["amount_paid"]:
        raise StripeError("Invoices with `paid` payments cannot be voided.")
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
        again = invoice["status"] == "uncollectible"
        raise StripeError("This invoice has already been marked uncollectible." if again else NOT_OPEN)
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


@due_job("invoice_overdue")
def _overdue(world: World, invoice: str) -> None:
    row = world.get("invoice", invoice)
    if row is not None and row["status"] == "open":
        world.emit("invoice.overdue", row)
        failed(world, row)
