"""Publish news of an incident once: the status page, both feeds, mail and outbound webhooks all carry the same row."""

from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import BadRequest, Conflict, NotAllowed
from billing.outages.models import Incident, Update
from billing.outages.queries import find
from tenants import audit
from tenants.db import after_commit
from tenants.models import Member

LONGEST: Final = 2_000
OPEN: Final = ("declared", "resolved", "retired")
"""Retired ones too: what becomes of a platform that does not come back is news for those who have left it."""


def publish(
    session: Session, now: datetime, incident_id: str, by: Member, body: str, origin: str, *, form: str | None = None
) -> Update:
    """Say something about an incident to everybody whom it concerns. Ringing for mail and webhooks follows the commit.

    Safe to run any number of times with the same token of a `form`: it is said once. Raises `BadRequest` for words that
    cannot be shown, `Conflict` where nobody has been told of the incident or the form has said something else, and
    `NotAllowed` for whoever is neither the operator's finance nor the finance of the agency that declared it.
    """
    incident = find(session, incident_id)
    _may_publish(incident, by)
    body = body.replace("\r\n", "\n").strip()
    if not 1 <= len(body) <= LONGEST:
        raise BadRequest(f"An update has 1 to {LONGEST:,} characters: say what is known.")
    if any(not (letter.isprintable() or letter == "\n") for letter in body):
        raise BadRequest("It has a character that cannot be printed: take it out.")
    session.refresh(incident, with_for_update={"key_share": True})
    if form and (before := session.scalar(sa.select(Update).where(Update.form == form))) is not None:
        if (before.incident_id, before.body) != (incident.id, body):
            raise Conflict("This form has published something already: open the incident again to publish more.")
        return before
    if incident.state not in OPEN:
        raise Conflict(f"This incident is {incident.state}: nobody is to hear of it.")
    update = Update(
        incident_id=incident.id, state=incident.state, body=body, published_by=by.id, published_at=now, form=form
    )  # fmt: skip
    session.add(update)
    session.flush()
    audit.record(
        session, by.email, origin, "incident.updated", incident.id, agency_id=incident.agency_id or 1,
        after={"update": update.id, "body": body},
    )  # fmt: skip
    after_commit(session, "messages.compose", update.id)
    after_commit(session, "deliveries.derive", update.id)
    return update


def _may_publish(incident: Incident, by: Member) -> None:
    theirs = by.role == "agency-finance" and by.agency_id is not None and by.agency_id == incident.agency_id
    if by.role != "finance" and not theirs:
        raise NotAllowed(f"{by.email} is {by.role}: updates are published by the operator's finance.")
