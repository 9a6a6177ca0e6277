"""`/status`: what is going on, for everybody: a page, JSON and an Atom feed of the same updates."""

import time
from datetime import datetime
from threading import Lock
from typing import Any, Final

import sqlalchemy as sa
from flask import Blueprint, current_app, jsonify, make_response, render_template
from flask.blueprints import BlueprintSetupState
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from billing import formats
from billing.models import Platform
from billing.outages import report
from billing.outages.models import Incident, Update
from billing.windows import iso
from tenants import access
from tenants.db import OPERATOR

blueprint = Blueprint("status", __name__, template_folder="templates")
formats.written_on(blueprint)

SHOWN = 20
"""Incidents on the page: the open ones come first, then the latest that are over."""
FRESH: Final = 60.0
"""Seconds for which a promise is not looked at again: everybody may ask, and an incident may have many grants."""
PROMISES: Final = "status.promises"


class Promises:
    """Whether each incident's money was back in time, as last looked at. Who asks meanwhile waits for that look."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen: dict[tuple[str, str], tuple[float, bool | None]] = {}

    def kept(self, session: Session, now: datetime, incident: Incident) -> bool | None:
        """As `report.promise`: None while there is time and more to come."""
        key = (incident.id, incident.state)
        with self._lock:
            if key not in self._seen or time.monotonic() - self._seen[key][0] >= FRESH:
                self._seen[key] = time.monotonic(), report.promise(session, now, incident)["kept"]
            return self._seen[key][1]


@blueprint.record
def _remember(setup: BlueprintSetupState) -> None:
    setup.app.extensions[PROMISES] = Promises()


@blueprint.get("/status")
def page() -> str:
    """The public page."""
    incidents = _incidents()
    return render_template(
        "outages/status.html",
        going_on=[one for one in incidents if _goes_on(one)],
        over=[one for one in incidents if not _goes_on(one)],
    )


@blueprint.get("/status.json")
def document() -> Response:
    """The same for machines: `{"status": "ok"|"outage", "incidents": […]}`, times in UTC."""
    incidents = _incidents()
    going_on = any(_goes_on(one) for one in incidents)
    return jsonify({"status": "outage" if going_on else "ok", "incidents": incidents})


@blueprint.get("/status/feed.atom")
def feed() -> Response:
    """Every published update as an Atom feed (RFC 4287), newest first."""
    entries = sorted(
        ({**update, "incident": one} for one in _incidents() for update in one["updates"]),
        key=lambda entry: str(entry["at"]),
        reverse=True,
    )
    base = access.house().settings.public_url
    answer = make_response(render_template("outages/feed.atom", entries=entries, base=base))
    answer.content_type = "application/atom+xml; charset=utf-8"
    return answer


def _goes_on(incident: dict[str, Any]) -> bool:
    """One that was retired or withdrawn has no end, and is over all the same: nothing is paused for it any more."""
    return incident["ended_at"] is None and incident["state"] == "declared"


def _incidents() -> list[dict[str, Any]]:
    house, promises = access.house(), current_app.extensions[PROMISES]
    with house.database.work(OPERATOR) as session:
        return _public(session, house.clock.now(), promises)


def _public(session: Session, now: datetime, promises: Promises) -> list[dict[str, Any]]:
    """What customers may know: no agency, no amount, nobody's name. What was withdrawn promises nothing any more, and
    is told only to those who had been told of it."""
    told = sa.exists().where(Update.incident_id == Incident.id)
    goes_on = sa.and_(Incident.state == "declared", Incident.ended_at.is_(None))
    rows = session.execute(
        sa.select(Incident, Platform.name)
        .join(Platform, Platform.id == Incident.platform_id)
        .where(Incident.state.in_(("declared", "resolved", "retired", "retracted")), told)
        .order_by(goes_on.desc(), Incident.started_at.desc())
        .limit(SHOWN)
    ).all()
    updates: dict[str, list[dict[str, Any]]] = {incident.id: [] for incident, _name in rows}
    published = sa.select(Update).where(Update.incident_id.in_(updates))
    for update in session.scalars(published.order_by(Update.published_at.desc(), Update.id.desc())):
        updates[update.incident_id].append(
            {"id": update.id, "at": iso(update.published_at), "state": update.state, "body": update.body}
        )
    return [
        {
            "id": incident.id,
            "platform": name,
            "title": incident.title,
            "state": incident.state,
            "started_at": iso(incident.started_at),
            "ended_at": iso(incident.ended_at) if incident.ended_at else None,
            "money_back_by": iso(incident.promise_at) if incident.state != "retracted" else None,
            "money_back_in_time": promises.kept(session, now, incident),
            "updates": updates[incident.id],
        }
        for incident, name in rows
    ]
