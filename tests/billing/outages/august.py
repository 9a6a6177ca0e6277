"""August 2019 in the mirror: a month of 744 hours, an outage that began 90 hours before the declaration.

90 h of 744 h is 15/124, so 31.00 for the month are 3.75 for the outage. That number is the measure of most tests here.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.models import Customer, Invoice, Plan, Platform
from billing.outages import approvals, incidents, planning, queries, steps
from billing.outages.models import Grant, Incident, Run, Step
from billing.outages.planning import Declaration
from tenants.db import OPERATOR, Database
from tenants.models import Agency, Member
from tests.factories import (
    AgencyFactory,
    CustomerFactory,
    MemberFactory,
    PlanFactory,
    PlatformFactory,
    building,
    paid_invoice,
    subscribed,
)


def at(day: int, hour: int = 0, minute: int = 0, month: int = 8) -> datetime:
    return datetime(2019, month, day, hour, minute, tzinfo=UTC)


STARTED, DECLARED, RESOLVED = at(22, 20), at(26, 14), at(30, 8)
FACEBOOK_IS_DOWN = Declaration("facebook", STARTED)


@dataclass
class August:
    """An agency with people and plans, and what can be done with them in a unit of work each."""

    db: Database
    agency: Agency = field(init=False)
    finance: Member = field(init=False)
    approver: Member = field(init=False)
    facebook: Platform = field(init=False)
    instagram: Platform = field(init=False)
    pages: Plan = field(init=False)
    """31.00 USD a month, all of it Facebook."""
    duo: Plan = field(init=False)
    """31.00 USD a month, three fifths Facebook and two fifths Instagram."""

    def __post_init__(self) -> None:
        with building(self.db):
            self.agency = AgencyFactory(slug="acme")
            self.finance = MemberFactory(email="finance@operator.example")
            self.approver = MemberFactory(email="approver@operator.example", role="approver")
            self.facebook, self.instagram = PlatformFactory(slug="facebook"), PlatformFactory(slug="instagram")
            self.pages = PlanFactory(id="price_pages", weights={self.facebook: 10_000})
            self.duo = PlanFactory(id="price_duo", weights={self.facebook: 6_000, self.instagram: 4_000})

    def customer(self, **of_customer: Any) -> Customer:
        return CustomerFactory(**{"agency": self.agency} | of_customer)

    def sell(self, plan: Plan | None = None, net: int = 3100, *, status: str = "active", **of_invoice: Any) -> Invoice:
        """A subscription and its invoice of August, paid unless `of_invoice` says otherwise. Inside `building`."""
        customer = self.customer()
        subscription = subscribed(customer, plan or self.pages, status=status)
        return paid_invoice(customer, plan or self.pages, net, subscription=subscription, **of_invoice)

    def preview(self, declaration: Declaration = FACEBOOK_IS_DOWN, now: datetime = DECLARED) -> planning.Plan:
        with self.db.work(OPERATOR) as session:
            return planning.with_grants(session, planning.preview(session, now, declaration))

    def declare(self, declaration: Declaration = FACEBOOK_IS_DOWN, now: datetime = DECLARED, **more: Any) -> str:
        with self.db.work(OPERATOR) as session:
            return incidents.declare(session, now, declaration, self.finance, "test", **more).id

    def approve(self, incident_id: str, fingerprint: str | None = None, by: Member | None = None) -> list[Run]:
        """As shown, unless a test has another fingerprint in mind."""
        shown = fingerprint or self.shown(incident_id)["fingerprint"]
        with self.db.work(OPERATOR) as session:
            return approvals.approve(session, DECLARED, incident_id, by or self.approver, shown, "test")

    def resolve(self, incident_id: str, now: datetime = RESOLVED, at: datetime | None = None) -> Incident:
        with self.db.work(OPERATOR) as session:
            return incidents.resolve(session, now, incident_id, self.finance, "test", at=at)

    def change(
        self, incident_id: str, now: datetime = RESOLVED, by: Member | None = None, reason: str = "", **wanted: Any
    ) -> Incident:
        with self.db.work(OPERATOR) as session:
            return incidents.change(
                session, now, incident_id, incidents.Change(**wanted), by or self.finance, "test",
                reason=reason or "The provider says so.",
            )  # fmt: skip

    def reopen(self, incident_id: str, now: datetime = RESOLVED, by: Member | None = None) -> Incident:
        with self.db.work(OPERATOR) as session:
            return incidents.reopen(session, now, incident_id, by or self.finance, "test")

    def retract(self, incident_id: str, now: datetime = RESOLVED, reason: str = "It was our own fault.") -> Incident:
        with self.db.work(OPERATOR) as session:
            return incidents.retract(session, now, incident_id, self.finance, "test", reason=reason)

    def give_back(self, incident_id: str) -> dict[str, int]:
        """Approve what waits, if anything does, as if all of it had been sent: what that run gave, by invoice."""
        if self.shown(incident_id)["fingerprint"] is None:
            return {}
        run_ids = [run.id for run in self.approve(incident_id)]
        with self.db.work(OPERATOR) as session:
            approved_and_sent(session, incident_id)
            return dict(
                session.execute(sa.select(Grant.invoice_id, Grant.amount).where(Grant.run_id.in_(run_ids))).all()
            )

    def goodwill(self, incident_id: str) -> dict[str, int]:
        return dict(self.rows("SELECT invoice_id, amount FROM goodwill WHERE incident_id = :id", id=incident_id))

    def shown(self, incident_id: str) -> dict[str, Any]:
        with self.db.work(OPERATOR) as session:
            return queries.shown(session, incident_id)

    def grants(self, incident_id: str) -> dict[str, Grant]:
        """The grants of the incident's runs that stand, by invoice."""
        with self.db.work(OPERATOR) as session:
            found = sa.select(Grant).where(Grant.incident_id == incident_id, Grant.state != "cancelled")
            return {grant.invoice_id: grant for grant in session.scalars(found.order_by(Grant.id))}

    def rows(self, statement: str, **told: Any) -> list[Any]:
        with self.db.work(OPERATOR) as session:
            return list(session.execute(sa.text(statement), told))


def parts(grant: Grant) -> dict[str, int]:
    """The ways that a grant takes, those it does not take left out."""
    ways = {name: getattr(grant, name) for name in ("refund", "credit", "reduce", "out_of_band")}
    return {name: amount for name, amount in ways.items() if amount}


def approved_and_sent(session: Session, incident_id: str) -> None:
    """As if everything approved had been sent and had succeeded."""
    for step in _approved_steps(session, incident_id):
        begun(session, step)
        steps.move(session, step, steps.Move("succeeded", stripe_id=f"cn_{step.id}"))
    steps.finish(session)


def begun(session: Session, step: Step) -> None:
    """As if a worker had committed its attempt, and was calling Stripe now."""
    steps.reserve(session, step)
    step.body, step.first_sent_at = "{}", sa.func.clock_timestamp()
    session.flush()
    session.refresh(step)
    steps.move(session, step, steps.Move("sent"))


def _approved_steps(session: Session, incident_id: str) -> list[Step]:
    of_incident = sa.select(Grant.id).where(Grant.incident_id == incident_id)
    found = sa.select(Step).where(Step.grant_id.in_(of_incident), Step.state == "approved").order_by(Step.id)
    return list(session.scalars(found.execution_options(populate_existing=True)))
