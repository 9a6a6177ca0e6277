"""`/portal/choices`: a customer says what an outage is to give them, while their agency lets them choose."""

import sqlalchemy as sa
from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from billing import formats, readers
from billing.locales import Reader
from billing.models import Customer
from billing.outages import choices
from tenants import access
from tenants.db import Scope
from tenants.models import Agency

blueprint = Blueprint("customers", __name__, template_folder="templates", url_prefix="/portal/choices")
formats.written_on(blueprint)


@blueprint.get("")
@access.customer
def page() -> str:
    """Every outage for which this customer may choose."""
    who, house = access.person(), access.house()
    agency_id, customer_id = who.agency_id or 0, who.customer_id or ""
    now = house.clock.now()
    with house.database.work(Scope(agency_id)) as session:
        customer = session.scalar(sa.select(Customer).where(Customer.id == customer_id))
        offers = choices.offered(session, now, agency_id, customer_id)
        agency = session.get_one(Agency, agency_id)
        return render_template(
            "outages/choices.html", offers=offers, choices=choices.CHOICES, agency=agency,
            person_name=customer.name if customer else None,
            **formats.for_reader(readers.reader_of(session, agency_id, customer_id) if customer else Reader()),
        )  # fmt: skip


@blueprint.post("/<incident_id>")
@access.noted("incident.choose_refused", origin="portal")
@access.customer
def choose(incident_id: str) -> Response:
    """Note the choice of the customer who is signed in, and of nobody else."""
    who, house = access.person(), access.house()
    agency_id, customer_id = who.agency_id or 0, who.customer_id or ""
    now = house.clock.now()
    with house.database.work(Scope(agency_id)) as session:
        choices.choose(session, now, agency_id, customer_id, incident_id, request.form.get("choice", ""), "portal")
    return redirect(url_for("customers.page"), 303)
