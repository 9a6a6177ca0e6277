"""August 2019 with two customers who can be written to, a house with a mail server, and what happens to them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import sqlalchemy as sa

from billing.models import Customer, Subscription
from billing.outages.messages import composing, sending
from billing.outages.messages.models import Message
from billing.outages.models import Grant, Pause, Update
from tenants.clock import FixedClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.billing.outages.august import DECLARED, August
from tests.billing.outages.messages.mailroom import Mailroom, open_mailroom
from tests.factories import CustomerFactory, building, paid_invoice, subscribed
from tests.web import house_of

CORNER, QUIET = "corner@bakery.example", "quiet@cafe.example"


@dataclass
class Post:
    """What the engine does and its worker tells, one step at a time."""

    august: August
    house: House
    room: Mailroom

    @property
    def db(self) -> Database:
        return self.house.database

    def compose(self) -> None:
        while composing.compose_due(self.house):
            pass

    def deliver(self) -> None:
        """Everything that is final is told, and everything that is due leaves."""
        self.compose()
        while sending.send_due(self.house):
            pass

    def paused(self, incident_id: str) -> None:
        """As if Stripe had confirmed every planned pause."""
        self.set_all(Pause, Pause.incident_id == incident_id, state="held", held_at=sa.func.now())

    def released(self, incident_id: str, *subscriptions: str) -> None:
        which = [Pause.incident_id == incident_id, Pause.state == "held"]
        if subscriptions:
            which.append(Pause.subscription_id.in_(subscriptions))
        self.set_all(Pause, *which, state="released", released_at=sa.func.now())

    def granted(self, incident_id: str, state: str = "succeeded") -> None:
        """As if every approved grant had come that far."""
        self.set_all(
            Grant, Grant.incident_id == incident_id, Grant.state == "approved", state=state, settled_at=sa.func.now()
        )

    def fell_back(self, grant: Grant, amount: int, *, by_credit: bool, state: str) -> int:
        """As if the refund of `amount` had come back and another way had been found for it: the id of that grant."""
        with self.db.work(OPERATOR) as session:
            failed = session.scalars(sa.select(Grant).where(Grant.id == grant.id).with_for_update()).one()
            if amount == failed.amount:
                failed.state = "failed"
            else:
                failed.amount, failed.refund = failed.amount - amount, failed.refund - amount
            other = Grant(
                agency_id=grant.agency_id, run_id=grant.run_id, incident_id=grant.incident_id,
                invoice_id=grant.invoice_id, customer_id=grant.customer_id, subscription_id=grant.subscription_id,
                channel="credit" if by_credit else "manual", currency=grant.currency, amount=amount,
                credit=amount if by_credit else 0, out_of_band=0 if by_credit else amount, owed=grant.owed,
                granted_before=0, basis_seq=grant.basis_seq, state=state, fallback_of=grant.id,
            )  # fmt: skip
            session.add(other)
            session.flush()
            return other.id

    def set_all(self, table: type, *which: object, **values: object) -> None:
        with self.db.work(OPERATOR) as session:
            session.execute(
                sa.update(table).where(*which).values(**values).execution_options(synchronize_session=False)  # type: ignore[arg-type]
            )

    def publish(self, incident_id: str, body: str) -> int:
        with self.db.work(OPERATOR) as session:
            update = Update(
                incident_id=incident_id, state="declared", body=body, published_by=self.august.finance.id,
                published_at=DECLARED,
            )  # fmt: skip
            session.add(update)
            session.flush()
            return update.id

    def due_now(self) -> None:
        """Time passes: whatever waits for its next attempt is due, and every lease has run out."""
        with self.db.work(OPERATOR) as session:
            session.execute(sa.text("UPDATE messages SET due_at = now() - interval '1 second', lease_until = NULL"))

    def messages(self) -> list[tuple[str, str, str]]:
        """(kind, customer, state) in their order."""
        with self.db.work(OPERATOR) as session:
            found = session.execute(sa.select(Message.kind, Message.customer_id, Message.state).order_by(Message.id))
            return [tuple(row) for row in found]  # type: ignore[misc]

    def states(self, kind: str) -> list[str]:
        return [state for of, _customer, state in self.messages() if of == kind]


@pytest.fixture
def post(db: Database) -> Iterator[Post]:
    """Corner Bakery and Quiet Café paid 31.00 each for August on a plan that lives on Facebook alone."""
    august = August(db)
    with building(db):
        for name, shown, email in (("corner", "Corner Bakery", CORNER), ("quiet", "Quiet Café", QUIET)):
            customer = CustomerFactory(agency=august.agency, id=f"cus_{name}", name=shown, email=email)
            subscription = subscribed(customer, august.pages, id=f"sub_{name}")
            paid_invoice(customer, august.pages, subscription=subscription, id=f"in_{name}", number=f"N-{name}")
    with open_mailroom() as (room, url):
        house = house_of(db, clock=FixedClock(DECLARED), public_url="https://billing.example.com")
        yield Post(august, replace(house, settings=replace(house.settings, smtp_url=url)), room)


@pytest.fixture
def incident(post: Post) -> str:
    """Declared on Monday; every pause stands in Stripe."""
    made = post.august.declare()
    post.paused(made)
    return made


@pytest.fixture
def refunded(post: Post, incident: str) -> str:
    """Approved, and every refund has succeeded."""
    post.august.approve(incident)
    post.granted(incident)
    return incident


def second_subscription(post: Post, customer_id: str, id: str) -> Subscription:
    """Another one of the same customer, on the same plan."""
    with building(post.db) as session:
        customer = session.query(Customer).filter_by(id=customer_id).one()
        return subscribed(customer, post.august.pages, id=id)
