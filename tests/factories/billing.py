"""The mirror: who buys what, and how they paid. A month of 31.00 USD unless a test says otherwise."""

from datetime import datetime
from typing import Any

import factory

from billing import models
from tests.factories.building import AUGUST, SEPTEMBER, RowFactory
from tests.factories.tenants import AgencyFactory


class PlatformFactory(RowFactory):
    """The well-known ones are there from the first migration: `slug="facebook"` finds it."""

    class Meta:
        model = models.Platform
        sqlalchemy_get_or_create = ("slug",)

    slug = factory.Sequence(lambda n: f"platform-{n}")
    name = factory.LazyAttribute(lambda it: it.slug.title())


class PlanFactory(RowFactory):
    """`weights={platform: basis points}` says what it depends on."""

    class Meta:
        model = models.Plan

    id = factory.Sequence(lambda n: f"price_{n}")
    product_id = factory.LazyAttribute(lambda it: f"prod_of_{it.id}")
    name = factory.LazyAttribute(lambda it: f"Plan {it.id}")
    currency = "usd"
    unit_amount = 3100
    interval = "month"
    interval_count = 1
    metered = False
    active = True
    created_at = AUGUST

    @factory.post_generation
    def weights(self, create: bool, extracted: dict[models.Platform, int] | None, **_: Any) -> None:
        for platform, weight in (extracted or {}).items():
            PlanWeightFactory(plan_id=self.id, platform_id=platform.id, weight_bp=weight)


class PlanWeightFactory(RowFactory):
    class Meta:
        model = models.PlanWeight


class OwnedFactory(RowFactory):
    """A row of `agency`; a factory below takes it from the row that it hangs on."""

    class Meta:
        abstract = True
        exclude = ("agency",)

    agency = factory.SubFactory(AgencyFactory)
    agency_id = factory.SelfAttribute("agency.id")


class CustomerFactory(OwnedFactory):
    class Meta:
        model = models.Customer

    id = factory.Sequence(lambda n: f"cus_{n}")
    name = factory.LazyAttribute(lambda it: f"Customer {it.id}")
    email = factory.LazyAttribute(lambda it: f"{it.id}@example.com")
    currency = "usd"
    created_at = AUGUST


class OfCustomerFactory(RowFactory):
    """A row that hangs on `customer`."""

    class Meta:
        abstract = True
        exclude = ("customer",)

    customer = factory.SubFactory(CustomerFactory)
    agency_id = factory.SelfAttribute("customer.agency_id")
    customer_id = factory.SelfAttribute("customer.id")
    currency = "usd"


class SubscriptionFactory(OfCustomerFactory):
    class Meta:
        model = models.Subscription

    id = factory.Sequence(lambda n: f"sub_{n}")
    status = "active"
    collection_method = "charge_automatically"
    cancel_at_period_end = False
    renews_at = SEPTEMBER
    created_at = AUGUST


class SubscriptionItemFactory(RowFactory):
    class Meta:
        model = models.SubscriptionItem
        exclude = ("subscription", "plan")

    subscription = factory.SubFactory(SubscriptionFactory)
    plan = factory.SubFactory(PlanFactory)
    id = factory.Sequence(lambda n: f"si_{n}")
    agency_id = factory.SelfAttribute("subscription.agency_id")
    subscription_id = factory.SelfAttribute("subscription.id")
    plan_id = factory.SelfAttribute("plan.id")
    quantity = 1
    period_start = AUGUST
    period_end = SEPTEMBER


class InvoiceFactory(OfCustomerFactory):
    """Paid in full by card; `status="open"` leaves everything due."""

    class Meta:
        model = models.Invoice

    id = factory.Sequence(lambda n: f"in_{n}")
    number = factory.Sequence(lambda n: f"N-{n:05d}")
    status = "paid"
    billing_reason = "subscription_cycle"
    collection_method = "charge_automatically"
    auto_advance = factory.LazyAttribute(lambda it: it.status in ("open", "draft"))
    automatic_tax = False
    total = 3100
    subtotal = factory.SelfAttribute("total")
    starting_balance = 0
    ending_balance = 0
    paid_off_stripe = 0
    pre_payment_credited = 0
    post_payment_credited = 0
    amount_due = factory.LazyAttribute(lambda it: max(0, it.total - (it.ending_balance - it.starting_balance)))
    amount_paid = factory.LazyAttribute(lambda it: it.amount_due if it.status == "paid" else 0)
    amount_remaining = factory.LazyAttribute(lambda it: it.amount_due - it.amount_paid)
    created_at = AUGUST
    finalized_at = factory.LazyAttribute(lambda it: None if it.status == "draft" else it.created_at)
    paid_at = factory.LazyAttribute(lambda it: it.created_at if it.status == "paid" else None)
    voided_at = factory.LazyAttribute(lambda it: it.created_at if it.status == "void" else None)


