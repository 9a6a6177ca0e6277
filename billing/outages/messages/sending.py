"""Send what is queued: one mail per message, never a second one that is not the same.

Each hand-over stands between two transactions. The first freezes subject, text and Message-ID and takes the message for
a while; the second writes what the server said. Where that never came, or was not committed, the message may have been
taken: SMTP cannot be asked, so the same mail goes out again under the same Message-ID, by which servers and readers
drop the copy.
"""

from dataclasses import dataclass
from datetime import timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from billing.errors import Conflict, NotAllowed, NotFound
from billing.outages.messages import facts, letters, post, wording
from billing.outages.messages.letters import Letter
from billing.outages.messages.models import RESUMED, WAITING, Message
from billing.outages.models import Grant, Incident
from tenants import audit
from tenants.db import OPERATOR, after_commit
from tenants.house import House
from tenants.models import Member

RETRIERS: Final = ("finance", "approver")
LEASE: Final = timedelta(seconds=120)
AT_ONCE: Final = 10
"""Messages that one connection is opened for."""
AGAIN: Final = (
    timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=3),
    timedelta(hours=8), timedelta(hours=12), timedelta(hours=24), timedelta(hours=24),
)  # fmt: skip
"""Waits between attempts: ten of them within three days. Then a person is told."""
_HAS_RESUMED: Final = sa.text(
    f"SELECT {RESUMED} FROM (SELECT CAST(:agency AS bigint), CAST(:customer AS text), CAST(:incident AS text))"  # noqa: S608
    " AS w (agency_id, customer_id, incident_id)"
)


@dataclass(frozen=True)
class Sealed:
    """A message that this worker has to itself until the lease ends, and the mail that it is."""

    agency_id: int
    id: int
    attempt_no: int
    mail: EmailMessage


def send_due(house: House, limit: int = AT_ONCE) -> int:
    """Send up to `limit` messages that are due; fewer means none is left. Without SMTP_URL they go on waiting.

    Safe to run anywhere, any number of times at once.
    """
    if house.settings.smtp_url is None:
        return 0
    looked_at, sealed = house.database.retried(OPERATOR, lambda session: _claim(session, house, limit))
    with post.Postbox(house.settings.smtp_url) as postbox:
        for one in sealed:
            outcome = postbox.send(one.mail)
            house.database.retried(OPERATOR, lambda session: _answered(session, one, outcome))  # noqa: B023
    return looked_at


def oldest_due(house: House) -> sa.Select[Any]:
    """When the oldest waiting message is or was due, and the time now; nothing is due without a mail server."""
    waiting = sa.select(sa.func.min(sa.func.greatest(Message.due_at, Message.lease_until))).where(
        _is_next(), sa.literal(house.settings.smtp_url is not None)
    )
    return sa.select(waiting.scalar_subquery(), sa.func.clock_timestamp())


def try_again(session: Session, message_id: int, by: Member, origin: str) -> Message:
    """Queue a message again that failed or had no address. Raises `NotFound`, `NotAllowed`, `Conflict`."""
    message = session.scalar(sa.select(Message).where(Message.id == message_id).with_for_update())
    if message is None:
        raise NotFound("There is no such message.")
    if by.role not in RETRIERS and by.agency_id != message.agency_id:
        raise NotAllowed(f"{by.email} is {by.role}: messages are tried again by the operator's finance or an approver.")
    if message.state not in ("failed", "unaddressed"):
        raise Conflict(f"This message is {message.state}: only one that failed can be tried again.")
    before = message.state
    message.state, message.attempt_no, message.due_at = "queued", 0, sa.func.clock_timestamp()
    message.address = None
    audit.record(
        session, by.email, origin, "message.tried_again", str(message.id), agency_id=message.agency_id,
        before={"state": before, "reason": message.reason},
    )  # fmt: skip
    after_commit(session, "messages.send", message.id)
    return message


def _is_next() -> sa.ColumnElement[bool]:
    """Of a Message: that it waits, and nothing that its customer is to read before it does."""
    earlier = aliased(Message)
    before = sa.exists().where(
        earlier.agency_id == Message.agency_id, earlier.customer_id == Message.customer_id,
        earlier.incident_id == Message.incident_id, earlier.id < Message.id, earlier.state.in_(WAITING),
    )  # fmt: skip
    return sa.and_(Message.state.in_(WAITING), ~before)


