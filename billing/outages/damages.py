"""The register of what an outage cost customers beyond the time they had paid for, as they reported it.

Nothing is paid because of an entry: it is evidence for the claim against whoever caused the outage.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import BadRequest, Conflict, NotAllowed
from billing.models import Customer
from billing.money import Money, exponent
from billing.outages.models import ReportedDamage
from billing.outages.queries import find
from billing.owners import customer_called
from billing.windows import iso
from tenants import audit, currencies
from tenants.models import Member

LONGEST = 1_000
LARGEST = 10**12
"""Smallest units: more than that is a slip of the finger."""


def report(
    session: Session,
    now: datetime,
    incident_id: str,
    customer_id: str,
    loss: Money,
    what: str,
    by: Member,
    origin: str,
    *,
    form: str | None = None,
) -> ReportedDamage:
    """Enter what a customer says it lost. `loss` in smallest units.

    Safe to run any number of times with the same token of a `form`: it is entered once. Raises `NotFound` for an
    incident or customer that is not there, `BadRequest` for an amount or text that cannot be, `Conflict` for a form
    that has entered another loss, and `NotAllowed` for whoever is neither the operator's finance nor that of the
    customer's agency.
    """
    incident = find(session, incident_id)
    customer = customer_called(session, customer_id)
    if by.role != "finance" and not (by.role == "agency-finance" and by.agency_id == customer.agency_id):
        raise NotAllowed(f"{by.email} is {by.role}: what customers lost is entered by the operator's finance.")
    what = " ".join(what.split())
    if not 0 < loss.amount <= LARGEST:
        raise BadRequest("The loss is a positive amount in the currency's smallest unit, e.g. 4500 for 45.00 USD.")
    if not what or len(what) > LONGEST or not what.isprintable():
        raise BadRequest(f"Say in 1 to {LONGEST:,} printable characters what was lost.")
    if form:
        session.refresh(incident, with_for_update={"key_share": True})  # the same form may be sent twice at once
        if (before := session.scalar(sa.select(ReportedDamage).where(ReportedDamage.form == form))) is not None:
            if (before.incident_id, before.customer_id, before.what, Money(before.amount, before.currency)) != (
                incident.id, customer.id, what, loss,
            ):  # fmt: skip
                raise Conflict("This form has entered a loss already: open the report again to enter another.")
            return before
    entry = ReportedDamage(
        agency_id=customer.agency_id, incident_id=incident.id, customer_id=customer.id, currency=loss.currency,
        amount=loss.amount, what=what, reported_by=by.email, reported_at=now, form=form,
    )  # fmt: skip
    session.add(entry)
    session.flush()
    audit.record(
        session, by.email, origin, "damage.reported", incident.id, agency_id=customer.agency_id,
        after={"id": entry.id, "customer": customer.id, "amount": loss.amount, "currency": loss.currency},
    )  # fmt: skip
    return entry


def reported(session: Session, incident_id: str) -> list[dict[str, Any]]:
    """Every entry of an incident in sight, oldest first."""
    rows = session.execute(
        sa.select(ReportedDamage, Customer.name)
        .join(
            Customer,
            sa.and_(Customer.agency_id == ReportedDamage.agency_id, Customer.id == ReportedDamage.customer_id),
        )
        .where(ReportedDamage.incident_id == incident_id)
        .order_by(ReportedDamage.reported_at, ReportedDamage.id)
    )
    return [
        {
            "id": entry.id, "customer": entry.customer_id, "customer_name": name, "currency": entry.currency,
            "amount": entry.amount, "what": entry.what, "reported_by": entry.reported_by,
            "reported_at": iso(entry.reported_at),
        }
        for entry, name in rows
    ]  # fmt: skip


def currency_called(text: str) -> str:
    """Raises `BadRequest` for what is none."""
    currency = text.strip().lower()
    if not currencies.is_currency(currency):
        raise BadRequest(f"{text[:20]!r} is no currency: name it by its three letters, e.g. usd.")
    return currency


def read_amount(text: str, currency: str) -> Money:
    """`45.00` as a person writes it in a form, in that currency; raises `BadRequest` where it could mean two things."""
    places = exponent(currency)
    example = f"45{'.' + '0' * places if places else ''}"
    whole, point, rest = text.strip().partition(".")
    if not (whole.isascii() and whole.isdigit() and len(whole) <= 12) or (
        point and not (rest.isascii() and rest.isdigit())
    ):
        raise BadRequest(f"Write the amount like {example}: digits, with a point before the decimals.")
    if len(rest) > places:
        raise BadRequest(f"{currency.upper()} has {places} decimals: write the amount like {example}.")
    return Money(int(whole) * 10**places + int(rest.ljust(places, "0") or 0), currency)
