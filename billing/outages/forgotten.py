"""Balance entries of ours that no step may remember. Stripe lists them by customer only: of which customers, then?"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import gateway
from billing.answers import Gone
from billing.facts import BalanceEntryFact
from billing.models import BalanceEntry, Invoice
from billing.outages.models import Grant, Step
from billing.owners import is_of
from billing.reads import CUSTOMER, INVOICE
from billing.rows import step_of
from tenants.db import OPERATOR
from tenants.house import House


def entries(
    house: House, connection: gateway.Gateway, since: datetime, followed_to: datetime | None
) -> Iterator[BalanceEntryFact]:
    """What says it is ours among the entries of every customer who may have one that no step has.

    An entry is on the balance still, or an invoice has spent it. The mirror has each invoice that was finalized after
    `followed_to`; None: it does not, and Stripe is asked for those made after `since`.
    """
    with house.database.work(OPERATOR) as session:
        customers = _waited_for(session, connection.account) | _without_step(session, connection.account)
        accounted = _accounted_for(session, connection.account)
        if followed_to is not None:
            customers |= _have_spent(session, connection.account, followed_to)
    if followed_to is None:
        invoices = connection.every(replace(INVOICE, expand=()), created_from=since)
        customers |= {one.customer_id for one in invoices if one.starting_balance != one.ending_balance}
    for customer in connection.every(CUSTOMER):
        if not customer.deleted and customer.balance != accounted.get(customer.id, 0):
            customers.add(customer.id)
    for id in sorted(customers):
        with suppress(Gone):  # deleted since, with its balance
            found = connection.balance_entries(id)
            yield from (one for one in found if step_of(one.metadata, gateway.engine(house)) is not None)


def _waited_for(session: Session, account: str) -> set[str]:
    """Customers of steps that have no entry yet."""
    its_grant = sa.and_(Step.agency_id == Grant.agency_id, Step.grant_id == Grant.id)
    waiting = sa.and_(Step.kind == "balance", Step.stripe_id.is_(None), Step.stripe_account == account)
    return set(session.scalars(sa.select(Grant.customer_id).join(Step, its_grant).where(waiting)))


def _without_step(session: Session, account: str) -> set[str]:
    """Customers of entries that the mirror has, that say they are ours, and that no step has made."""
    has_made = sa.exists().where(Step.id == BalanceEntry.step_id, Step.stripe_id == BalanceEntry.id)
    odd = sa.and_(BalanceEntry.step_id.is_not(None), ~has_made)
    return set(session.scalars(sa.select(BalanceEntry.customer_id).where(odd, is_of(BalanceEntry.agency_id, account))))


def _accounted_for(session: Session, account: str) -> dict[str, int]:
    """What the entries that the mirror has come to, by customer."""
    balance = sa.select(BalanceEntry.customer_id, sa.cast(sa.func.sum(BalanceEntry.amount), sa.BigInteger))
    mirrored = balance.where(is_of(BalanceEntry.agency_id, account)).group_by(BalanceEntry.customer_id)
    return dict(session.execute(mirrored).all())


def _have_spent(session: Session, account: str, since: datetime) -> set[str]:
    spent = sa.and_(Invoice.starting_balance != Invoice.ending_balance, Invoice.finalized_at >= since)
    return set(session.scalars(sa.select(Invoice.customer_id).where(spent, is_of(Invoice.agency_id, account))))
