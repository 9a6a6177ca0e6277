"""Whose an object is: the agency of its customer, by the Stripe account it stands in or the customer's metadata."""

from collections.abc import Collection, Iterable

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from billing.errors import Conflict, NotFound
from billing.facts import CustomerFact, DisputeFact, RefundFact
from billing.models import Customer, Payment, Plan
from billing.upserts import text_array
from tenants import audit
from tenants.models import OPERATOR_AGENCY, Agency

MOVE = sa.text(
    """
    WITH moved AS (UPDATE customers SET agency_id = :to WHERE agency_id = :from AND id = :customer RETURNING id),
    subs AS (UPDATE subscriptions SET agency_id = :to WHERE agency_id = :from AND customer_id = :customer RETURNING id),
    bills AS (UPDATE invoices SET agency_id = :to WHERE agency_id = :from AND customer_id = :customer RETURNING id),
    items AS (UPDATE subscription_items SET agency_id = :to FROM subscriptions s
        WHERE s.agency_id = :from AND s.customer_id = :customer
        AND subscription_items.agency_id = :from AND subscription_items.subscription_id = s.id),
    lines AS (UPDATE invoice_lines SET agency_id = :to FROM invoices i
        WHERE i.agency_id = :from AND i.customer_id = :customer
        AND invoice_lines.agency_id = :from AND invoice_lines.invoice_id = i.id),
    refunded AS (UPDATE refunds SET agency_id = :to FROM payments p JOIN invoices i ON i.id = p.invoice_id
        WHERE i.agency_id = :from AND i.customer_id = :customer AND p.agency_id = :from
        AND refunds.agency_id = :from AND (refunds.payment_intent = p.payment_intent OR refunds.charge = p.charge)),
    disputed AS (UPDATE disputes SET agency_id = :to FROM payments p JOIN invoices i ON i.id = p.invoice_id
        WHERE i.agency_id = :from AND i.customer_id = :customer AND p.agency_id = :from
        AND disputes.agency_id = :from AND (disputes.payment_intent = p.payment_intent OR disputes.charge = p.charge)),
    paid AS (UPDATE payments SET agency_id = :to FROM invoices i
        WHERE i.agency_id = :from AND i.customer_id = :customer
        AND payments.agency_id = :from AND payments.invoice_id = i.id),
    notes AS (UPDATE credit_notes SET agency_id = :to WHERE agency_id = :from AND customer_id = :customer),
    entries AS (UPDATE balance_entries SET agency_id = :to WHERE agency_id = :from AND customer_id = :customer)
    SELECT count(*) FROM moved
    """
)


class Homes:
    """The agencies that customers of one Stripe account can belong to."""

    def __init__(self, session: Session, account: str, only: int | None = None) -> None:
        """Raises `NotFound` for an account that no agency has; '' is the operator's. `only` is the one agency that is
        in question, where that is known."""
        self.by_slug: dict[str, int] = {}
        self.default = OPERATOR_AGENCY if only is None else only
        if only is not None:
            return
        if account == "":
            own_account = Agency.stripe_account.is_(None)  # the others' customers are in their own accounts
            found = session.execute(sa.select(Agency.slug, Agency.id).where(own_account))
            self.by_slug = dict(found.all())
            return
        agency = session.scalar(sa.select(Agency.id).where(Agency.stripe_account == account))
        if agency is None:
            raise NotFound(f"No agency has the Stripe account {account}: make one with `flask agencies create`.")
        self.default = agency

    @property
    def shared(self) -> bool:
        """Whether customers say in their metadata whose they are."""
        return bool(self.by_slug)

    def unknown(self, customer: CustomerFact) -> bool:
        return self.shared and customer.agency is not None and customer.agency not in self.by_slug

    def of(self, customer: CustomerFact) -> int:
        return self.by_slug.get(customer.agency or "", self.default)


def is_of(
    agency_id: InstrumentedAttribute[int] | InstrumentedAttribute[int | None], account: str
) -> sa.ColumnElement[bool]:
    """In a query: that the row's agency bills in this Stripe account."""
    of_account = sa.func.coalesce(Agency.stripe_account, "") == account
    return agency_id.in_(sa.select(Agency.id).where(of_account))


def is_sold_in(account: str) -> sa.ColumnElement[bool]:
    """In a query: that a Plan is of this Stripe account. Merchants chose the ids of older ones, as `gold`."""
    return is_of(Plan.agency_id, account) if account else Plan.agency_id.is_(None)


def customer_called(session: Session, name: str) -> Customer:
    """By its id; by `agency/id`, where two agencies have one of it.

    Raises `NotFound`, and `Conflict` where it is not said whose is meant.
    """
    slug, _, id = name.rpartition("/")
    named = sa.select(Agency.slug, Customer).join(Agency, Agency.id == Customer.agency_id).where(Customer.id == id)
    found = session.execute(named.order_by(Agency.slug)).all()
    theirs = [customer for whose, customer in found if slug in ("", whose)]
    if not theirs:
        raise NotFound(f"There is no customer {name[:80]}. If Stripe has them, run `flask stripe import`.")
    if len(theirs) > 1:
        each = " or ".join(f"{whose}/{id}" for whose, _ in found)
        raise Conflict(f"{len(found)} agencies have a customer {id}: write {each}.")
    return theirs[0]


def owners_of_customers(session: Session, account: str, ids: Collection[str]) -> dict[str, int]:
    """Which agency each customer belongs to that is known in this account.

    Stripe copies customers from one account to another under the same id, and each of the two is somebody else's:
    https://docs.stripe.com/get-started/data-migrations/pan-copy-self-serve
    """
    named = sa.select(Customer.id, Customer.agency_id).where(Customer.id == sa.any_(text_array(ids)))
    return dict(session.execute(named.where(is_of(Customer.agency_id, account))).all())


def owners_of_payments(session: Session, facts: Iterable[RefundFact | DisputeFact]) -> dict[str, int]:
    """Which agency each known payment intent and each charge of `facts` belongs to."""
    facts = list(facts)
    owners: dict[str, int] = {}
    for column, ids in (
        (Payment.payment_intent, {fact.payment_intent for fact in facts if fact.payment_intent}),
        (Payment.charge, {fact.charge for fact in facts if fact.charge}),
    ):
        found = session.execute(sa.select(column, Payment.agency_id).where(column == sa.any_(text_array(ids))))
        owners.update((id, agency) for id, agency in found if id)
    return owners


def move(session: Session, customer: str, owner: int, to: int) -> bool:
    """Give a customer and all it has to another agency. False, and nothing happened, once an incident touched it."""
    try:
        with session.begin_nested():
            session.execute(MOVE, {"customer": customer, "from": owner, "to": to})
    except IntegrityError:  # a pause or a grant names its subscription or invoice, under the agency that it had
        return False
    was, now = {"agency": owner}, {"agency": to}
    audit.record(session, "engine", "stripe", "customer.moved", customer, agency_id=to, before=was, after=now)
    return True
