"""Who reads a customer's pages, letters and papers: which language tag, and whose clock."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import locales
from billing.locales import Reader
from billing.models import Customer
from tenants.models import Agency


def reader_of(session: Session, agency_id: int, customer_id: str) -> Reader:
    """How this customer reads amounts and times: in its own locale, else the agency's, on the agency's clock."""
    own, agencys, zone = session.execute(
        sa.select(Customer.locale, Agency.locale, Agency.time_zone)
        .join(Agency, Agency.id == Customer.agency_id)
        .where(Customer.agency_id == agency_id, Customer.id == customer_id)
    ).one()
    return reader(own, agencys, zone)


def reader(own: str | None, agencys: str, zone: str) -> Reader:
    """Out of the customer's own locale, if there is one, and the agency's locale and time zone."""
    return Reader(locales.known(own) or agencys, zone)
