"""Customers who subscribe and pay in a sandbox, through Stripe's API alone; one approved run over what they paid."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from billing.models import Invoice, InvoiceLine, Payment, Subscription
from billing.outages.in_force import EVERYBODY
from billing.outages.models import Grant, GrantLine, Incident, IncidentScope, Pause, Run, RunTotal, Step
from sandbox.stripe.server import start_in_thread
from tenants.clock import SandboxClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import OPERATOR_AGENCY, Member
from tenants.settings import read

AUGUST = datetime(2019, 8, 1, tzinfo=UTC)
STARTED = datetime(2019, 8, 22, 20, tzinfo=UTC)
DECLARED = datetime(2019, 8, 26, 14, tzinfo=UTC)
KEY = "sk_test_shop"


@dataclass
class Shop:
    """A sandbox at `url` (or somebody in between), where one plan is sold for 31.00 USD a month.

    With an `account`, everything happens on that one, which is connected to the sandbox's own.
    """

    url: str
    account: str = ""
    customers: list[str] = field(default_factory=list)
    subscriptions: list[str] = field(default_factory=list)
    price: str = ""

    def post(self, path: str, **form: Any) -> Any:
        answer = requests.post(self.url + path, data=dict(_flat(form)), **self._signed())
        assert answer.ok, answer.text
        return answer.json()

    def get(self, path: str, **form: Any) -> Any:
        answer = requests.get(self.url + path, params=dict(_flat(form)), **self._signed())
        assert answer.ok, answer.text
        return answer.json()

    def delete(self, path: str) -> None:
        answer = requests.delete(self.url + path, **self._signed())
        assert answer.ok, answer.text

    def now(self, moment: datetime) -> None:
        """Time passes in the sandbox: renewals, finalization, collection, webhooks."""
        answer = requests.post(f"{self.url}/_sandbox/clock", json={"now": int(moment.timestamp())}, timeout=120)
        assert answer.ok, answer.text

    def ledger(self) -> Any:
        return requests.get(f"{self.url}/_sandbox/ledger", timeout=120).json()

    def _signed(self) -> dict[str, Any]:
        named = {"Stripe-Account": self.account} if self.account else {}
        return {"auth": (KEY, ""), "headers": named, "timeout": 30}

    def open(self, moment: datetime = AUGUST) -> "Shop":
        self.now(moment)
        product = self.post("/v1/products", name="Social Pro", metadata={"platform_weights": "facebook=10000"})
        price = {"product": product["id"], "currency": "usd", "unit_amount": 3_100, "recurring": {"interval": "month"}}
        self.price = self.post("/v1/prices", **price)["id"]
        return self

    def price_of(self, amount: int, weights: str, currency: str = "usd", **recurring: Any) -> str:
        """A price of a product of its own, with these platform weights; a month unless `recurring` says otherwise."""
        product = self.post("/v1/products", name=weights or "On its own", metadata={"platform_weights": weights})
        terms = {"recurring": {"interval": "month"} | recurring, "currency": currency, "unit_amount": amount}
        price: str = self.post("/v1/prices", product=product["id"], **terms)["id"]
        return price

    def sell(self, count: int, card: str = "pm_card_visa", **more: Any) -> list[str]:
        """New customers with that card, each with a subscription (`more` of it) that was paid at once: the invoices."""
        new = [self.post("/v1/customers", email="someone@example.com")["id"] for _ in range(count)]
        return self.sell_to(new, card, **more)

    def sell_to(self, customers: list[str], card: str = "pm_card_visa", **more: Any) -> list[str]:
        """The same for customers who are there."""
        invoices = []
        price = more.pop("price", self.price)
        for customer in customers:
            method = self.post(f"/v1/payment_methods/{card}/attach", customer=customer)["id"]
            self.post(f"/v1/customers/{customer}", invoice_settings={"default_payment_method": method})
            items = [{"price": price}]
            subscription = self.post("/v1/subscriptions", customer=customer, items=items, **more)
            self.customers.append(customer)
            self.subscriptions.append(subscription["id"])
            invoices.append(subscription["latest_invoice"])
        return invoices

    def subscription(self, id: str) -> Any:
        return self.get(f"/v1/subscriptions/{id}")

    def house(self, database: Database, url: str | None = None) -> House:
        environment = {"STRIPE_API_BASE": url or self.url, "STRIPE_SECRET_KEY": KEY, "CLOCK": "sandbox"}
        return House(read(environment), database, SandboxClock(self.url))


@contextmanager
def opened(moment: datetime = AUGUST) -> Iterator[Shop]:
    handle = start_in_thread()
    try:
        yield Shop(handle.url).open(moment)
    finally:
        handle.stop()


def declared(session: Session) -> Incident:
    """Facebook, since 22 August, declared on the 26th by finance; an approver is there too."""
    people = [Member(email=f"{name}@example.com", role=name) for name in ("finance", "approver")]
    session.add_all(people)
    session.flush()
    platform = session.execute(sa.text("SELECT id FROM platforms WHERE slug = 'facebook'")).scalar_one()
    incident = Incident(
        id="inc_1", platform_id=platform, title="", state="declared", started_at=STARTED, impact_bp=10_000,
        declared_by=people[0].id, declared_at=DECLARED, promise_at=DECLARED + timedelta(days=7),
    )  # fmt: skip
    session.add(incident)
    session.flush()
    during = Range(STARTED, None)
    session.add(
        IncidentScope(
            incident_id="inc_1", agency_id=EVERYBODY, platform_id=platform, impact_bp=10_000, during=during
        )
    )  # fmt: skip
    session.flush()
    return incident


def approved_run(session: Session, run_id: str = "run_1", purpose: str = "declare", approved: int = 10_000_000) -> None:
    finance, approver = (
        session.scalars(sa.select(Member.id).where(Member.role == role)).one() for role in ("finance", "approver")
    )
    session.add(
        Run(
            agency_id=OPERATOR_AGENCY, id=run_id, incident_id="inc_1", no=1 if purpose == "declare" else 2,
            purpose=purpose, state="running", policy="prorated", as_of=DECLARED, fingerprint="f", started_by=finance,
            declared_by=finance, declared_at=DECLARED, approval="person", approved_by=approver, approved_at=DECLARED,
            approved_fingerprint="f",
        )
    )  # fmt: skip
    session.flush()
    session.add(RunTotal(agency_id=OPERATOR_AGENCY, run_id=run_id, currency="usd", approved=approved))
    session.flush()


def grant(session: Session, invoice_id: str, run_id: str = "run_1", **parts: int) -> Grant:
    """A grant on one mirrored invoice, on its first line, with the steps that an approval would make."""
    invoice = session.scalars(sa.select(Invoice).where(Invoice.id == invoice_id)).one()
    line = session.scalars(sa.select(InvoiceLine).where(InvoiceLine.invoice_id == invoice_id)).first()
    assert line is not None
    amount = sum(parts.values())
    made = Grant(
        agency_id=OPERATOR_AGENCY, run_id=run_id, incident_id="inc_1", invoice_id=invoice_id,
        customer_id=invoice.customer_id, subscription_id=invoice.subscription_id,
        channel=max(parts, key=lambda name: parts[name]), currency=invoice.currency, amount=amount,
        owed=f"{amount}/1", granted_before=0, basis_seq=1, state="approved", **parts,
    )  # fmt: skip
    session.add(made)
    session.flush()
    session.add(
        GrantLine(
            agency_id=OPERATOR_AGENCY, grant_id=made.id, line_id=line.id, plan_id=line.plan_id, net=line.net,
            tax=line.tax, period_start=line.period_start, period_end=line.period_end, lost=1, owed=f"{amount}/1",
            amount=amount,
        )
    )  # fmt: skip
    refund = parts.get("refund", 0)
    payment = session.scalar(sa.select(Payment).where(Payment.invoice_id == invoice_id)) if refund else None
    session.add(
        Step(
            agency_id=OPERATOR_AGENCY, grant_id=made.id, no=1, kind="credit_note", currency=invoice.currency,
            amount=amount, refund=refund, state="approved", stripe_account="",
            payment_id=payment.id if payment else None,
            available=payment.captured - payment.elsewhere - payment.disputed if payment else None,
        )
    )  # fmt: skip
    session.flush()
    return made


def pause_all(session: Session) -> None:
    for subscription in session.scalars(sa.select(Subscription)).all():
        session.add(
            Pause(
                agency_id=subscription.agency_id, incident_id="inc_1", subscription_id=subscription.id,
                behavior="keep_as_draft", state="planned", renews_at=subscription.renews_at,
            )
        )  # fmt: skip
    session.flush()


def states(session: Session, table: Any) -> dict[str, int]:
    """How many rows are in each state."""
    return {row[0]: row[1] for row in session.execute(sa.select(table.state, sa.func.count()).group_by(table.state))}


def seen(database: Database, table: Any = Step) -> dict[str, int]:
    with database.work(OPERATOR) as session:
        return states(session, table)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    parts: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield name, str(value).lower() if isinstance(value, bool) else str(value)
        return
    for key, part in parts:
        yield from _flat(part, f"{name}[{key}]" if name else str(key))
