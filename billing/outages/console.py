"""`/console`: finance previews, declares, approves and resolves an outage, and watches its runs live."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from flask import Blueprint, Flask, current_app, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from billing import catalog, formats
from billing.errors import BadRequest, NotFound, Refused
from billing.outages import (
    approvals,
    explain,
    forms,
    funding,
    incidents,
    pace,
    planning,
    queries,
    report,
    schemas,
    supposing,
    suspicions,
    updates,
    watching,
)
from billing.outages.models import Grant
from billing.windows import parse_time
from tenants import access, factors
from tenants.db import OPERATOR
from tenants.factors import NotProven
from tenants.models import Agency, Member

blueprint = Blueprint("console", __name__, template_folder="templates", url_prefix="/console")
formats.written_on(blueprint)

BIGGEST: Final = 25
"""Grants that a preview shows: the largest of all."""
PER_PAGE: Final = 50

INCIDENT_STATES: Final = {
    "suspected": ("Suspected", "wait"),
    "declared": ("Going on", "bad"),
    "resolved": ("Resolved", "good"),
    "retracted": ("Retracted", ""),
    "retired": ("Does not come back", "bad"),
}
RUN_STATES: Final = {
    "waiting": ("Waits for approval", "wait"),
    "running": ("Running", "wait"),
    "halted": ("Halted", "bad"),
    "done": ("Done", "good"),
    "declined": ("Declined", "bad"),
    "superseded": ("No longer applies", ""),
}
GRANT_STATES: Final = {
    "planned": ("Planned", ""),
    "approved": ("In line", ""),
    "sent": ("Being sent", "wait"),
    "unknown": ("Being asked about", "wait"),
    "pending": ("On its way", "wait"),
    "blocked": ("Blocked", "wait"),
    "succeeded": ("Done", "good"),
    "failed": ("Failed, given another way", "bad"),
    "needs_person": ("Needs a person", "bad"),
    "given_elsewhere": ("Given elsewhere", ""),
}
LEFT_OUT: Final = {
    "disputed": "The payment is disputed: nothing is sent while the bank holds it.",
    "held_draft": "A renewal held as a draft: settled when the outage is resolved.",
    "metered": "Billed by use, so no time was paid for in advance.",
    "nothing_refundable": "More is owed than can still go back this way.",
    "currency_rounding": "The currency cannot be sent that finely: it stays owed.",
    "policy_none": "The policy gives nothing back.",
    "below_minimum": "Less than the agency's minimum: it waits and joins the next one.",
    "choosing": "Their customers may still choose what they get.",
    "waived": "Their customers have waived it.",
    "settled_later": "The agency's policy gives it back once the outage is over.",
}
PROMISES: Final = {True: ("Kept", "good"), False: ("Not kept", "bad"), None: ("Under way", "wait")}
PURPOSES: Final = {
    "declare": "at declaration", "resolve": "at resolution", "change": "after a change", "reopen": "after reopening",
    "retract": "after the retraction", "retire": "as it does not come back", "settle": "when it was due",
}  # fmt: skip
STATES: Final = {
    "incident_states": INCIDENT_STATES, "run_states": RUN_STATES, "grant_states": GRANT_STATES, "reasons": LEFT_OUT,
    "fates": queries.FATES,
    "purposes": PURPOSES, "promise_states": PROMISES,
}  # fmt: skip


@blueprint.get("")
@access.staff()
def overview() -> str:
    """Every incident, and what waits for somebody."""
    with access.house().database.work(OPERATOR) as session:
        found = queries.listed(session)
        suspected = suspicions.listed(session)
        over = suspicions.ends_reported(session, [one["id"] for one in found if one["state"] == "declared"])
    return render_template("outages/incidents.html", incidents=found, suspected=suspected, over=over, **STATES)


@blueprint.post("/suspected/<incident_id>/dismiss")
@access.noted("incident.dismiss_refused")
@access.staff("finance")
def dismiss(incident_id: str) -> Response:
    """A suspected incident is none of ours."""
    why = request.form.get("reason", "")
    _change(lambda session, now, by: suspicions.dismiss(session, now, incident_id, by, "console", reason=why))
    return redirect(url_for("console.overview"), 303)


@blueprint.get("/incidents/new")
@access.staff()
def new() -> str:
    """Describe an outage; with a description in the address, see what declaring it would do. Changes nothing.

    `suspected` names the suspected incident that would be confirmed by it.
    """
    house, given = access.house(), _described(request.args)
    now = house.clock.now()
    plan, refusal, compared, everybodys, proves = None, None, None, False, False
    needs: list[funding.Need] = []
    takes: pace.Pace | None = None
    with house.database.work(OPERATOR) as session:
        platforms = [one["slug"] for one in catalog.platforms(session) if one["enabled"]]
        agencies = [agency.slug for agency in session.query(Agency).order_by(Agency.slug)]
        if "since" in given:
            try:
                declaration = schemas.declaration(session, now, **given)
                plan = planning.preview(session, now, declaration)
                plan = planning.with_grants(session, plan, biggest=BIGGEST)
                needs = funding.needs(session, plan.refunds)
                takes = pace.expected(session, house.settings.stripe_rate, plan.work)
                everybodys = planning.are_everybody(session, declaration.agencies)
                proves = factors.enrolled(session, access.person().member_id or 0)
                if request.args.get("compare"):
                    compared = supposing.compare(session, now, declaration)
            except Refused as error:
                refusal = error.message
    return render_template(
        "outages/new.html",
        platforms=platforms, agencies=agencies, policies=schemas.POLICIES, given=given, now=now, refusal=refusal,
        suspected=request.args.get("suspected", ""), everybodys=everybodys, proves=proves,
        plan=plan.to_json() if plan else None, compared=compared, funds=funding.outlook(house, needs), takes=takes,
        **STATES,
    )  # fmt: skip


@blueprint.post("/incidents")
@access.noted("incident.declare_refused")
@access.staff("finance")
def declare() -> Response:
    """Declare what was previewed: refused when the plan is another by now. All agencies take a second factor."""
    form = request.form
    as_of, fingerprint = form.get("as_of", ""), form.get("fingerprint", "")
    if not as_of or not fingerprint:
        raise BadRequest("Preview the outage first, and declare it from there.")

    def write(session: Session, now: datetime, person: Member) -> str | NotProven:
        declaration = schemas.declaration(session, now, **_described(form))
        named = form.get("suspected", "")
        suspicion = suspicions.undecided(session, named, person) if named else None
        everybodys = planning.are_everybody(session, declaration.agencies)
        if everybodys and (refusal := _unproven(session, person)):
            return refusal
        made = incidents.declare(
            session, now, declaration, person, "console", as_of=parse_time(as_of), expected_fingerprint=fingerprint,
            id=suspicion.id if suspicion else None,
        )  # fmt: skip
        if suspicion is not None:
            suspicions.confirm(session, now, suspicion, person, "console")
        if everybodys:
            factors.used(session, person, "console", made.id)
        return made.id

    return _to(_change(write))


@blueprint.get("/incidents/<incident_id>")
@access.staff()
def incident(incident_id: str) -> str:
    """One incident: its progress, its runs, its grants, its updates."""
    after = _number(request.args.get("after", "0"))
    house = access.house()
    with house.database.work(OPERATOR) as session:
        shown = queries.shown(session, incident_id)
        promise = report.promise(session, house.clock.now(), queries.find(session, incident_id))
        grants = queries.grants_of(session, incident_id, after=after, limit=PER_PAGE + 1)
        slugs = session.scalars(sa.select(Agency.slug).order_by(Agency.slug)).all()
    return render_template(
        "outages/incident.html",
        incident=shown, progress=watching.progress(shown), promise=promise,
        lacking=funding.lacking_in_words(shown["lacking"]),
        grants=grants[:PER_PAGE], after=after, known_agencies=slugs,
        more=grants[PER_PAGE - 1]["id"] if len(grants) > PER_PAGE else None, now=house.clock.now(),
        form=forms.fresh(), **STATES,
    )  # fmt: skip


@blueprint.get("/incidents/<incident_id>/funds")
@access.staff()
def funds(incident_id: str) -> str:
    """Whether Stripe's balance carries what waits for an approval: a fragment, so that no page waits for Stripe."""
    house = access.house()
    with house.database.work(OPERATOR) as session:
        queries.find(session, incident_id)
        needs = funding.needs_of_waiting(session, incident_id)
    return render_template("outages/funds.html", funds=funding.outlook(house, needs))


