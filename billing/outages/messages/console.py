"""`/console/messages`: what customers were told, what waits and why, and the words that each agency uses."""

from typing import Any, Final

import sqlalchemy as sa
from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from billing import formats
from billing.errors import BadRequest, NotFound, Refused
from billing.outages.messages import letters, queries, sending, wording
from billing.outages.messages.models import KINDS
from tenants import access
from tenants.db import OPERATOR
from tenants.models import Agency, Member

blueprint = Blueprint("messages", __name__, template_folder="templates", url_prefix="/console/messages")
formats.written_on(blueprint)

PER_PAGE: Final = 50
MESSAGE_STATES: Final = {
    "queued": ("Waiting", "wait"),
    "sending": ("Being sent", "wait"),
    "sent": ("Sent", "good"),
    "failed": ("Failed", "bad"),
    "withdrawn": ("Withdrawn", ""),
    "unaddressed": ("No address", "bad"),
}
KIND_NAMES: Final = {
    "declared": "Outage declared",
    "update": "Published update",
    "refunded": "Money back",
    "correction": "Correction",
    "resumed": "Billing resumed",
}


@blueprint.get("")
@access.staff()
def overview() -> str:
    """The latest messages; `?state=` and `?incident=` narrow them."""
    state, incident_id = request.args.get("state") or None, request.args.get("incident") or None
    if state is not None and state not in queries.STATES:
        raise BadRequest("There is no such state of a message.")
    before = _number(request.args["before"]) if "before" in request.args else None
    house = access.house()
    with house.database.work(OPERATOR) as session:
        found = queries.listed(session, incident_id=incident_id, state=state, before=before, limit=PER_PAGE + 1)
        counts = queries.counts(session, incident_id)
    return render_template(
        "messages/messages.html",
        messages=found[:PER_PAGE], older=found[PER_PAGE - 1]["id"] if len(found) > PER_PAGE else None,
        counts=counts, state=state, incident_id=incident_id, first_page=before is None,
        no_server=house.settings.smtp_url is None, message_states=MESSAGE_STATES, kind_names=KIND_NAMES,
    )  # fmt: skip


@blueprint.get("/<int:message_id>")
@access.staff()
def message(message_id: int) -> str:
    """One message, as it was or will be sent."""
    with access.house().database.work(OPERATOR) as session:
        found = queries.shown(session, message_id)
    return render_template("messages/message.html", message=found, message_states=MESSAGE_STATES, kind_names=KIND_NAMES)


@blueprint.post("/<int:message_id>/again")
@access.noted("message.retry_refused", of="message_id")
@access.staff("finance", "approver")
def again(message_id: int) -> Response:
    """Queue a message again that failed or had no address."""
    with access.house().database.work(OPERATOR) as session:
        by = session.get_one(Member, access.person().member_id)
        sending.try_again(session, message_id, by, "console")
    return redirect(url_for("messages.message", message_id=message_id), 303)


@blueprint.get("/words")
@access.staff()
def words() -> str:
    """The words of one agency for one kind of message, and with a customer named, how that customer reads them."""
    return _words(request.args, saved=request.args.get("saved"))


@blueprint.post("/words/shown")
@access.staff()
def show_words() -> str:
    """These words as a customer would read them; they are not saved."""
    return _words(request.form, saved=None)


@blueprint.post("/words")
@access.noted("message.template_refused", of="agency")
@access.staff("finance")
def save_words() -> Response | str:
    """Save these words. What cannot be used is said on the form."""
    form = request.form
    kind = wording.kind_called(form.get("kind", ""))
    built_in = "built_in" in form
    subject, body = ("", "") if built_in else (form.get("subject", ""), form.get("body", ""))
    try:
        with access.house().database.work(OPERATOR) as session:
            agency = _agency(session, form.get("agency", ""))
            by = session.get_one(Member, access.person().member_id)
            saved = wording.save(session, agency, kind, subject, body, by, "console").version
    except BadRequest as refusal:
        return _words(form, saved=None, refusal=refusal.message)
    return redirect(url_for("messages.words", agency=agency.slug, kind=kind, saved=saved), 303)


def _words(given: Any, *, saved: str | None, refusal: str | None = None) -> str:
    house = access.house()
    kind = wording.kind_called(given.get("kind") or KINDS[0])
    customer_id = given.get("customer", "").strip()
    subject, body = given.get("subject", ""), given.get("body", "")
    shown: dict[str, Any] | None = None
    with house.database.work(OPERATOR) as session:
        agencies = list(session.scalars(sa.select(Agency).order_by(Agency.slug)))
        agency = _agency(session, given["agency"]) if given.get("agency") else agencies[0]
        force = wording.in_force(session, agency.id, kind)
        if customer_id and refusal is None:
            try:
                _letter, shown = wording.preview(
                    session, house.clock.now(), kind, customer_id, house.settings.public_url, subject=subject, body=body
                )
            except Refused as error:
                refusal = error.message
            if shown and shown["agency"] != agency.slug:
                refusal = f"{customer_id} is a customer of {shown['agency']}: choose that agency first."
                shown = None
    return render_template(
        "messages/words.html",
        agencies=agencies, agency=agency, kind=kind, kind_names=KIND_NAMES, placeholders=letters.PLACEHOLDERS[kind],
        subject=subject or force.subject, body=body or force.body, version=force.version, customer_id=customer_id,
        shown=shown, refusal=refusal, saved=saved,
    )  # fmt: skip


def _agency(session: Any, slug: str) -> Agency:
    agency: Agency | None = session.scalar(sa.select(Agency).where(Agency.slug == slug))
    if agency is None:
        raise NotFound("There is no such agency.")
    return agency


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise BadRequest("That page is not there: go back to the first one.")
    return int(text)