def _claim(session: Session, house: House, limit: int) -> tuple[int, list[Sealed]]:
    """Take what is due, in the order in which each customer is to read it. Freezes what is sent for the first time."""
    now = sa.func.clock_timestamp()
    found = session.scalars(
        sa.select(Message)
        .where(
            _is_next(),
            Message.due_at <= now,
            sa.or_(Message.lease_until.is_(None), Message.lease_until < now),
        )
        .order_by(Message.due_at, Message.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Message)
    ).all()
    sealed = [one for one in (_sealed(session, house, message) for message in found) if one is not None]
    return len(found), sealed


def _sealed(session: Session, house: House, message: Message) -> Sealed | None:
    if message.state == "queued" and (untrue := _no_longer_true(session, message)):
        message.state, message.reason = "withdrawn", untrue
        return None
    subject = facts.subject_of(session, message)
    address = message.address or (subject.customer.email or "").strip()
    if subject.customer.deleted or not post.is_address(address):
        message.state = "unaddressed"
        message.reason = "The customer has no address that a mail could go to: correct it in Stripe, and try again."
        return None
    if message.text is None or message.subject is None:
        words = wording.in_force(session, message.agency_id, message.kind)
        letter = letters.written(words, facts.values(session, subject, house.settings.public_url))
        message.subject, message.text, message.template = letter.subject, letter.text, words.version
    clock = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    message.address, message.state = address, "sending"
    message.first_sent_at = message.first_sent_at or clock
    message.attempt_no += 1
    message.lease_until = clock + LEASE
    settings = house.settings
    mail = post.composed(
        Letter(message.subject, message.text),
        to=_to(subject.customer.name, address),
        sender=post.sender_of(settings, " ".join(subject.agency.name.split())),
        reply_to=subject.agency.reply_to,
        message_id=f"<{message.uid}@{post.domain(settings)}>",
        at=message.first_sent_at,
        own_address=settings.public_url,
    )
    return Sealed(message.agency_id, message.id, message.attempt_no, mail)


def _no_longer_true(session: Session, message: Message) -> str | None:
    """Why what this message was to say is not so any more. It is asked in the transaction that takes the message."""
    if message.kind in ("refunded", "correction"):
        # Locked, so that it cannot fail between this look and the commit: then nobody would correct what we say here.
        grant = session.scalars(sa.select(Grant).where(Grant.id == int(message.about)).with_for_update(read=True)).one()
        if message.kind == "correction" and facts.told_before(session, grant) is None:
            message.kind = "refunded"  # what it was to correct never left
        wanted = ("succeeded", "needs_person") if message.kind == "correction" else ("succeeded",)
        return None if grant.state in wanted else f"The grant is {grant.state.replace('_', ' ')} by now."
    if message.kind == "declared":
        state = session.get_one(Incident, message.incident_id).state
        return f"The incident is {state} by now." if state in ("suspected", "retracted") else None
    declared = session.scalar(
        sa.select(Message.state).where(
            Message.agency_id == message.agency_id, Message.customer_id == message.customer_id,
            Message.incident_id == message.incident_id, Message.kind == "declared",
        )
    )  # fmt: skip
    if declared == "withdrawn":
        return "The customer was never told of the incident."
    of = {"agency": message.agency_id, "customer": message.customer_id, "incident": message.incident_id}
    if message.kind == "resumed" and not session.scalar(_HAS_RESUMED, of):
        return "Billing does not go on by now."
    return None


def _to(name: str | None, address: str) -> Address:
    shown = "".join(letter for letter in " ".join((name or "").split())[:100] if letter.isprintable())
    return Address(shown, addr_spec=address)


def _answered(session: Session, sealed: Sealed, outcome: post.Outcome) -> None:
    """A mail that was taken is a fact, whatever the lease says; anything else counts only for whoever holds it."""
    message = session.scalars(
        sa.select(Message).where(Message.agency_id == sealed.agency_id, Message.id == sealed.id).with_for_update()
    ).one()
    now = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    if outcome.state == "sent":
        message.state, message.sent_at, message.reason = "sent", message.sent_at or now, None
        message.lease_until = None
        return
    if message.attempt_no != sealed.attempt_no or message.state != "sending":
        return
    message.lease_until = None
    message.reason = outcome.reason
    if outcome.state == "refused" or message.attempt_no > len(AGAIN):
        message.state = "failed"
        return
    # What may have been taken is still being sent: nobody may withdraw it, and a correction may follow it.
    message.state = "sending" if outcome.state == "unknown" else "queued"
    message.due_at = now + AGAIN[message.attempt_no - 1]
