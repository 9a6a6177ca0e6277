"""What was sold, mirrored from Stripe: Platform, Plan, Customer, Subscription, Invoice, Payment, Refund, CreditNote.

Ids of mirrored rows are Stripe's own. Amounts are integers of the currency's smallest Stripe unit, times are UTC.
`billing.recording` alone writes these rows, except the counters of Payment that say whose column they are.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import AgencyOwned, Base


def _owned_by(table: str, *columns: str) -> sa.ForeignKeyConstraint:
    """A foreign key inside one agency: it cannot reach another's row, nor tell whether one exists."""
    return sa.ForeignKeyConstraint(["agency_id", *columns], [f"{table}.agency_id", f"{table}.id"])


class Platform(Base):
    """An upstream that plans depend on. An open list: weights that name one like no other make its row."""

    __tablename__ = "platforms"
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    disabled_at: Mapped[datetime | None]
    """Since when no outage of it can be declared. What was declared before goes on."""


class Plan(Base):
    """A Stripe price. `agency_id` is the agency whose own account sells it; NULL: the operator's account, shared."""

    __tablename__ = "plans"
    __table_args__ = (sa.CheckConstraint("weights_from IN ('stripe', 'here')", name="weights_from_a_known_place"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    agency_id: Mapped[int | None] = mapped_column(sa.ForeignKey("agencies.id"), index=True)
    product_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    currency: Mapped[str]
    unit_amount: Mapped[int | None]
    interval: Mapped[str | None]
    interval_count: Mapped[int | None]
    metered: Mapped[bool]
    active: Mapped[bool]
    weights_from: Mapped[str] = mapped_column(server_default="stripe")
    weights_refused: Mapped[str | None]
    """Why the weights that stand in Stripe now were not taken; those of before are kept."""
    created_at: Mapped[datetime]
    synced_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class PlanWeight(Base):
    """Which share of a plan's value one platform carries, in basis points. A trigger keeps a plan's sum <= 10,000."""

    __tablename__ = "plan_weights"
    __table_args__ = (sa.CheckConstraint("weight_bp BETWEEN 1 AND 10000", name="weight_is_a_share"),)
    plan_id: Mapped[str] = mapped_column(sa.ForeignKey("plans.id", ondelete="CASCADE"), primary_key=True)
    platform_id: Mapped[int] = mapped_column(sa.ForeignKey("platforms.id"), primary_key=True)
    weight_bp: Mapped[int]


class Customer(AgencyOwned, Base):
    """Who is billed. `balance` as Stripe signs it: negative is credit that the customer has."""

    __tablename__ = "customers"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    email: Mapped[str | None]
    currency: Mapped[str | None]
    balance: Mapped[int] = mapped_column(server_default="0")
    locale: Mapped[str | None]
    """A language tag such as de-AT, as Stripe has it; NULL: the agency's."""
    deleted: Mapped[bool] = mapped_column(server_default=sa.false())
    created_at: Mapped[datetime]
    synced_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class Subscription(AgencyOwned, Base):
    """`pause_behavior` is Stripe's pause_collection (NULL: not paused), `pause_incident` what it was made for."""

    __tablename__ = "subscriptions"
    __table_args__ = (_owned_by("customers", "customer_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(index=True)
    status: Mapped[str]
    currency: Mapped[str]
    collection_method: Mapped[str]
    pause_behavior: Mapped[str | None]
    pause_resumes_at: Mapped[datetime | None]
    pause_incident: Mapped[str | None]
    cancel_at_period_end: Mapped[bool]
    trial_end: Mapped[datetime | None]
    renews_at: Mapped[datetime | None]
    """The earliest end of a current period over its items: when Stripe charges next."""
    canceled_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    synced_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class SubscriptionItem(AgencyOwned, Base):
    """One plan x quantity of a subscription, with its current service period [start, end)."""

    __tablename__ = "subscription_items"
    __table_args__ = (_owned_by("subscriptions", "subscription_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    subscription_id: Mapped[str] = mapped_column(index=True)
    plan_id: Mapped[str] = mapped_column(sa.ForeignKey("plans.id"), index=True)
    quantity: Mapped[int]
    period_start: Mapped[datetime]
    period_end: Mapped[datetime]


class Invoice(AgencyOwned, Base):
    """`starting_balance` and `ending_balance` as Stripe signs them; their difference is what the balance paid.

    `paid_off_stripe` is what was marked as paid out of band. `subscription_id` is NULL for one-off invoices.
    """

    __tablename__ = "invoices"
    __table_args__ = (_owned_by("customers", "customer_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(index=True)
    subscription_id: Mapped[str | None] = mapped_column(index=True)
    number: Mapped[str | None]
    status: Mapped[str]
    currency: Mapped[str]
    billing_reason: Mapped[str | None]
    collection_method: Mapped[str]
    auto_advance: Mapped[bool]
    automatic_tax: Mapped[bool]
    subtotal: Mapped[int]
    total: Mapped[int]
    amount_due: Mapped[int]
    amount_paid: Mapped[int]
    amount_remaining: Mapped[int]
    paid_off_stripe: Mapped[int]
    starting_balance: Mapped[int]
    ending_balance: Mapped[int]
    pre_payment_credited: Mapped[int]
    post_payment_credited: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(index=True)
    finalized_at: Mapped[datetime | None]
    paid_at: Mapped[datetime | None]
    voided_at: Mapped[datetime | None]
    automatically_finalizes_at: Mapped[datetime | None]
    synced_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class InvoiceLine(AgencyOwned, Base):
    """One signed line. `amount` is before discounts and exclusive tax, `net` after discounts (inclusive tax in it).

    `tax` is exclusive tax on top of `net`; the customer was asked for `net + tax`. `taxes` keeps Stripe's split:
    `[{"tax_rate", "amount", "inclusive", "taxable_amount"}]`.
    """

    __tablename__ = "invoice_lines"
    __table_args__ = (_owned_by("invoices", "invoice_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    invoice_id: Mapped[str] = mapped_column(index=True)
    position: Mapped[int]
    subscription_id: Mapped[str | None]
    plan_id: Mapped[str | None] = mapped_column(sa.ForeignKey("plans.id"), index=True)
    description: Mapped[str | None]
    quantity: Mapped[int | None]
    amount: Mapped[int]
    discount: Mapped[int]
    net: Mapped[int]
    tax: Mapped[int]
    taxes: Mapped[list[Any]] = mapped_column(server_default="[]")
    period_start: Mapped[datetime]
    period_end: Mapped[datetime] = mapped_column(index=True)
    proration: Mapped[bool]
    metered: Mapped[bool]


class Payment(AgencyOwned, Base):
    """Money that came in for one invoice. `id` is Stripe's invoice payment; `payment_intent` or `charge` is refunded.

    `reserved` and `refunded` are ours: `billing.outages.grants` moves them in the transaction that sends. `elsewhere`
    (refunds by anybody else) and `disputed` are Stripe's truth, so they stay outside the CHECK: it must always be
    possible to write them down.
    """

    __tablename__ = "payments"
    __table_args__ = (
        _owned_by("invoices", "invoice_id"),
        sa.CheckConstraint(
            "reserved >= 0 AND refunded >= 0 AND reserved + refunded <= captured", name="never_more_than_captured"
        ),
        sa.CheckConstraint("(fee IS NULL) = (fee_currency IS NULL)", name="fee_has_its_currency"),
        sa.CheckConstraint("fee_asked OR fee IS NULL", name="fee_was_asked_for"),
        sa.Index("ix_payments_fee_due", "agency_id", "id", postgresql_where=sa.text("refunded > 0 AND NOT fee_asked")),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    invoice_id: Mapped[str] = mapped_column(index=True)
    payment_intent: Mapped[str | None] = mapped_column(index=True)
    charge: Mapped[str | None] = mapped_column(index=True)
    currency: Mapped[str]
    status: Mapped[str]
    paid_at: Mapped[datetime | None]
    captured: Mapped[int]
    reserved: Mapped[int] = mapped_column(server_default="0")
    refunded: Mapped[int] = mapped_column(server_default="0")
    elsewhere: Mapped[int] = mapped_column(server_default="0")
    disputed: Mapped[int] = mapped_column(server_default="0")
    dispute_open: Mapped[bool] = mapped_column(server_default=sa.false())
    fee: Mapped[int | None]
    """What Stripe took of it, in minor units of `fee_currency`, the balance's: asked once something went back."""
    fee_currency: Mapped[str | None]
    fee_asked: Mapped[bool] = mapped_column(server_default=sa.false())


class Refund(AgencyOwned, Base):
    """A refund in Stripe by anybody; `step_id` is set when it is ours (metadata, or the credit note that made it)."""

    __tablename__ = "refunds"
    id: Mapped[str] = mapped_column(primary_key=True)
    payment_intent: Mapped[str | None] = mapped_column(index=True)
    charge: Mapped[str | None] = mapped_column(index=True)
    currency: Mapped[str]
    amount: Mapped[int]
    status: Mapped[str]
    pending_reason: Mapped[str | None]
    failure_reason: Mapped[str | None]
    step_id: Mapped[int | None] = mapped_column(index=True)
    credit_note_id: Mapped[str | None] = mapped_column(index=True)
    created_at: Mapped[datetime]
    synced_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class CreditNote(AgencyOwned, Base):
    """A credit note in Stripe by anybody; `step_id` is set when it is ours. `total` has tax in it."""

    __tablename__ = "credit_notes"
    __table_args__ = (_owned_by("invoices", "invoice_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    invoice_id: Mapped[str] = mapped_column(index=True)
    customer_id: Mapped[str] = mapped_column(index=True)
    number: Mapped[str]
    status: Mapped[str]
    currency: Mapped[str]
    total: Mapped[int]
    pre_payment_amount: Mapped[int]
    post_payment_amount: Mapped[int]
    refunded: Mapped[int]
    """Of the post-payment amount: what went back through refunds that this note made or links."""
    credited: Mapped[int]
    """Of the post-payment amount: what went to the customer's balance."""
    out_of_band: Mapped[int]
    refund_ids: Mapped[list[Any]] = mapped_column(server_default="[]")
    """The refunds that it made or links: the only trace from a refund without metadata to its step."""
    memo: Mapped[str | None]
    pdf: Mapped[str | None]
    step_id: Mapped[int | None] = mapped_column(index=True)
    created_at: Mapped[datetime]
    synced_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class Dispute(AgencyOwned, Base):
    """A dispute of one charge; open until `status` is won, lost or warning_closed."""

    __tablename__ = "disputes"
    id: Mapped[str] = mapped_column(primary_key=True)
    charge: Mapped[str] = mapped_column(index=True)
    payment_intent: Mapped[str | None] = mapped_column(index=True)
    currency: Mapped[str]
    amount: Mapped[int]
    status: Mapped[str]
    created_at: Mapped[datetime]
    synced_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class BalanceEntry(AgencyOwned, Base):
    """One entry of a customer's balance in Stripe. Negative: credit given. `step_id` is set when it is ours."""

    __tablename__ = "balance_entries"
    __table_args__ = (_owned_by("customers", "customer_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str] = mapped_column(index=True)
    currency: Mapped[str]
    amount: Mapped[int]
    type: Mapped[str]
    credit_note_id: Mapped[str | None]
    step_id: Mapped[int | None] = mapped_column(index=True)
    created_at: Mapped[datetime]


class SyncWindow(Base):
    """One stretch of `created` time of one kind of object that the first import has read to its end."""

    __tablename__ = "sync_windows"
    stripe_account: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    ends_at: Mapped[datetime]
    objects: Mapped[int]
    done_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class SyncCursor(Base):
    """How far one Stripe account has been followed; '' is the operator's. `fresh_at` is in business time.

    Invoices made before `invoices_since` were left out of the import, with what hangs on them. `live` is the mode of
    the key that it was imported with; None: nobody wrote it down.
    """

    __tablename__ = "sync_cursors"
    stripe_account: Mapped[str] = mapped_column(primary_key=True)
    last_event: Mapped[str | None]
    fresh_at: Mapped[datetime | None]
    imported_at: Mapped[datetime | None]
    invoices_since: Mapped[datetime | None]
    live: Mapped[bool | None]
    looked_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    """When a worker last took it upon itself to ask for its events; the database's clock."""
