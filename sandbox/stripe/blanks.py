"""Invoices and subscriptions before anything is said about them: every field of Stripe's, most of them null."""

from typing import Any, Final

from sandbox.stripe.world import Row, World

NO_PAYMENT_SETTINGS: Final = {"default_mandate": None, "payment_method_options": None, "payment_method_types": None}
_TAX: Final = {"disabled_reason": None, "enabled": False, "liability": None}
_NULL_OF_INVOICE: Final = (
    "account_country", "account_name", "account_tax_ids", "application", "automatically_finalizes_at",
    "confirmation_secret", "custom_fields", "customer_account", "default_payment_method", "default_source",
    "description", "due_date", "effective_at", "ending_balance", "footer", "from_invoice", "hosted_invoice_url",
    "invoice_pdf", "last_finalization_error", "latest_revision", "next_payment_attempt", "number", "on_behalf_of",
    "parent", "receipt_number", "rendering", "shipping_cost", "shipping_details", "statement_descriptor",
    "status_details", "test_clock", "threshold_reason", "webhooks_delivered_at",
)  # fmt: skip
_NO_AMOUNT: Final = (
    "amount_due", "amount_overpaid", "amount_paid", "amount_paid_off_stripe", "amount_remaining", "amount_shipping",
    "attempt_count", "post_payment_credit_notes_amount", "pre_payment_credit_notes_amount", "starting_balance",
    "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax",
)  # fmt: skip
_NULL_OF_SUBSCRIPTION: Final = (
    "application", "application_fee_percent", "billing_cycle_anchor_config", "billing_thresholds", "cancel_at",
    "canceled_at", "customer_account", "days_until_due", "default_payment_method", "default_source", "description",
    "ended_at", "latest_invoice", "managed_payments", "next_pending_invoice_item_invoice", "on_behalf_of",
    "pause_collection", "pending_invoice_item_interval", "pending_setup_intent", "pending_update",
    "presentment_details", "schedule", "status_details", "test_clock", "transfer_data", "trial_end", "trial_start",
)  # fmt: skip


def invoice(world: World, customer: Row) -> Row:
    """A draft of nothing for this customer, with a copy of what is known of them."""
    return {
        "id": world.new_id("in"),
        "object": "invoice",
        **dict.fromkeys(_NULL_OF_INVOICE),
        **dict.fromkeys(_NO_AMOUNT, 0),
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {**_TAX, "provider": None, "status": None},
        "billing_reason": "manual",
        "collection_method": "charge_automatically",
        "created": world.now,
        "customer": customer["id"],
        "customer_address": customer.get("address"),
        "customer_email": customer.get("email"),
        "customer_name": customer.get("name"),
        "customer_phone": customer.get("phone"),
        "customer_shipping": customer.get("shipping"),
        "customer_tax_exempt": customer.get("tax_exempt") or "none",
        "customer_tax_ids": [],
        "discounts": [],
        "issuer": {"account": None, "type": "self"},
        "livemode": world.livemode,
        "metadata": {},
        "payment_settings": NO_PAYMENT_SETTINGS,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "total_discount_amounts": [],
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
        "_rates": [],
        "_days_until_due": None,
    }


def subscription(world: World, customer: str, currency: str) -> Row:
    """An active one without items, in billing mode flexible, Stripe's default."""
    return {
        "id": world.new_id("sub"),
        "object": "subscription",
        **dict.fromkeys(_NULL_OF_SUBSCRIPTION),
        "automatic_tax": dict(_TAX),
        "billing_cycle_anchor": world.now,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible", "updated_at": world.now},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": no_cancellation(),
        "collection_method": "charge_automatically",
        "created": world.now,
        "currency": currency,
        "customer": customer,
        "discounts": [],
        "invoice_settings": {"account_tax_ids": None, "custom_fields": None, "description": None, "footer": None,
                             "issuer": {"account": None, "type": "self"}},
        "livemode": world.livemode,
        "metadata": {},
        "payment_settings": {"payment_method_options": None, "payment_method_types": None,
                             "save_default_payment_method": "off"},
        "start_date": world.now,
        "status": "active",
        "trial_settings": {"end_behavior": {"billing_cycle_anchor": None, "missing_payment_method": "create_invoice"}},
        "_rates": [],
        "_stub_costs": True,
    }  # fmt: skip


def no_cancellation(reason: str | None = None) -> dict[str, Any]:
    return {"comment": None, "feedback": None, "feedback_option": None, "reason": reason}