class OfInvoiceFactory(RowFactory):
    """A row that hangs on `invoice`."""

    class Meta:
        abstract = True
        exclude = ("invoice",)

    invoice = factory.SubFactory(InvoiceFactory)
    agency_id = factory.SelfAttribute("invoice.agency_id")
    invoice_id = factory.SelfAttribute("invoice.id")


class InvoiceLineFactory(OfInvoiceFactory):
    class Meta:
        model = models.InvoiceLine

    id = factory.Sequence(lambda n: f"il_{n}")
    position = factory.Sequence(lambda n: n)
    subscription_id = factory.SelfAttribute("invoice.subscription_id")
    quantity = 1
    net = 3100
    tax = 0
    discount = 0
    amount = factory.LazyAttribute(lambda it: it.net + it.discount)
    period_start = AUGUST
    period_end = SEPTEMBER
    proration = False
    metered = False


class PaymentFactory(OfInvoiceFactory):
    class Meta:
        model = models.Payment

    id = factory.Sequence(lambda n: f"inpay_{n}")
    payment_intent = factory.Sequence(lambda n: f"pi_{n}")
    charge = factory.Sequence(lambda n: f"ch_{n}")
    currency = factory.SelfAttribute("invoice.currency")
    status = "paid"
    paid_at = factory.SelfAttribute("invoice.created_at")
    captured = factory.SelfAttribute("invoice.amount_paid")


class OfPaymentFactory(RowFactory):
    """A row about the money of `payment`. The counters of Payment are the test's to set, as the mirror would."""

    class Meta:
        abstract = True
        exclude = ("payment",)

    payment = factory.SubFactory(PaymentFactory)
    agency_id = factory.SelfAttribute("payment.agency_id")
    payment_intent = factory.SelfAttribute("payment.payment_intent")
    charge = factory.SelfAttribute("payment.charge")
    currency = factory.SelfAttribute("payment.currency")
    amount = factory.SelfAttribute("payment.captured")
    created_at = AUGUST


class RefundFactory(OfPaymentFactory):
    class Meta:
        model = models.Refund

    id = factory.Sequence(lambda n: f"re_{n}")
    status = "succeeded"


class DisputeFactory(OfPaymentFactory):
    class Meta:
        model = models.Dispute

    id = factory.Sequence(lambda n: f"du_{n}")
    status = "needs_response"


class CreditNoteFactory(OfInvoiceFactory):
    class Meta:
        model = models.CreditNote

    id = factory.Sequence(lambda n: f"cn_{n}")
    customer_id = factory.SelfAttribute("invoice.customer_id")
    number = factory.Sequence(lambda n: f"N-CN-{n:05d}")
    status = "issued"
    currency = factory.SelfAttribute("invoice.currency")
    total = 100
    pre_payment_amount = 0
    post_payment_amount = factory.LazyAttribute(lambda it: it.total - it.pre_payment_amount)
    refunded = factory.SelfAttribute("post_payment_amount")
    credited = 0
    out_of_band = 0
    created_at = AUGUST


class BalanceEntryFactory(OfCustomerFactory):
    class Meta:
        model = models.BalanceEntry

    id = factory.Sequence(lambda n: f"cbtxn_{n}")
    amount = -100
    type = "adjustment"
    created_at = AUGUST


def subscribed(customer: models.Customer, *plans: models.Plan, **of_subscription: Any) -> models.Subscription:
    """A subscription of `customer` to `plans`, one item each."""
    subscription = SubscriptionFactory(customer=customer, **of_subscription)
    for plan in plans:
        SubscriptionItemFactory(subscription=subscription, plan=plan)
    return subscription


def paid_invoice(
    customer: models.Customer,
    plan: models.Plan,
    net: int = 3100,
    *,
    subscription: models.Subscription | None = None,
    period: tuple[datetime, datetime] = (AUGUST, SEPTEMBER),
    tax: int = 0,
    **of_invoice: Any,
) -> models.Invoice:
    """An invoice of one line, with the one payment that paid what was due."""
    of_invoice = {"created_at": period[0], "currency": plan.currency, "total": net + tax} | of_invoice
    if subscription is not None:
        of_invoice["subscription_id"] = subscription.id
    invoice = InvoiceFactory(customer=customer, **of_invoice)
    InvoiceLineFactory(invoice=invoice, plan_id=plan.id, net=net, tax=tax, period_start=period[0], period_end=period[1])
    by_card = invoice.amount_paid - invoice.paid_off_stripe
    if by_card > 0:
        PaymentFactory(invoice=invoice, captured=by_card)
    return invoice
