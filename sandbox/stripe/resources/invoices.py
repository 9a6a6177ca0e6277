"""Invoices: made by hand, changed while they are drafts, finalized, paid, voided, given up, listed."""

from typing import Any, Final

from sandbox.stripe import automatic_tax, discounts, lists
from sandbox.stripe.collection import attempt_at, collect, finalize_in_an_hour, payment_error
from sandbox.stripe.invoice_states import finalize, give_up, pay_outside, record_payment, void
from sandbox.stripe.invoicing import DAY, HOUR, draft, pull_pending, retotal
from sandbox.stripe.present import present
from sandbox.stripe.resources.subscriptions import within
from sandbox.stripe.resources.tax_rates import usable
from sandbox.stripe.routes import route
from sandbox.stripe.shapes import cleared, deleted, merged_metadata
from sandbox.stripe.wire import NotModelled, StripeError
from sandbox.stripe.world import Row, World

_TEXT: Final = ("description", "footer", "statement_descriptor", "number")
_EDITABLE: Final = {
    *_TEXT, "auto_advance", "metadata", "default_payment_method", "default_tax_rates", "discounts", "due_date",
    "days_until_due", "collection_method", "effective_at", "automatic_tax.enabled",
}  # fmt: skip
_ALWAYS: Final = {"auto_advance", "metadata", "default_payment_method"}
"""What a finalized invoice still lets be changed."""


@route("POST", "/v1/invoices", "InvoiceCreateParams",
       _EDITABLE | {"customer", "currency", "subscription", "pending_invoice_items_behavior"})  # fmt: skip
def create(world: World, params: dict[str, Any]) -> Row:
    subscription = None
    if "subscription" in params:
        subscription = world.find("subscription", params["subscription"], "subscription")
    if "customer" not in params and subscription is None:
        raise StripeError("You must provide a customer.", code="parameter_missing", param="customer")
    customer = world.find("customer", params.get("customer") or (subscription or {})["customer"], "customer")
    currency = params.get("currency") or (subscription or {}).get("currency") or customer["currency"] or "usd"
    invoice = draft(
        world, customer["id"], currency.lower(), subscription=subscription, auto_advance=False, billing_reason="manual"
    )
    world.change(invoice, **_fields(world, invoice, params))
    _due_only_if_sent(invoice, params)
    if subscription is not None:
        pull_pending(world, invoice, of_subscriptions={subscription["id"]})
    elif params.get("pending_invoice_items_behavior") == "include":
        pull_pending(world, invoice, of_subscriptions={None})
    retotal(world, invoice)
    if params.get("auto_advance"):
        finalize_in_an_hour(world, invoice, grace=1)
    world.emit("invoice.created", invoice)
    return invoice


def _due_only_if_sent(invoice: Row, params: dict[str, Any]) -> None:
    due = "due_date" in params or "days_until_due" in params
    sent = invoice["collection_method"] == "send_invoice"
    if sent and not due:
        raise StripeError("An invoice that is sent ('send_invoice') needs 'due_date' or 'days_until_due'.")
    if due and not sent:
        raise StripeError("'due_date' and 'days_until_due' are only for invoices that are sent ('send_invoice').")


@route("GET", "/v1/invoices/{id}", "InvoiceRetrieveParams")
def retrieve(world: World, params: dict[str, Any], id: str) -> Row:
    return world.find("invoice", id, named="invoice")


