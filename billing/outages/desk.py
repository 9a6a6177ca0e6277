"""`/console/desk`: everything that waits for a person, and noting what was paid by hand."""

from typing import Final

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from billing import formats
from billing.outages import approvals, by_hand, freezing, oversight, switch
from tenants import access
from tenants.db import OPERATOR
from tenants.models import Member

blueprint = Blueprint("desk", __name__, template_folder="templates", url_prefix="/console/desk")
formats.written_on(blueprint)

BOOKS: Final = {
    "invariants": "What must always hold",
    "daily": "Everything, with Stripe",
    "hourly": "Open incidents",
    "": "After a restore",
}


@blueprint.get("")
@access.staff()
def page() -> str:
    """What waits, and why."""
    with access.house().database.work(OPERATOR) as session:
        waiting = by_hand.waiting(session)
        found = oversight.shown(session)
    return render_template("outages/desk.html", waiting=waiting, found=found, everything=switch.EVERYTHING, names=BOOKS)


@blueprint.post("/grants/<int:grant_id>/paid")
@access.noted("grant.paid_refused", of="grant_id")
@access.staff("finance")
def paid(grant_id: int) -> Response:
    """A person has paid what Stripe could not."""
    house = access.house()
    with house.database.work(OPERATOR) as session:
        by = session.get_one(Member, access.person().member_id)
        by_hand.record(session, house.clock.now(), grant_id, by, request.form.get("note", ""), "console")
    return redirect(url_for("desk.page"), 303)


@blueprint.post("/lift")
@access.noted("invoice.lift_refused", of="invoice")
@access.staff(*freezing.LIFTERS)
def lift() -> Response:
    """A person has looked: give again for the invoice that the form names."""
    with access.house().database.work(OPERATOR) as session:
        by = session.get_one(Member, access.person().member_id)
        freezing.lift(session, request.form.get("invoice", ""), by, request.form.get("why", ""), "console")
    return redirect(url_for("desk.page"), 303)


@blueprint.post("/continue")
@access.noted("sending.continue_refused", otherwise=switch.EVERYTHING)
@access.staff(*freezing.LIFTERS)
def go_on() -> Response:
    """A person has looked: send again, for every incident that is not halted itself."""
    with access.house().database.work(OPERATOR) as session:
        approvals.resume_scope(session, None, session.get_one(Member, access.person().member_id), "console")
    return redirect(url_for("desk.page"), 303)
