"""What Stripe told us, in our words: frozen values, amounts in the currency's smallest Stripe unit, times in UTC."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

DISPUTE_OVER: Final = frozenset(["won", "lost", "warning_closed", "prevented"])
REFUND_STATES: Final = frozenset(["pending", "requires_action", "succeeded", "failed", "canceled"])


@dataclass(frozen=True, slots=True)
class AccountFact:
    """The account that a key opens."""

    id: str
    name: str | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class PlanFact:
    """A price joined with its product. `unit_amount` is None for tiers and fractions of a smallest unit."""

    id: str
    product_id: str
    name: str
    currency: str
    unit_amount: int | None
    interval: str | None
    interval_count: int | None
    metered: bool
    active: bool
    weights_text: str | None
    """`metadata.platform_weights` of the price, else of its product, as somebody wrote it."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CustomerFact:
    """`balance` as Stripe signs it: negative is credit. A deleted customer has nothing but its id."""

    id: str
    name: str | None
    email: str | None
    currency: str | None
    balance: int
    locale: str | None
    """The first of Stripe's `preferred_locales`, as it is written there."""
    deleted: bool
    agency: str | None
    """`metadata.agency`: the slug of whom it belongs to."""
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class SubscriptionItemFact:
    """One plan x quantity, with its current service period [start, end)."""

    id: str
    plan_id: str
    quantity: int
    period_start: datetime
    period_end: datetime


@dataclass(frozen=True, slots=True)
class SubscriptionFact:
    """`pause_behavior` is Stripe's `pause_collection`, None while billing runs."""

    id: str
    customer_id: str
    status: str
    currency: str
    collection_method: str
    pause_behavior: str | None
    pause_resumes_at: datetime | None
    cancel_at_period_end: bool
    trial_end: datetime | None
    canceled_at: datetime | None
    ended_at: datetime | None
    items: tuple[SubscriptionItemFact, ...]
    metadata: Mapping[str, str]
    created_at: datetime

    @property
    def renews_at(self) -> datetime | None:
        """The earliest end of a current period: when Stripe charges next."""
        return min((item.period_end for item in self.items), default=None)

    @property
    def pause_incident(self) -> str | None:
        """The incident that our pause was made for, as its metadata says."""
        return self.metadata.get("incident") or None


@dataclass(frozen=True, slots=True)
class TaxFact:
    """One tax on a line, as a credit note's `tax_amounts` wants it back. `taxable_amount` may be unknown."""

    tax_rate: str | None
    amount: int
    inclusive: bool
    taxable_amount: int | None


@dataclass(frozen=True, slots=True)
class LineFact:
    """One signed line. `amount` is before discounts and exclusive tax; what was asked for is `net + tax`."""

    id: str
    subscription_id: str | None
    plan_id: str | None
    description: str | None
    quantity: int | None
    amount: int
    discount: int
    taxes: tuple[TaxFact, ...]
    period_start: datetime
    period_end: datetime
    proration: bool

    @property
    def net(self) -> int:
        """After discounts; inclusive tax is in it, exclusive tax is not."""
        return self.amount - self.discount

    @property
    def tax(self) -> int:
        """Exclusive tax, on top of `net`."""
        return sum(tax.amount for tax in self.taxes if not tax.inclusive)

    @property
    def inclusive_tax(self) -> int:
        """Tax inside `net`."""
        return sum(tax.amount for tax in self.taxes if tax.inclusive)


@dataclass(frozen=True, slots=True)
class PaymentFact:
    """An invoice payment. `captured` is what came in through it: 0 until it is paid. Refund its `payment_intent`, or
    its `charge` where it has none; neither: money that never went through Stripe."""

    id: str
    invoice_id: str
    payment_intent: str | None
    charge: str | None
    currency: str
    status: str
    captured: int
    paid_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class InvoiceFact:
    """An invoice with all of its lines, in order. `payments` is None when this answer of Stripe's did not list them."""

    id: str
    customer_id: str
    subscription_id: str | None
    number: str | None
    status: str
    currency: str
    billing_reason: str | None
    collection_method: str
    auto_advance: bool
    automatic_tax: bool
    subtotal: int
    total: int
    amount_due: int
    amount_paid: int
    amount_remaining: int
    paid_off_stripe: int
    starting_balance: int
    ending_balance: int
    pre_payment_credited: int
    post_payment_credited: int
    created_at: datetime
    finalized_at: datetime | None
    paid_at: datetime | None
    voided_at: datetime | None
    automatically_finalizes_at: datetime | None
    lines: tuple[LineFact, ...]
    payments: tuple[PaymentFact, ...] | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RefundFact:
    """A refund as it is now; `succeeded` may still become `failed`, weeks later."""

    id: str
    payment_intent: str | None
    charge: str | None
    customer_id: str | None
    currency: str
    amount: int
    status: str
    pending_reason: str | None
    failure_reason: str | None
    metadata: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CreditNoteFact:
    """A credit note. `total` has tax in it; of its `post_payment_amount`, `refunds` (id, amount) went back as money,
    `credited` to the customer's balance, `out_of_band` outside Stripe. A preview has no id yet: ''."""

    id: str
    invoice_id: str
    customer_id: str
    number: str
    status: str
    currency: str
    total: int
    pre_payment_amount: int
    post_payment_amount: int
    refunds: tuple[tuple[str, int], ...]
    credited: int
    out_of_band: int
    memo: str | None
    pdf: str | None
    lines: tuple["CreditNoteLineFact", ...]
    metadata: Mapping[str, str]
    created_at: datetime

    @property
    def refunded(self) -> int:
        return sum(amount for _, amount in self.refunds)


@dataclass(frozen=True, slots=True)
class CreditNoteLineFact:
    """What a note gives back of one invoice line: `amount` gross of discounts and exclusive tax, as it was sent."""

    invoice_line: str | None
    amount: int
    discount: int
    taxes: tuple[TaxFact, ...]


@dataclass(frozen=True, slots=True)
class DisputeFact:
    """A customer's bank wants the money back."""

    id: str
    charge: str
    payment_intent: str | None
    currency: str
    amount: int
    status: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ChargeFact:
    """What one charge took and gave back, by anybody; `refunded` counts refunds that still wait."""

    id: str
    payment_intent: str | None
    customer_id: str | None
    currency: str
    status: str
    captured: int
    refunded: int
    disputed: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BalanceEntryFact:
    """One entry of a customer's balance. Negative: credit given."""

    id: str
    customer_id: str
    currency: str
    amount: int
    type: str
    credit_note_id: str | None
    invoice_id: str | None
    metadata: Mapping[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EventFact:
    """That something happened to one object: what to fetch, never what it is now. `account` is '' for the key's own.

    `request_key` is the idempotency key of the request that caused it, None when Stripe acted by itself.
    """

    id: str
    type: str
    account: str
    livemode: bool
    api_version: str | None
    object_kind: str
    object_id: str | None
    request_key: str | None
    created_at: datetime
