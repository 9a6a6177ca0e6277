"""An agency's own words for its messages: saved in versions, shown with a real customer's data before they are used."""

from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import BadRequest, NotAllowed, NotFound, nearest
from billing.models import Customer
from billing.outages.messages import facts, letters
from billing.outages.messages.letters import BUILT_IN, Letter, Wording
from billing.outages.messages.models import KINDS, Message, MessageTemplate
from billing.outages.models import Grant, Incident, Pause, Update
from billing.outages.queries import find
from billing.owners import customer_called
from tenants import audit
from tenants.models import Agency, Member

_NEEDS_GRANT: Final = ("refunded", "correction")


def kind_called(word: str) -> str:
    """Raises `BadRequest` with what there is."""
    if word not in KINDS:
        raise BadRequest(f"There is no message called {word[:40]!r}{nearest(word, KINDS)}")
    return word


def in_force(session: Session, agency_id: int, kind: str) -> Wording:
    """The newest version of the agency's own words, else the built-in ones."""
    latest = session.scalar(
        sa.select(MessageTemplate)
        .where(MessageTemplate.agency_id == agency_id, MessageTemplate.kind == kind)
        .order_by(MessageTemplate.version.desc())
        .limit(1)
    )
    if latest is None or latest.subject is None or latest.body is None:
        return BUILT_IN[kind]
    return Wording(latest.subject, latest.body, latest.version)


def save(
    session: Session, agency: Agency, kind: str, subject: str, body: str, by: Member, origin: str
) -> MessageTemplate:
    """Use these words from now on. Both empty: go back to the built-in ones. What was frozen already stays as it is.

    Raises `BadRequest` for words that cannot be used, `NotAllowed` for whoever may not say what the agency writes.
    """
    _may_write(agency, by)
    words = letters.checked(kind, subject, body) if subject.strip() or body.strip() else None
    session.execute(sa.select(Agency.id).where(Agency.id == agency.id).with_for_update(key_share=True))
    last = session.scalar(
        sa.select(sa.func.max(MessageTemplate.version)).where(
            MessageTemplate.agency_id == agency.id, MessageTemplate.kind == kind
        )
    )
    saved = MessageTemplate(
        agency_id=agency.id, kind=kind, version=(last or 0) + 1, subject=words and words.subject,
        body=words and words.body, saved_by=by.id,
    )  # fmt: skip
    session.add(saved)
    session.flush()
    audit.record(
        session, by.email, origin, "message.template_saved", kind, agency_id=agency.id,
        after={"version": saved.version, "subject": saved.subject, "body": saved.body},
    )  # fmt: skip
    return saved


def preview(
    session: Session, now: datetime, kind: str, customer_id: str, public_url: str, *,
    incident_id: str | None = None, subject: str = "", body: str = "",
) -> tuple[Letter, dict[str, Any]]:  # fmt: skip
    """The message as this customer would read it, with the words given or those in force. Writes nothing.

    `incident_id` left out: the last one that touched the customer. Raises `NotFound` where the customer has nothing
    that such a message could tell.
    """
    customer = customer_called(session, customer_id)
    agency = session.get_one(Agency, customer.agency_id)
    words = letters.checked(kind, subject, body) if subject.strip() or body.strip() else None
    words = words or in_force(session, agency.id, kind)
    about = _about(session, kind, customer, agency, incident_id, now)
    letter = letters.written(words, facts.values(session, about, public_url))
    return letter, {
        "kind": kind, "customer": customer.id, "agency": agency.slug, "incident": about.incident.id,
        "locale": about.locale, "to": customer.email, "template": words.version,
        "subject": letter.subject, "text": letter.text,
    }  # fmt: skip


def _about(
    session: Session, kind: str, customer: Customer, agency: Agency, incident_id: str | None, now: datetime
) -> facts.Subject:
    grants = sa.select(Grant).where(
        Grant.agency_id == agency.id, Grant.customer_id == customer.id, Grant.state != "cancelled"
    )
    if incident_id is not None:
        grants = grants.where(Grant.incident_id == find(session, incident_id).id)
    grant = session.scalar(grants.order_by(Grant.id.desc()).limit(1))
    if kind in _NEEDS_GRANT and grant is None:
        raise NotFound(f"Nothing has been granted to {customer.id} yet: name another customer.")
    incident_id = incident_id or (grant.incident_id if grant else _last_pause(session, customer))
    if incident_id is None:
        raise NotFound(f"No incident has touched {customer.id} yet: name one with --incident.")
    incident = session.get_one(Incident, incident_id)
    update = session.scalar(
        sa.select(Update).where(Update.incident_id == incident.id).order_by(Update.id.desc()).limit(1)
    )
    before = None
    if kind == "correction" and grant is not None:
        before = facts.told_before(session, grant) or Message(amount=grant.amount, sent_at=now)
    return facts.Subject(kind, customer, agency, incident, grant, update, None, before)


def _last_pause(session: Session, customer: Customer) -> str | None:
    found: str | None = session.scalar(
        facts.pauses_of(customer.agency_id, customer.id)
        .with_only_columns(Pause.incident_id)
        .order_by(Pause.id.desc())
        .limit(1)
    )
    return found


def _may_write(agency: Agency, by: Member) -> None:
    if by.role == "finance" or (by.role == "agency-admin" and by.agency_id == agency.id):
        return
    raise NotAllowed(
        f"{by.email} is {by.role}: what {agency.slug} writes is up to its admin or the operator's finance."
    )
