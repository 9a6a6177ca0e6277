"""Objects as Stripe sends them (API 2026-10-28.endive), as short as our reading of them allows. Field names and shapes
are those of stripe-python 16.1.0's own annotations."""

from typing import Any

Json = dict[str, Any]


def listed(*entries: Json, more: bool = False) -> Json:
    return {"object": "list", "data": list(entries), "has_more": more, "url": "/v1/…"}


def price(**fields: Any) -> Json:
    return {
        "id": "price_1",
        "object": "price",
        "active": True,
        "created": 1_500_000_000,
        "currency": "usd",
        "metadata": {},
        "nickname": None,
        "product": {"id": "prod_1", "object": "product", "name": "Social Pro", "metadata": {}},
        "recurring": {"interval": "month", "interval_count": 1, "usage_type": "licensed", "meter": None},
        "unit_amount": 2900,
    } | fields


def subscription(**fields: Any) -> Json:
    item = {
        "id": "si_1",
        "object": "subscription_item",
        "price": price(product="prod_1"),
        "quantity": 2,
        "current_period_start": 1_565_000_000,
        "current_period_end": 1_567_000_000,
    }
    return {
        "id": "sub_1",
        "object": "subscription",
        "cancel_at_period_end": False,
        "canceled_at": None,
        "collection_method": "charge_automatically",
        "created": 1_550_000_000,
        "currency": "usd",
        "customer": "cus_1",
        "ended_at": None,
        "items": listed(item),
        "metadata": {},
        "pause_collection": None,
        "status": "active",
        "trial_end": None,
    } | fields


def line(**fields: Any) -> Json:
    return {
        "id": "il_1",
        "object": "line_item",
        "amount": 5800,
        "currency": "usd",
        "description": "2 × Social Pro",
        "discount_amounts": [],
        "invoice": "in_1",
        "parent": {
            "type": "subscription_item_details",
            "invoice_item_details": None,
            "subscription_item_details": {
                "subscription": "sub_1",
                "subscription_item": "si_1",
                "proration": False,
                "proration_details": None,
                "invoice_item": None,
            },
        },
        "period": {"start": 1_565_000_000, "end": 1_567_000_000},
        "pricing": {"type": "price_details", "price_details": {"price": "price_1", "product": "prod_1"}},
        "quantity": 2,
        "subscription": "sub_1",
        "subtotal": 5800,
        "taxes": [],
    } | fields


def tax(amount: int, behavior: str, **fields: Any) -> Json:
    return {
        "amount": amount,
        "tax_behavior": behavior,
        "tax_rate_details": {"tax_rate": "txr_1"},
        "taxability_reason": "not_available",
        "taxable_amount": 1000,
        "type": "tax_rate_details",
    } | fields


def payment(**fields: Any) -> Json:
    return {
        "id": "inpay_1",
        "object": "invoice_payment",
        "amount_paid": 5800,
        "amount_requested": 5800,
        "created": 1_565_000_100,
        "currency": "usd",
        "invoice": "in_1",
        "is_default": True,
        "payment": {"type": "payment_intent", "payment_intent": "pi_1"},
        "status": "paid",
        "status_transitions": {"paid_at": 1_565_000_200, "canceled_at": None},
    } | fields


def invoice(**fields: Any) -> Json:
    return {
        "id": "in_1",
        "object": "invoice",
        "amount_due": 5800,
        "amount_paid": 5800,
        "amount_paid_off_stripe": 0,
        "amount_remaining": 0,
        "auto_advance": False,
        "automatic_tax": {"enabled": False, "liability": None, "status": None},
        "automatically_finalizes_at": None,
        "billing_reason": "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": 1_565_000_000,
        "currency": "usd",
        "customer": "cus_1",
        "ending_balance": 0,
        "lines": listed(line()),
        "metadata": {},
        "number": "ACME-0001",
        "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_1", "metadata": {}}},
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "paid",
        "status_transitions": {"finalized_at": 1_565_000_100, "paid_at": 1_565_000_200},
        "subtotal": 5800,
        "total": 5800,
    } | fields


def refund(**fields: Any) -> Json:
    return {
        "id": "re_1",
        "object": "refund",
        "amount": 900,
        "charge": "ch_1",
        "created": 1_566_800_000,
        "currency": "usd",
        "customer": "cus_1",
        "failure_reason": None,
        "metadata": {"step": "7"},
        "payment_intent": "pi_1",
        "pending_reason": None,
        "status": "succeeded",
    } | fields


def credit_note(**fields: Any) -> Json:
    return {
        "id": "cn_1",
        "object": "credit_note",
        "created": 1_566_800_000,
        "currency": "usd",
        "customer": "cus_1",
        "invoice": "in_1",
        "lines": listed(
            {
                "id": "cnli_1",
                "object": "credit_note_line_item",
                "amount": 900,
                "discount_amounts": [],
                "invoice_line_item": "il_1",
                "taxes": [],
            }
        ),
        "memo": None,
        "metadata": {"step": "7"},
        "number": "ACME-0001-CN-01",
        "out_of_band_amount": None,
        "pdf": "https://example.com/cn_1.pdf",
        "post_payment_amount": 900,
        "pre_payment_amount": 0,
        "refunds": [{"type": "refund", "refund": "re_1", "amount_refunded": 900, "payment_record_refund": None}],
        "status": "issued",
        "total": 900,
    } | fields


def balance_entry(**fields: Any) -> Json:
    return {
        "id": "cbtxn_1",
        "object": "customer_balance_transaction",
        "amount": -900,
        "created": 1_566_800_000,
        "credit_note": None,
        "currency": "usd",
        "customer": "cus_1",
        "invoice": None,
        "metadata": {"step": "7"},
        "type": "adjustment",
    } | fields


def event(**fields: Any) -> Json:
    return {
        "id": "evt_1",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": 1_566_800_000,
        "data": {"object": {"id": "sub_1", "object": "subscription"}},
        "livemode": False,
        "request": {"id": "req_1", "idempotency_key": "edev:a1:s7:n0"},
        "type": "customer.subscription.updated",
    } | fields