@route("POST", "/v1/invoices/{id}", "InvoiceModifyParams", _EDITABLE)
def update(world: World, params: dict[str, Any], id: str) -> Row:
    """A draft changes freely. Afterwards only metadata, the card and, while it is open, `auto_advance`."""
    invoice = world.find("invoice", id)
    fixed = set(params) - _ALWAYS
    if invoice["status"] != "draft" and fixed:
        name = sorted(fixed)[0]
        raise StripeError("Finalized invoices can't be updated in this way", param=name)
    if "auto_advance" in params and invoice["status"] not in ("draft", "open"):
        raise StripeError(f"This invoice is {invoice['status']}: auto_advance no longer applies.", param="auto_advance")
    before = present(world, invoice)
    world.change(invoice, **_fields(world, invoice, params))
    if invoice["status"] == "draft":
        retotal(world, invoice)
    if "auto_advance" in params:
        _let_advance(world, invoice, params["auto_advance"])
    after = present(world, invoice)
    previous = {name: value for name, value in before.items() if after[name] != value}
    if previous:
        world.emit("invoice.updated", invoice, previous)
    return invoice


def _fields(world: World, invoice: Row, params: dict[str, Any]) -> Row:
    fields = cleared(params, *_TEXT, "due_date", "effective_at", "collection_method", "default_payment_method")
    if fields.get("default_payment_method"):
        world.find("payment_method", fields["default_payment_method"], "default_payment_method")
    if "automatic_tax" in params:
        fields["automatic_tax"] = automatic_tax.of_invoice(params["automatic_tax"]["enabled"])
    if "days_until_due" in params:
        fields["_days_until_due"] = params["days_until_due"]
        fields.setdefault("due_date", invoice["created"] + params["days_until_due"] * DAY)
    if "metadata" in params:
        fields["metadata"] = merged_metadata(invoice["metadata"], params["metadata"])
    if "default_tax_rates" in params:
        fields["_rates"] = usable(world, params["default_tax_rates"], "default_tax_rates")
    if "discounts" in params:
        fields["discounts"] = discounts.given(
            world,
            params["discounts"],
            customer=invoice["customer"],
            currency=invoice["currency"],
            invoice=invoice["id"],
        )
    return fields


def _let_advance(world: World, invoice: Row, wanted: bool) -> None:
    if not wanted:
        world.change(invoice, auto_advance=False, automatically_finalizes_at=None, next_payment_attempt=None)
    elif invoice["auto_advance"]:
        return
    elif invoice["status"] == "draft":
        finalize_in_an_hour(world, invoice)
    else:
        world.change(invoice, auto_advance=True)
        if invoice["collection_method"] == "charge_automatically":
            attempt_at(world, invoice, world.now + HOUR)


@route("DELETE", "/v1/invoices/{id}", "InvoiceDeleteParams")
def delete(world: World, params: dict[str, Any], id: str) -> Row:
    invoice = world.find("invoice", id, named="invoice")
    if invoice["status"] != "draft":
        raise StripeError("You can only delete draft invoices.")
    if invoice["_subscription"] is not None:
        raise StripeError("You can only delete draft invoices that no subscription made.", code="invoice_not_editable")
    for item in world.rows("invoiceitem", invoice=id):
        world.change(item, invoice=None, _line=None)
    for row in world.rows("line_item", invoice=id):
        world.remove(row)
    world.emit("invoice.deleted", invoice)
    world.remove(invoice)
    return deleted(invoice)


@route("POST", "/v1/invoices/{id}/finalize", "InvoiceFinalizeInvoiceParams", {"auto_advance"})
def finalized(world: World, params: dict[str, Any], id: str) -> Row:
    invoice = world.find("invoice", id)
    if "auto_advance" in params:
        world.change(invoice, auto_advance=params["auto_advance"])
    finalize(world, invoice, asked=True)
    if (
        invoice["status"] == "open"
        and invoice["auto_advance"]
        and invoice["collection_method"] == "charge_automatically"
    ):
        attempt_at(world, invoice, world.now + HOUR)
    return invoice


@route("POST", "/v1/invoices/{id}/pay", "InvoicePayParams", {"paid_out_of_band", "payment_method", "off_session"})
def pay(world: World, params: dict[str, Any], id: str) -> Row:
    """Charge it now, or note that it was paid elsewhere. A declined card is 402, and the attempt counts."""
    invoice = world.find("invoice", id)
    if invoice["status"] == "draft":
        finalize(world, invoice, asked=True)
        if invoice["status"] == "paid":
            return invoice
    _payable(invoice)
    if params.get("paid_out_of_band"):
        pay_outside(world, invoice)
        return invoice
    if "payment_method" in params:
        world.find("payment_method", params["payment_method"], "payment_method")
    error = collect(world, invoice, params.get("payment_method"))
    if error is not None:
        raise payment_error(error)
    return invoice


