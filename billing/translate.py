"""Stripe's JSON, as plain dicts of its API 2026-10-28.endive, into our facts.

Undocumented fields are ignored. What is missing, or of another type than Stripe documents, raises `Unreadable`: an
answer that cannot be read is no answer.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from billing.answers import Unreadable
from billing.facts import (
    AccountFact,
    BalanceEntryFact,
    ChargeFact,
    CreditNoteFact,
    CreditNoteLineFact,
    CustomerFact,
    DisputeFact,
    EventFact,
    InvoiceFact,
    LineFact,
    PaymentFact,
    PlanFact,
    RefundFact,
    SubscriptionFact,
    SubscriptionItemFact,
    TaxFact,
)
from billing.money import Money

Json = Mapping[str, Any]
T = TypeVar("T")


def _typed(obj: Json, name: str, wanted: type[T]) -> T:
    value = obj.get(name)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise Unreadable(f"Stripe's {obj.get('object', 'answer')} {obj.get('id', '')} has {name}={value!r:.80}.")
    return value


def _optional(obj: Json, name: str, wanted: type[T]) -> T | None:
    return None if obj.get(name) is None else _typed(obj, name, wanted)


def _text(obj: Json, name: str) -> str:
    return _typed(obj, name, str)


def _number(obj: Json, name: str) -> int:
    return _typed(obj, name, int)


def _number_or_0(obj: Json, name: str) -> int:
    return _optional(obj, name, int) or 0


def _moment(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise Unreadable(f"Stripe sent {seconds} as a time.") from error


def _time(obj: Json, name: str) -> datetime:
    return _moment(_number(obj, name))


def _time_or_none(obj: Json, name: str) -> datetime | None:
    seconds = _optional(obj, name, int)
    return None if seconds is None else _moment(seconds)


def _part(obj: Json, name: str) -> Json:
    """The object in `name`; {} where there is none."""
    return _optional(obj, name, dict) or {}


def _ref(obj: Json, name: str) -> str | None:
    """The id of what `name` refers to, expanded or not."""
    value = obj.get(name)
    if isinstance(value, dict):
        return _text(value, "id")
    return _optional(obj, name, str)


def _owner(obj: Json, name: str) -> str:
    found = _ref(obj, name)
    if found is None:
        raise Unreadable(f"Stripe's {obj.get('object')} {obj.get('id', '')} names no {name}.")
    return found


def _many(obj: Json, name: str, read: Callable[[Json], T]) -> tuple[T, ...]:
    """What stands in the array, or in the `data` of the list object, called `name`; () where there is none."""
    value = obj.get(name)
    if isinstance(value, dict):
        value = value.get("data")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Unreadable(f"Stripe's {obj.get('object')} {obj.get('id', '')} has a broken list {name}.")
    return tuple(read(entry) for entry in value)


def _metadata(obj: Json) -> dict[str, str]:
    return {str(key): str(value) for key, value in _part(obj, "metadata").items()}


def account(obj: Json) -> AccountFact:
    profile = _part(obj, "business_profile")
    return AccountFact(_text(obj, "id"), _optional(profile, "name", str), _optional(obj, "default_currency", str))


def plan(obj: Json) -> PlanFact:
    """A price whose `product` is expanded."""
    product = _part(obj, "product")
    recurring = _part(obj, "recurring")
    name = _optional(obj, "nickname", str) or _optional(product, "name", str)
    own, shared = _metadata(obj), _metadata(product)
    return PlanFact(
        id=_text(obj, "id"),
        product_id=_text(product, "id"),
        name=name or _text(product, "id"),
        currency=_text(obj, "currency"),
        unit_amount=_optional(obj, "unit_amount", int),
        interval=_optional(recurring, "interval", str),
        interval_count=_optional(recurring, "interval_count", int),
        metered=recurring.get("usage_type") == "metered",
        active=_typed(obj, "active", bool),
        weights_text=own.get("platform_weights", shared.get("platform_weights")),
        created_at=_time(obj, "created"),
    )


def customer(obj: Json) -> CustomerFact:
    return CustomerFact(
        id=_text(obj, "id"),
        name=(_optional(obj, "name", str) or "").strip() or None,
        email=_optional(obj, "email", str),
        currency=_optional(obj, "currency", str),
        balance=_number_or_0(obj, "balance"),
        locale=next((tag for tag in obj.get("preferred_locales") or [] if isinstance(tag, str)), None),
        deleted=obj.get("deleted") is True,
        agency=_metadata(obj).get("agency"),
        created_at=_time_or_none(obj, "created"),
    )


def subscription_item(obj: Json) -> SubscriptionItemFact:
    """A metered item has no quantity: 1."""
    quantity = _optional(obj, "quantity", int)
    return SubscriptionItemFact(
        id=_text(obj, "id"),
        plan_id=_owner(obj, "price"),
        quantity=1 if quantity is None else quantity,
        period_start=_time(obj, "current_period_start"),
        period_end=_time(obj, "current_period_end"),
    )


def subscription(obj: Json) -> SubscriptionFact:
    pause = _part(obj, "pause_collection")
    return SubscriptionFact(
        id=_text(obj, "id"),
        customer_id=_owner(obj, "customer"),
        status=_text(obj, "status"),
        currency=_text(obj, "currency"),
        collection_method=_text(obj, "collection_method"),
        pause_behavior=_text(pause, "behavior") if pause else None,
        pause_resumes_at=_time_or_none(pause, "resumes_at"),
        cancel_at_period_end=_typed(obj, "cancel_at_period_end", bool),
        trial_end=_time_or_none(obj, "trial_end"),
        canceled_at=_time_or_none(obj, "canceled_at"),
        ended_at=_time_or_none(obj, "ended_at"),
        items=_many(obj, "items", subscription_item),
        metadata=_metadata(obj),
        created_at=_time(obj, "created"),
    )


def tax(obj: Json) -> TaxFact:
    return TaxFact(
        tax_rate=_ref(_part(obj, "tax_rate_details"), "tax_rate"),
        amount=_number(obj, "amount"),
        inclusive=_text(obj, "tax_behavior") == "inclusive",
        taxable_amount=_optional(obj, "taxable_amount", int),
    )


def _discount(obj: Json) -> int:
    return sum(_many(obj, "discount_amounts", lambda part: _number(part, "amount")))


def line(obj: Json) -> LineFact:
    parent = _part(obj, "parent")
    origin = _part(parent, "subscription_item_details") or _part(parent, "invoice_item_details")
    period = _part(obj, "period")
    return LineFact(
        id=_text(obj, "id"),
        subscription_id=_ref(origin, "subscription") or _ref(obj, "subscription"),
        plan_id=_ref(_part(_part(obj, "pricing"), "price_details"), "price"),
        description=_optional(obj, "description", str),
        quantity=_optional(obj, "quantity", int),
        amount=_number(obj, "amount"),
        discount=_discount(obj),
        taxes=_many(obj, "taxes", tax),
        period_start=_time(period, "start"),
        period_end=_time(period, "end"),
        proration=origin.get("proration") is True,
    )


def payment(obj: Json) -> PaymentFact:
    means = _part(obj, "payment")
    paid = _text(obj, "status") == "paid"
    return PaymentFact(
        id=_text(obj, "id"),
        invoice_id=_owner(obj, "invoice"),
        payment_intent=_ref(means, "payment_intent"),
        charge=_ref(means, "charge"),
        currency=_text(obj, "currency"),
        status=_text(obj, "status"),
        captured=_number(obj, "amount_paid") if paid else 0,
        paid_at=_time_or_none(_part(obj, "status_transitions"), "paid_at"),
        created_at=_time(obj, "created"),
    )


def invoice(obj: Json) -> InvoiceFact:
    """All lines must stand in the object. Payments are read only where the list of them was expanded."""
    moments = _part(obj, "status_transitions")
    origin = _part(_part(obj, "parent"), "subscription_details")
    return InvoiceFact(
        id=_text(obj, "id"),
        customer_id=_owner(obj, "customer"),
        subscription_id=_ref(origin, "subscription"),
        number=_optional(obj, "number", str),
        status=_text(obj, "status"),
        currency=_text(obj, "currency"),
        billing_reason=_optional(obj, "billing_reason", str),
        collection_method=_text(obj, "collection_method"),
        auto_advance=_optional(obj, "auto_advance", bool) or False,
        automatic_tax=_typed(_part(obj, "automatic_tax"), "enabled", bool),
        subtotal=_number(obj, "subtotal"),
        total=_number(obj, "total"),
        amount_due=_number(obj, "amount_due"),
        amount_paid=_number(obj, "amount_paid"),
        amount_remaining=_number(obj, "amount_remaining"),
        paid_off_stripe=_number_or_0(obj, "amount_paid_off_stripe"),
        starting_balance=_number(obj, "starting_balance"),
        ending_balance=_number_or_0(obj, "ending_balance"),
        pre_payment_credited=_number(obj, "pre_payment_credit_notes_amount"),
        post_payment_credited=_number(obj, "post_payment_credit_notes_amount"),
        created_at=_time(obj, "created"),
        finalized_at=_time_or_none(moments, "finalized_at"),
        paid_at=_time_or_none(moments, "paid_at"),
        voided_at=_time_or_none(moments, "voided_at"),
        automatically_finalizes_at=_time_or_none(obj, "automatically_finalizes_at"),
        lines=_many(obj, "lines", line),
        payments=_many(obj, "payments", payment) if obj.get("payments") is not None else None,
        metadata=_metadata(obj),
    )


def refund(obj: Json) -> RefundFact:
    return RefundFact(
        id=_text(obj, "id"),
        payment_intent=_ref(obj, "payment_intent"),
        charge=_ref(obj, "charge"),
        customer_id=_ref(obj, "customer"),
        currency=_text(obj, "currency"),
        amount=_number(obj, "amount"),
        status=_text(obj, "status"),
        pending_reason=_optional(obj, "pending_reason", str),
        failure_reason=_optional(obj, "failure_reason", str),
        metadata=_metadata(obj),
        created_at=_time(obj, "created"),
    )


def _note_line(obj: Json) -> CreditNoteLineFact:
    return CreditNoteLineFact(
        invoice_line=_ref(obj, "invoice_line_item"),
        amount=_number(obj, "amount"),
        discount=_discount(obj),
        taxes=_many(obj, "taxes", tax),
    )


def _note_refund(obj: Json) -> tuple[str, int]:
    found = _ref(obj, "refund") or _optional(_part(obj, "payment_record_refund"), "refund_group", str)
    return found or "", _number(obj, "amount_refunded")


def credit_note(obj: Json) -> CreditNoteFact:
    """Stripe names refunds and out-of-band money; what is left of the post-payment amount went to the balance."""
    refunds = _many(obj, "refunds", _note_refund)
    out_of_band = _number_or_0(obj, "out_of_band_amount")
    after_payment = _number(obj, "post_payment_amount")
    return CreditNoteFact(
        id=_text(obj, "id"),
        invoice_id=_owner(obj, "invoice"),
        customer_id=_owner(obj, "customer"),
        number=_text(obj, "number"),
        status=_text(obj, "status"),
        currency=_text(obj, "currency"),
        total=_number(obj, "total"),
        pre_payment_amount=_number(obj, "pre_payment_amount"),
        post_payment_amount=after_payment,
        refunds=refunds,
        credited=after_payment - out_of_band - sum(amount for _, amount in refunds),
        out_of_band=out_of_band,
        memo=_optional(obj, "memo", str),
        pdf=_optional(obj, "pdf", str),
        lines=_many(obj, "lines", _note_line),
        metadata=_metadata(obj),
        created_at=_time(obj, "created"),
    )


def credit_note_preview(obj: Json) -> CreditNoteFact:
    """What a note would be: it has neither id nor number, whatever Stripe fills in there."""
    return credit_note({**obj, "id": "", "number": "", "pdf": None})


def dispute(obj: Json) -> DisputeFact:
    return DisputeFact(
        id=_text(obj, "id"),
        charge=_owner(obj, "charge"),
        payment_intent=_ref(obj, "payment_intent"),
        currency=_text(obj, "currency"),
        amount=_number(obj, "amount"),
        status=_text(obj, "status"),
        created_at=_time(obj, "created"),
    )


def charge(obj: Json) -> ChargeFact:
    return ChargeFact(
        id=_text(obj, "id"),
        payment_intent=_ref(obj, "payment_intent"),
        customer_id=_ref(obj, "customer"),
        currency=_text(obj, "currency"),
        status=_text(obj, "status"),
        captured=_number(obj, "amount_captured"),
        refunded=_number(obj, "amount_refunded"),
        disputed=_typed(obj, "disputed", bool),
        created_at=_time(obj, "created"),
    )


def fee(obj: Json) -> Money:
    """Of a balance transaction: what Stripe took, in the currency of the balance."""
    return Money(_number(obj, "fee"), _text(obj, "currency"))


def balance_entry(obj: Json) -> BalanceEntryFact:
    return BalanceEntryFact(
        id=_text(obj, "id"),
        customer_id=_owner(obj, "customer"),
        currency=_text(obj, "currency"),
        amount=_number(obj, "amount"),
        type=_text(obj, "type"),
        credit_note_id=_ref(obj, "credit_note"),
        invoice_id=_ref(obj, "invoice"),
        metadata=_metadata(obj),
        created_at=_time(obj, "created"),
    )


def event(obj: Json) -> EventFact:
    """`request` was a bare id in old API versions; such an event has no key."""
    subject = _part(_part(obj, "data"), "object")
    request = obj.get("request")
    return EventFact(
        id=_text(obj, "id"),
        type=_text(obj, "type"),
        account=_optional(obj, "account", str) or "",
        livemode=_typed(obj, "livemode", bool),
        api_version=_optional(obj, "api_version", str),
        object_kind=_text(subject, "object"),
        object_id=_optional(subject, "id", str),
        request_key=_optional(request, "idempotency_key", str) if isinstance(request, dict) else None,
        created_at=_time(obj, "created"),
    )
