"""Incidents and what hangs on them, for tests that need them without a declaration."""

import factory
from sqlalchemy.dialects.postgresql import Range

from billing.outages import models
from tests.factories.billing import InvoiceFactory, PlatformFactory, SubscriptionFactory
from tests.factories.building import AUGUST, SEPTEMBER, RowFactory
from tests.factories.tenants import MemberFactory


class IncidentFactory(RowFactory):
    class Meta:
        model = models.Incident
        exclude = ("platform", "declarer")

    platform = factory.SubFactory(PlatformFactory)
    declarer = factory.SubFactory(MemberFactory)
    id = factory.Sequence(lambda n: f"inc_{n}")
    platform_id = factory.SelfAttribute("platform.id")
    title = "An outage"
    state = "declared"
    started_at = AUGUST
    impact_bp = 10_000
    declared_by = factory.SelfAttribute("declarer.id")
    declared_at = AUGUST
    promise_at = SEPTEMBER


class IncidentScopeFactory(RowFactory):
    """All agencies, unless `agency_id=` names one."""

    class Meta:
        model = models.IncidentScope
        exclude = ("incident",)

    incident = factory.SubFactory(IncidentFactory)
    incident_id = factory.SelfAttribute("incident.id")
    agency_id = 0
    platform_id = factory.SelfAttribute("incident.platform_id")
    impact_bp = factory.SelfAttribute("incident.impact_bp")
    during = factory.LazyAttribute(lambda it: Range(it.incident.started_at, it.incident.ended_at, bounds="[)"))


class RunFactory(RowFactory):
    class Meta:
        model = models.Run
        exclude = ("incident",)

    incident = factory.SubFactory(IncidentFactory)
    agency_id = 1
    id = factory.Sequence(lambda n: f"run_{n}")
    incident_id = factory.SelfAttribute("incident.id")
    no = factory.Sequence(lambda n: n + 1)
    purpose = "declare"
    state = "waiting"
    policy = "prorated"
    as_of = AUGUST
    fingerprint = "f" * 64
    started_by = factory.SelfAttribute("incident.declared_by")
    declared_by = factory.SelfAttribute("incident.declared_by")
    declared_at = AUGUST


class GrantFactory(RowFactory):
    """A refund of `amount`, of `invoice` in `run`."""

    class Meta:
        model = models.Grant
        exclude = ("run", "invoice")

    invoice = factory.SubFactory(InvoiceFactory)
    run = factory.SubFactory(RunFactory, agency_id=factory.SelfAttribute("..invoice.agency_id"))
    agency_id = factory.SelfAttribute("invoice.agency_id")
    run_id = factory.SelfAttribute("run.id")
    incident_id = factory.SelfAttribute("run.incident_id")
    invoice_id = factory.SelfAttribute("invoice.id")
    customer_id = factory.SelfAttribute("invoice.customer_id")
    subscription_id = factory.SelfAttribute("invoice.subscription_id")
    currency = factory.SelfAttribute("invoice.currency")
    channel = "refund"
    amount = 375
    refund = factory.LazyAttribute(lambda it: it.amount if it.channel == "refund" else 0)
    credit = factory.LazyAttribute(lambda it: it.amount if it.channel == "credit" else 0)
    reduce = factory.LazyAttribute(lambda it: it.amount if it.channel == "reduce" else 0)
    out_of_band = factory.LazyAttribute(lambda it: it.amount if it.channel == "manual" else 0)
    owed = factory.LazyAttribute(lambda it: f"{it.amount}/1")
    granted_before = 0
    basis_seq = 1
    state = "planned"


class StepFactory(RowFactory):
    """The credit note of `grant`."""

    class Meta:
        model = models.Step
        exclude = ("grant",)

    grant = factory.SubFactory(GrantFactory)
    agency_id = factory.SelfAttribute("grant.agency_id")
    grant_id = factory.SelfAttribute("grant.id")
    no = 1
    kind = "credit_note"
    currency = factory.SelfAttribute("grant.currency")
    amount = factory.SelfAttribute("grant.amount")
    refund = factory.SelfAttribute("grant.refund")
    state = "approved"
    stripe_account = ""


class PauseFactory(RowFactory):
    class Meta:
        model = models.Pause
        exclude = ("incident", "subscription")

    incident = factory.SubFactory(IncidentFactory)
    subscription = factory.SubFactory(SubscriptionFactory)
    agency_id = factory.SelfAttribute("subscription.agency_id")
    incident_id = factory.SelfAttribute("incident.id")
    subscription_id = factory.SelfAttribute("subscription.id")
    behavior = "keep_as_draft"
    state = "planned"
    renews_at = factory.SelfAttribute("subscription.renews_at")
