"""How an open invoice gets its money: by the hour, by the card, by trying again.

A failed charge is tried again after 3, 5 and 7 days; after that the invoice stays open and its subscription past due
(Stripe's setting "leave the subscription past-due").
"""

from typing import Any, Final

from sandbox.stripe.clock import due_job
from sandbox.stripe.invoice_states import (
    finalize,
    give_up,
    note_payment,
    open_payment,
    record_payment,
    too_small,
    void,
)  # fmt: skip
from sandbox.stripe.invoicing import DAY, HOUR
from sandbox.stripe.resources.payment_intents import charge_customer, pay
from sandbox.stripe.resources.payment_methods import resolve
from sandbox.stripe.standing import failed
from sandbox.stripe.wire import StripeError
from sandbox.stripe.world import Row, World

RETRIES: Final = (3 * DAY, 5 * DAY, 7 * DAY)


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
    if too_small(world, invoice):
        return None
    remaining = invoice["amount_remaining"]
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
    if open_payment(world, invoice) is None:
        note_payment(world, invoice, intent["id"], remaining, paid=False)
    return _missed(world, invoice, intent["last_payment_error"], previous)


def _charged(world: World, invoice: Row, method: str) -> Row:
    """The payment intent of this attempt: the one of the last attempt, if that failed."""
    remaining = invoice["amount_remaining"]
    waiting = open_payment(world, invoice)
    if waiting is None:
        return charge_customer(
            world, customer=invoice["customer"], payment_method=method, amount=remaining, currency=invoice["currency"],
            invoice=invoice["id"],
        )  # fmt: skip
    world.change(waiting, amount_requested=remaining)
    intent = world.find("payment_intent", waiting["payment"]["payment_intent"])
    card = resolve(world, method)
    world.change(intent, amount=remaining, payment_method=card["id"], status="requires_confirmation")
    try:
        pay(world, intent, off_session=True)
    except StripeError as error:
        if error.type != "card_error":
            raise
    return intent


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
    if row["automatically_finalizes_at"] is None or row["automatically_finalizes_at"] > world.now:
        return
    pause = _pause_of(world, row) if world.universe.assume.older_drafts_obey_pause else None
    if pause is None:
        advance(world, row)
    elif pause == "keep_as_draft":
        previous = world.change(row, auto_advance=False, automatically_finalizes_at=None)
        world.emit("invoice.updated", row, previous)
    else:
        end_under_pause(world, row, pause)


def end_under_pause(world: World, invoice: Row, behavior: str) -> None:
    """What becomes of a draft of a subscription that is paused by `void` or `mark_uncollectible`."""
    finalize(world, invoice, spends_balance=behavior != "void")
    if behavior == "void":
        void(world, invoice)
    elif invoice["status"] == "open":
        give_up(world, invoice, "subscription_paused")


def _pause_of(world: World, invoice: Row) -> str | None:
    """How the invoice's subscription is paused."""
    subscription = None if invoice["_subscription"] is None else world.get("subscription", invoice["_subscription"])
    pause = None if subscription is None else subscription["pause_collection"]
    return None if pause is None else str(pause["behavior"])


@due_job("charge_invoice")
def _charge_due(world: World, invoice: str) -> None:
    row = world.get("invoice", invoice)
    if row is None or row["status"] != "open" or not row["auto_advance"]:
        return
    if row["next_payment_attempt"] is not None and row["next_payment_attempt"] <= world.now:
        collect(world, row)


def finalize_in_an_hour(world: World, invoice: Row, grace: int = 0) -> None:
    """Let Stripe finalize this draft by itself, so many seconds after the hour."""
    when = world.now + HOUR + grace
    by_card = invoice["collection_method"] == "charge_automatically"
    charged = world.now + HOUR if by_card else None
    world.change(invoice, auto_advance=True, automatically_finalizes_at=when, next_payment_attempt=charged)
    world.at(when, "finalize_invoice", invoice=invoice["id"])
