"""`/console/webhooks`: where agencies are told, which calls were taken, and which wait or failed and why."""

from typing import Final

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from billing import formats
from billing.errors import BadRequest
from tenants import access
from tenants.db import OPERATOR
from tenants.models import Member
from webhooks import deliveries, endpoints

blueprint = Blueprint("deliveries", __name__, template_folder="templates", url_prefix="/console/webhooks")
formats.written_on(blueprint)

PER_PAGE: Final = 50
DELIVERY_STATES: Final = {
    "queued": ("Waiting", "wait"),
    "sending": ("Being sent", "wait"),
    "delivered": ("Taken", "good"),
    "failed": ("Failed", "bad"),
    "withdrawn": ("Withdrawn", ""),
}
NOTICE_NAMES: Final = {
    "incident.updated": "Published update",
    "grant.succeeded": "Money back",
    "grant.failed": "Money returned",
    "grant.needs_person": "Needs a person",
}


@blueprint.get("")
@access.staff()
def overview() -> str:
    """The endpoints, and the latest calls; `?state=` and `?to=` narrow them."""
    state = request.args.get("state") or None
    if state is not None and state not in DELIVERY_STATES:
        raise BadRequest("There is no such state of a delivery.")
    endpoint_id = _number(request.args["to"]) if request.args.get("to") else None
    before = _number(request.args["before"]) if "before" in request.args else None
    with access.house().database.work(OPERATOR) as session:
        there = endpoints.listed(session)
        found = endpoints.sent(session, state=state, endpoint_id=endpoint_id, before=before, limit=PER_PAGE + 1)
    return render_template(
        "webhooks/webhooks.html",
        endpoints=there, deliveries=found[:PER_PAGE], state=state, endpoint_id=endpoint_id, first_page=before is None,
        older=found[PER_PAGE - 1]["id"] if len(found) > PER_PAGE else None, delivery_states=DELIVERY_STATES,
        notice_names=NOTICE_NAMES,
    )  # fmt: skip


@blueprint.post("/<int:delivery_id>/again")
@access.noted("webhook.retry_refused", of="delivery_id")
@access.staff("finance", "approver")
def again(delivery_id: int) -> Response:
    """Queue a call again that failed or was withdrawn."""
    with access.house().database.work(OPERATOR) as session:
        deliveries.try_again(session, delivery_id, session.get_one(Member, access.person().member_id), "console")
    return redirect(url_for("deliveries.overview"), 303)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise BadRequest("That page is not there: go back to the first one.")
    return int(text)
