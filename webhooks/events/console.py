"""`/console/events`: Stripe's events that wait, and those that a person has to see to."""

from typing import Final

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from billing import formats
from billing.errors import BadRequest
from tenants import access
from tenants.db import OPERATOR
from tenants.models import Member
from webhooks.events import waiting

blueprint = Blueprint("events", __name__, template_folder="templates", url_prefix="/console/events")
formats.written_on(blueprint)

PER_PAGE: Final = 50
EVENT_STATES: Final = {
    "received": ("Waiting", "wait"),
    "handled": ("Handled", "good"),
    "ignored": ("Not for us", ""),
    "failed": ("Failed", "bad"),
    "orphan": ("Nobody's", "bad"),
}


@blueprint.get("")
@access.staff()
def overview() -> str:
    """What waits and what is for a person; `?state=` shows one state."""
    state, older = request.args.get("state") or None, request.args.get("before")
    if state is not None and state not in waiting.STATES:
        raise BadRequest("There is no such state of an event.")
    if older is not None and not (older.isascii() and older.isdigit() and len(older) <= 18):
        raise BadRequest("That page is not there: go back to the first one.")
    with access.house().database.work(OPERATOR) as session:
        before = int(older) if older is not None else None
        found = waiting.listed(session, state=state, before=before, limit=PER_PAGE + 1)
        counts = waiting.counts(session)
    return render_template(
        "events/events.html",
        events=found[:PER_PAGE], older=found[PER_PAGE - 1]["id"] if len(found) > PER_PAGE else None, counts=counts,
        state=state, first_page=older is None, event_states=EVENT_STATES, for_a_person=waiting.FOR_A_PERSON,
    )  # fmt: skip


@blueprint.post("/<int:event_id>/again")
@access.noted("event.retry_refused", of="event_id")
@access.staff("finance", "approver")
def again(event_id: int) -> Response:
    """Handle one event anew."""
    with access.house().database.work(OPERATOR) as session:
        waiting.try_again(session, session.get_one(Member, access.person().member_id), "console", event_id)
    return redirect(url_for("events.overview"), 303)
