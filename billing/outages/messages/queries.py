"""Read models: the messages of one incident or of all, and what waits for what."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import NotFound
from billing.models import Customer
from billing.outages.messages.models import Message
from billing.outages.queries import find
from billing.windows import iso
from tenants.models import Agency

STATES: Final = ("queued", "sending", "sent", "failed", "withdrawn", "unaddressed")


def listed(
    session: Session, *, incident_id: str | None = None, state: str | None = None, before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:  # fmt: skip
    """The next `limit` messages, newest first, beginning below the one with id `before`. Raises `NotFound`."""
    wanted = (
        sa.select(Message, Agency.slug, Customer.name)
        .join(Agency, Agency.id == Message.agency_id)
        .join(Customer, sa.and_(Customer.agency_id == Message.agency_id, Customer.id == Message.customer_id))
        .order_by(Message.id.desc())
        .limit(limit)
    )
    if incident_id is not None:
        wanted = wanted.where(Message.incident_id == find(session, incident_id).id)
    if state is not None:
        wanted = wanted.where(Message.state == state)
    if before is not None:
        wanted = wanted.where(Message.id < before)
    return [_facts(message, slug, name) for message, slug, name in session.execute(wanted)]


def shown(session: Session, message_id: int) -> dict[str, Any]:
    """One message with its words. Raises `NotFound`."""
    found = session.execute(
        sa.select(Message, Agency.slug, Customer.name)
        .join(Agency, Agency.id == Message.agency_id)
        .join(Customer, sa.and_(Customer.agency_id == Message.agency_id, Customer.id == Message.customer_id))
        .where(Message.id == message_id)
    ).one_or_none()
    if found is None:
        raise NotFound("There is no such message.")
    message, slug, name = found
    return {**_facts(message, slug, name), "text": message.text, "uid": message.uid}


def counts(session: Session, incident_id: str | None = None) -> dict[str, int]:
    """How many messages are in each state, those that nothing is in included."""
    wanted = sa.select(Message.state, sa.func.count()).group_by(Message.state)
    if incident_id is not None:
        wanted = wanted.where(Message.incident_id == incident_id)
    return dict.fromkeys(STATES, 0) | dict(session.execute(wanted).all())


def _facts(message: Message, slug: str, name: str | None) -> dict[str, Any]:
    return {
        "id": message.id,
        "agency": slug,
        "customer": message.customer_id,
        "customer_name": name,
        "incident": message.incident_id,
        "kind": message.kind,
        "about": message.about,
        "state": message.state,
        "to": message.address,
        "subject": message.subject,
        "template": message.template,
        "created_at": iso(message.created_at),
        "sent_at": iso(message.sent_at) if message.sent_at else None,
        "attempts": message.attempt_no,
        "due_at": iso(message.due_at) if message.state in ("queued", "sending") else None,
        "reason": message.reason,
    }