@blueprint.get("/incidents/<incident_id>/events")
@access.staff()
def events(incident_id: str) -> Response:
    """The progress of an incident as server-sent events: a fragment whenever it changed, `done` once it is quiet."""
    house = access.house()
    with house.database.work(OPERATOR) as session:
        queries.find(session, incident_id)
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    template = app.jinja_env.get_template("outages/progress.html")

    def fragment(shown: dict[str, Any], progress: dict[str, Any]) -> str:
        with app.app_context():
            return template.render(incident=shown, progress=progress, **STATES)

    looks = watching.events(house, incident_id, fragment)
    answer = Response(looks, content_type="text/event-stream; charset=utf-8")
    answer.headers["X-Accel-Buffering"] = "no"
    return answer


@blueprint.get("/incidents/<incident_id>/grants/<int:grant_id>")
@access.staff()
def grant(incident_id: str, grant_id: int) -> str:
    """The whole arithmetic of one grant."""
    with access.house().database.work(OPERATOR) as session:
        shown = queries.shown(session, incident_id)
        found = session.query(Grant).filter_by(id=grant_id, incident_id=incident_id).one_or_none()
        if found is None:
            raise NotFound("There is no such grant of this incident.")
        told = explain.of_grant(session, found)
        listed = queries.grants_of(session, incident_id, after=grant_id - 1, limit=1)
    return render_template(
        "outages/grant.html", incident=shown, grant=listed[0] if listed else None, told=told, found=found, **STATES
    )