def _payable(invoice: Row) -> None:
    if invoice["status"] == "paid":
        raise StripeError("Invoice is already paid")
    if invoice["status"] == "void":
        raise StripeError("Voided invoices cannot be paid.", code="invoice_not_editable")


@route("POST", "/v1/invoices/{id}/attach_payment", "InvoiceAttachPaymentParams", {"payment_intent"})
def attach_payment(world: World, params: dict[str, Any], id: str) -> Row:
    """A payment intent of its own pays the invoice, or a part of it."""
    invoice = world.find("invoice", id)
    if invoice["status"] not in ("open", "uncollectible"):
        raise StripeError(f"A payment cannot be attached to an invoice that is {invoice['status']}.",
                          code="invoice_not_editable")  # fmt: skip
    if "payment_intent" not in params:
        raise StripeError("You must provide a payment_intent.", code="parameter_missing", param="payment_intent")
    intent = world.find("payment_intent", params["payment_intent"], "payment_intent")
    if intent["currency"] != invoice["currency"]:
        raise StripeError("The payment intent's currency is not the invoice's.", param="payment_intent")
    if intent["customer"] not in (None, invoice["customer"]):
        raise StripeError("The payment intent belongs to another customer.", param="payment_intent")
    if world.rows("invoice_payment", payment_intent=intent["id"]):
        raise StripeError("This payment intent is attached to an invoice already.", param="payment_intent")
    if intent["status"] != "succeeded":
        raise NotModelled("The sandbox attaches only payment intents that have succeeded.")
    record_payment(world, invoice, intent["id"], intent["amount_received"])
    return invoice


@route("POST", "/v1/invoices/{id}/void", "InvoiceVoidInvoiceParams")
def voided(world: World, params: dict[str, Any], id: str) -> Row:
    invoice = world.find("invoice", id)
    void(world, invoice)
    return invoice


@route("POST", "/v1/invoices/{id}/mark_uncollectible", "InvoiceMarkUncollectibleParams")
def mark_uncollectible(world: World, params: dict[str, Any], id: str) -> Row:
    invoice = world.find("invoice", id)
    give_up(world, invoice, "user_forgiven")
    return invoice


@route("POST", "/v1/invoices/{id}/send", "InvoiceSendInvoiceParams")
def send(world: World, params: dict[str, Any], id: str) -> Row:
    """Mails the customer; in a sandbox only the event tells of it."""
    invoice = world.find("invoice", id, named="invoice")
    if invoice["status"] == "paid":
        raise StripeError("This invoice cannot be sent right now.")
    if invoice["status"] == "draft":
        finalize(world, invoice, asked=True)
    world.emit("invoice.sent", invoice)
    return invoice


@route(
    "GET", "/v1/invoices", "InvoiceListParams", {"customer", "subscription", "status", "collection_method", "due_date"}
)
def listed(world: World, params: dict[str, Any]) -> Row:
    equal = {name: params.get(name) for name in ("customer", "status", "collection_method")}
    equal["subscription"] = params.get("subscription")
    due = params.get("due_date")
    passes = None if due is None else lambda row: within(due, row["due_date"])
    return lists.page(world, "invoice", params, "/v1/invoices", passes, **equal)


@route("GET", "/v1/invoices/{id}/lines", "InvoiceListLinesParams")
def list_lines(world: World, params: dict[str, Any], id: str) -> Row:
    """In the invoice's own order."""
    world.find("invoice", id)
    return lists.page_of(world.rows("line_item", invoice=id), params, f"/v1/invoices/{id}/lines")
