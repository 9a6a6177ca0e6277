"""Rows of one approved run, made straight in the tables, for tests of what happens after the approval."""

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import Range
from sqlalchemy.orm import Session

from billing.models import Customer, Invoice, InvoiceLine, Payment, Plan, Platform, Subscription
from billing.outages import due
from billing.outages.in_force import EVERYBODY
from billing.outages.models import Grant, GrantLine, HeldInvoice, Incident, IncidentScope, Pause, Run, RunTotal, Step
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Agency, Member
from tenants.settings import read
from tests.billing import stripe_json as made
from tests.billing.outages.small_stripe import SmallStripe

STARTED = datetime(2019, 8, 22, 20, tzinfo=UTC)
DECLARED = datetime(2019, 8, 26, 14, tzinfo=UTC)


def house_at(url: str, database: Database) -> House:
    """A house whose Stripe is at `url`, on the day of the story."""
    settings = read({"DATABASE_URL": "postgresql:///unused", "STRIPE_API_BASE": url, "STRIPE_SECRET_KEY": "sk_test_1"})
    return House(settings=settings, database=database, clock=FixedClock(DECLARED))


@dataclass
class Approved:
    """One agency with one incident, one approved and running run, and as many grants as a test adds."""

    database: Database
    stripe: SmallStripe
    incident_id: str = "inc_1"
    agency_id: int = 0
    run_id: str = "run_1"
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def begin(self, *, fall_back: bool = True, approved: int = 1_000_000, account: str | None = None) -> "Approved":
        with self.database.work(OPERATOR) as session:
            agency = Agency(slug="acme", name="Acme", fall_back_to_credit=fall_back, stripe_account=account)
            people = [Member(email=f"{name}@example.com", role=name) for name in ("finance", "approver")]
            session.add_all([agency, *people])
            session.flush()
            self.agency_id = agency.id
            platform = session.scalars(sa.select(Platform.id).where(Platform.slug == "facebook")).one()
            session.add(
                Incident(
                    id=self.incident_id, platform_id=platform, title="", state="declared", started_at=STARTED,
                    impact_bp=10_000, declared_by=people[0].id, declared_at=DECLARED,
                    promise_at=DECLARED + timedelta(days=7),
                )
            )  # fmt: skip
            session.flush()
            session.add(
                IncidentScope(
                    incident_id=self.incident_id, agency_id=EVERYBODY, platform_id=platform, impact_bp=10_000,
                    during=Range(STARTED, None),
                )
            )  # fmt: skip
            self.add_run(session, self.run_id, people[0].id, people[1].id, approved)
        return self

    def add_run(self, session: Session, run_id: str, finance: int, approver: int, approved: int) -> None:
        session.add(
            Run(
                agency_id=self.agency_id, id=run_id, incident_id=self.incident_id, no=next(self.numbers),
                purpose="declare", state="running", policy="prorated", as_of=DECLARED, fingerprint="f",
                started_by=finance, declared_by=finance, declared_at=DECLARED, approval="person",
                approved_by=approver, approved_at=DECLARED, approved_fingerprint="f",
            )
        )  # fmt: skip
        session.flush()
        session.add(RunTotal(agency_id=self.agency_id, run_id=run_id, currency="usd", approved=approved))

    def customer(self, session: Session, status: str = "active") -> int:
        n = next(self.numbers)
        session.add(Customer(agency_id=self.agency_id, id=f"cus_{n}", created_at=STARTED))
        session.flush()
        session.add(
            Subscription(
                agency_id=self.agency_id, id=f"sub_{n}", customer_id=f"cus_{n}", status=status, currency="usd",
                collection_method="charge_automatically", cancel_at_period_end=False, created_at=STARTED,
                renews_at=DECLARED + timedelta(days=n),
            )
        )  # fmt: skip
        self.stripe.subscriptions[f"sub_{n}"] = made.subscription(id=f"sub_{n}", customer=f"cus_{n}", status=status)
        session.flush()
        return n

    def invoice(self, session: Session, n: int, total: int, payments: tuple[int, ...], status: str = "paid") -> str:
        """An invoice of one line over `total`, with the payments (in smallest units) that paid it."""
        if session.scalar(sa.select(Plan.id).where(Plan.id == "price_1")) is None:
            session.add(
                Plan(id="price_1", product_id="prod_1", name="Social Pro", currency="usd", metered=False, active=True,
                     created_at=STARTED)
            )  # fmt: skip
        due = total - sum(payments)
        session.add(
            Invoice(
                agency_id=self.agency_id, id=f"in_{n}", customer_id=f"cus_{n}", subscription_id=f"sub_{n}",
                status=status, currency="usd", billing_reason="subscription_cycle",
                collection_method="charge_automatically", auto_advance=False, automatic_tax=False, subtotal=total,
                total=total, amount_due=total, amount_paid=sum(payments), amount_remaining=due, paid_off_stripe=0,
                starting_balance=0, ending_balance=0, pre_payment_credited=0, post_payment_credited=0,
                created_at=STARTED,
            )
        )  # fmt: skip
        session.flush()
        session.add(
            InvoiceLine(
                agency_id=self.agency_id, id=f"il_{n}", invoice_id=f"in_{n}", position=0, subscription_id=f"sub_{n}",
                plan_id="price_1", quantity=1, amount=total, discount=0, net=total, tax=0, period_start=STARTED,
                period_end=STARTED + timedelta(days=31), proration=False, metered=False,
            )
        )  # fmt: skip
        lines = made.listed(made.line(id=f"il_{n}", amount=total, invoice=f"in_{n}", subscription=f"sub_{n}"))
        paid = []
        for no, captured in enumerate(payments, 1):
            session.add(
                Payment(
                    agency_id=self.agency_id, id=f"inpay_{n}_{no}", invoice_id=f"in_{n}",
                    payment_intent=f"pi_{n}_{no}", charge=f"ch_{n}_{no}", currency="usd", status="paid",
                    captured=captured,
                )
            )  # fmt: skip
            self.stripe.captured[f"pi_{n}_{no}"] = captured
            paid.append(
                made.payment(
                    id=f"inpay_{n}_{no}", invoice=f"in_{n}", amount_paid=captured, amount_requested=captured,
                    payment={"type": "payment_intent", "payment_intent": f"pi_{n}_{no}"},
                )
            )  # fmt: skip
        self.stripe.invoices[f"in_{n}"] = made.invoice(
            id=f"in_{n}", customer=f"cus_{n}", status=status, total=total, subtotal=total, amount_due=total,
            amount_paid=sum(payments), amount_remaining=due, lines=lines, payments=made.listed(*paid),
            parent={"type": "subscription_details",
                    "subscription_details": {"subscription": f"sub_{n}", "metadata": {}}},
        ) | {"payment_intent_of_test": f"pi_{n}_1"}  # fmt: skip
        session.flush()
        return f"in_{n}"

    def grant(self, session: Session, n: int, **parts: int) -> Grant:
        amount = sum(parts.values())
        grant = Grant(
            agency_id=self.agency_id, run_id=self.run_id, incident_id=self.incident_id, invoice_id=f"in_{n}",
            customer_id=f"cus_{n}", subscription_id=f"sub_{n}",
            channel=max(parts, key=lambda name: parts[name]).replace("out_of_band", "manual"), currency="usd",
            amount=amount, owed=f"{amount}/1", granted_before=0, basis_seq=1, state="approved", **parts,
        )  # fmt: skip
        session.add(grant)
        session.flush()
        session.add(
            GrantLine(
                agency_id=self.agency_id, grant_id=grant.id, line_id=f"il_{n}", plan_id="price_1", net=amount, tax=0,
                period_start=STARTED, period_end=STARTED + timedelta(days=31), lost=1, owed=f"{amount}/1",
                amount=amount,
            )
        )  # fmt: skip
        return grant

    def step(self, session: Session, grant: Grant, **fields: Any) -> Step:
        step = Step(
            **{
                "agency_id": self.agency_id, "grant_id": grant.id, "no": 1, "kind": "credit_note", "currency": "usd",
                "amount": grant.amount, "refund": grant.refund, "state": "approved", "stripe_account": "",
            } | fields
        )  # fmt: skip
        session.add(step)
        session.flush()
        return step

    def refund_of(self, amount: int, *, captured: int = 5_800, status: str = "active") -> int:
        """The usual: one paid invoice, one payment, one note with one refund. Returns the step's id."""
        with self.database.work(OPERATOR) as session:
            n = self.customer(session, status)
            self.invoice(session, n, captured, (captured,))
            grant = self.grant(session, n, refund=amount)
            return self.step(session, grant, payment_id=f"inpay_{n}_1", available=captured).id

    def refund_over(self, *amounts: tuple[int, int], **others: int) -> tuple[list[int], int]:
        """Several payments, (captured, refund) each: a refund step for each and the note that links them, which gives
        the `others` itself."""
        with self.database.work(OPERATOR) as session:
            n = self.customer(session)
            captured = tuple(taken for taken, _ in amounts)
            self.invoice(session, n, sum(captured), captured)
            grant = self.grant(session, n, refund=sum(back for _, back in amounts), **others)
            steps = [
                self.step(session, grant, no=no, kind="refund", amount=back, refund=back, available=taken,
                          payment_id=f"inpay_{n}_{no}").id
                for no, (taken, back) in enumerate(amounts, 1)
            ]  # fmt: skip
            note = self.step(session, grant, no=len(amounts) + 1, refund=0)
            return steps, note.id

    def pause(self, session: Session, n: int, **fields: Any) -> Pause:
        pause = Pause(
            **{
                "agency_id": self.agency_id, "incident_id": self.incident_id, "subscription_id": f"sub_{n}",
                "behavior": "keep_as_draft", "state": "planned", "renews_at": DECLARED + timedelta(days=n),
            } | fields
        )  # fmt: skip
        session.add(pause)
        session.flush()
        return pause

    def held(self, session: Session, n: int, pause: Pause, **fields: Any) -> None:
        session.add(
            HeldInvoice(
                **{
                    "agency_id": self.agency_id, "invoice_id": f"in_{n}", "pause_id": pause.id, "kind": "open",
                    "found_auto_advance": True, "state": "planned",
                } | fields
            )
        )  # fmt: skip
        session.flush()

    def seen(self, table: Any, id: Any) -> Any:
        """One row as it is now."""
        with self.database.work(OPERATOR) as session:
            return session.scalars(sa.select(table).where(table.id == id)).one()

    def due_in(self) -> timedelta | None:
        """How long until whoever looks finds something due, below 0 where it has been for so long; None: never."""
        with self.database.work(OPERATOR) as session:
            oldest, now = session.execute(due.oldest()).one()
        return None if oldest is None else oldest - now

    def due_now(self) -> None:
        """Time passes: everything that waits is due."""
        with self.database.work(OPERATOR) as session:
            for table in (Step, Pause, HeldInvoice):
                session.execute(sa.update(table).values(due_at=sa.func.now() - timedelta(seconds=1)))

    def ago(self, how_long: timedelta) -> None:
        """Time passes: everything that was sent was sent that much earlier."""
        with self.database.work(OPERATOR) as session:
            session.execute(sa.update(Step).values(first_sent_at=Step.first_sent_at - how_long))
            session.execute(sa.text("UPDATE attempts SET sent_at = sent_at - :ago, ended_at = ended_at - :ago"),
                            {"ago": how_long})  # fmt: skip
        self.due_now()
