"""One small factory per model. They write into the session of `building(db)`, and say only what a test leaves out.

with building(db):
    customer = CustomerFactory(agency=AgencyFactory())
    invoice = InvoiceFactory(customer=customer, total=3100)
"""

from tests.factories.billing import (
    BalanceEntryFactory,
    CreditNoteFactory,
    CustomerFactory,
    DisputeFactory,
    InvoiceFactory,
    InvoiceLineFactory,
    PaymentFactory,
    PlanFactory,
    PlatformFactory,
    RefundFactory,
    SubscriptionFactory,
    SubscriptionItemFactory,
    paid_invoice,
    subscribed,
)
from tests.factories.building import building
from tests.factories.outages import (
    GrantFactory,
    IncidentFactory,
    IncidentScopeFactory,
    PauseFactory,
    RunFactory,
    StepFactory,
)
from tests.factories.tenants import AgencyFactory, MemberFactory
from tests.factories.webhooks import InboxEventFactory

__all__ = [
    "AgencyFactory",
    "BalanceEntryFactory",
    "CreditNoteFactory",
    "CustomerFactory",
    "DisputeFactory",
    "GrantFactory",
    "InboxEventFactory",
    "IncidentFactory",
    "IncidentScopeFactory",
    "InvoiceFactory",
    "InvoiceLineFactory",
    "MemberFactory",
    "PauseFactory",
    "PaymentFactory",
    "PlanFactory",
    "PlatformFactory",
    "RefundFactory",
    "RunFactory",
    "StepFactory",
    "SubscriptionFactory",
    "SubscriptionItemFactory",
    "building",
    "paid_invoice",
    "subscribed",
]