@blueprint.post("/incidents/<incident_id>/approve")
@access.noted("incident.approve_refused")
@access.staff("finance", "approver")
def approve(incident_id: str) -> Response:
    """Say yes to the plan that the form names: all of it, or that of one agency."""
    fingerprint, only = request.form.get("fingerprint", ""), request.form.getlist("agency")
    _change(
        lambda session, now, by: approvals.approve(session, now, incident_id, by, fingerprint, "console", agencies=only)
    )
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/decline")
@access.noted("incident.decline_refused")
@access.staff("approver")
def decline(incident_id: str) -> Response:
    """Say no to what waits, and why."""
    why = _thought().reason
    only = request.form.getlist("agency")
    _change(lambda session, now, by: approvals.decline(session, incident_id, by, why, "console", agencies=only))
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/replan")
@access.noted("incident.replan_refused")
@access.staff("finance", "approver")
def replan(incident_id: str) -> Response:
    """Plan again what was declined."""
    _change(lambda session, now, by: approvals.plan_again(session, incident_id, by, "console"))
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/halt")
@access.noted("incident.halt_refused")
@access.staff("finance", "approver")
def halt(incident_id: str) -> Response:
    """Send nothing more until it is continued."""
    _change(lambda session, now, by: approvals.halt(session, incident_id, by, "console"))
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/continue")
@access.noted("incident.continue_refused")
@access.staff("finance", "approver")
def go_on(incident_id: str) -> Response:
    """Go on after a halt."""
    _change(lambda session, now, by: approvals.resume(session, incident_id, by, "console"))
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/resolve")
@access.noted("incident.resolve_refused")
@access.staff("finance", "approver")
def resolve(incident_id: str) -> Response:
    """The outage is over: at the time that the form names, or now."""
    at = request.form.get("at", "").strip()
    ended = parse_time(_in_utc(at)) if at else None
    _change(lambda session, now, by: incidents.resolve(session, now, incident_id, by, "console", at=ended))
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/updates")
@access.noted("incident.update_refused")
@access.staff("finance", "approver")
def publish(incident_id: str) -> Response:
    """Publish news: on the status page, in both feeds, by mail and to webhooks."""
    body, form = request.form.get("body", ""), forms.sent(request.form)
    _change(lambda session, now, by: updates.publish(session, now, incident_id, by, body, "console", form=form))
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/change")
@access.noted("incident.change_refused")
@access.staff("finance")
def change(incident_id: str) -> Response:
    """It was different from what was said: what the form leaves empty stays. All agencies take a second factor."""
    form = request.form
    given = {name: value for name, value in _described(form).items() if name in ("since", "until", "impact")}
    if (scope := form.get("scope", "")) == "some" and not form.getlist("agencies"):
        raise BadRequest("Choose the agencies that it covers, or all of them.")
    if scope:
        given["agencies"] = form.getlist("agencies") if scope == "some" else []
    thought = _thought(**given)

    def write(session: Session, now: datetime, by: Member) -> NotProven | None:
        agencies = thought.change.agencies
        everybodys = agencies is not None and planning.are_everybody(session, agencies)
        if everybodys and (refusal := _unproven(session, by)):
            return refusal
        incidents.change(
            session, now, incident_id, thought.change, by, "console", reason=thought.reason, message=thought.message
        )
        if everybodys:
            factors.used(session, by, "console", incident_id)
        return None

    _change(write)
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/reopen")
@access.noted("incident.reopen_refused")
@access.staff("finance")
def reopen(incident_id: str) -> Response:
    """It had not ended."""
    thought = _thought()
    _change(
        lambda session, now, by: incidents.reopen(
            session, now, incident_id, by, "console", reason=thought.reason, message=thought.message
        )
    )
    return _to(incident_id)


@blueprint.post("/incidents/<incident_id>/retract")
@access.noted("incident.retract_refused")
@access.staff("finance")
def retract(incident_id: str) -> Response:
    """It was no outage."""
    thought = _thought()
    _change(
        lambda session, now, by: incidents.retract(
            session, now, incident_id, by, "console", reason=thought.reason, message=thought.message
        )
    )
    return _to(incident_id)


def _thought(**given: Any) -> schemas.SecondThought:
    """A change of mind as the form says it; the page asks for a reason each time."""
    words = {name: request.form.get(name, "").strip() for name in ("reason", "message")}
    if not words["reason"]:
        raise BadRequest("Say why: the reason is kept with the incident.")
    return schemas.second_thought(**given, **words)


def _change(write: Callable[[Session, datetime, Member], Any]) -> Any:
    """One change by the person who asks, in one unit of work at one business time.

    What proves nothing is counted, so `write` returns that refusal, and it is raised after the commit.
    """
    house = access.house()
    now = house.clock.now()
    with house.database.work(OPERATOR) as session:
        made = write(session, now, session.get_one(Member, access.person().member_id))
    if isinstance(made, NotProven):
        raise made
    return made


def _unproven(session: Session, by: Member) -> NotProven | None:
    """Why the form's code does not prove who this is."""
    return factors.refusal(session, by, request.form.get("code", ""), "console")


def _to(incident_id: str) -> Response:
    return redirect(url_for("console.incident", incident_id=incident_id), 303)


def _described(given: Any) -> dict[str, Any]:
    """The outage that a form describes, without what was left empty. Times without a zone are UTC, as the form says."""
    words = {name: given.get(name, "").strip() for name in ("platform", "policy", "title", "message")}
    found: dict[str, Any] = {name: word for name, word in words.items() if word}
    for name in ("since", "until"):
        if moment := given.get(name, "").strip():
            found[name] = _in_utc(moment)
    if impact := given.get("impact", "").strip():
        found["impact"] = int(impact) if impact.isascii() and impact.isdecimal() and len(impact) < 9 else impact
    if agencies := [slug for slug in given.getlist("agencies") if slug]:
        found["agencies"] = agencies
    return found


def _in_utc(moment: str) -> str:
    """What a browser's date field sends has no zone; the page says that it is UTC."""
    return moment if moment.endswith("Z") or "+" in moment else f"{moment}Z"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise BadRequest("That page is not there: go back to the first one.")
    return int(text)
