"""Message: one mail to one customer, from the fact that it tells to the server that took it. MessageTemplate."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import AgencyOwned, Base

KINDS = ("declared", "update", "refunded", "correction", "resumed")
WAITING = ("queued", "sending")
RESUMED = """
NOT EXISTS (
    SELECT FROM subscriptions s JOIN pauses p ON p.agency_id = s.agency_id AND p.subscription_id = s.id
    WHERE s.agency_id = w.agency_id AND s.customer_id = w.customer_id AND p.incident_id = w.incident_id
    AND p.state IN ('planned', 'held', 'releasing')
) AND EXISTS (
    SELECT FROM subscriptions s JOIN pauses p ON p.agency_id = s.agency_id AND p.subscription_id = s.id
    WHERE s.agency_id = w.agency_id AND s.customer_id = w.customer_id AND p.incident_id = w.incident_id
    AND p.state = 'released' AND p.held_at IS NOT NULL
    AND s.status IN ('active', 'trialing', 'past_due', 'unpaid')
    AND NOT s.cancel_at_period_end AND s.pause_behavior IS NULL AND NOT EXISTS (
        SELECT FROM pauses o WHERE o.agency_id = p.agency_id AND o.subscription_id = p.subscription_id
        AND o.incident_id <> p.incident_id
        AND (o.state IN ('planned', 'held', 'releasing') OR o.released_at > p.released_at)
    )
)
"""
"""Of a customer and an incident `w`: that billing has resumed. Nothing of theirs is on hold for it any more, and
something that was goes on: it has not ended and is not about to, and nobody else holds it, be it another incident or
the customer. Whichever pause is released last finds it so."""
_QUOTED = ", ".join(repr(kind) for kind in KINDS)


class Message(AgencyOwned, Base):
    """One message: one per (customer, incident, kind, about), whoever derives it and however often.

    `about` says which one of its kind: the grant of a refunded or correction, the update of an update, which decision
    ended the outage for a resumed, nothing for a declared. queued -> sending -> sent, queued again for later, failed,
    withdrawn (it was no longer true before it left) or unaddressed. Subject and text are frozen before the first
    attempt, so that whatever is sent again is the same message under the same Message-ID.
    """

    __tablename__ = "messages"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "customer_id"], ["customers.agency_id", "customers.id"]),
        sa.UniqueConstraint("agency_id", "customer_id", "incident_id", "kind", "about", name="nobody_is_told_twice"),
        sa.CheckConstraint(f"kind IN ({_QUOTED})", name="known_message_kind"),
        sa.CheckConstraint(
            "state IN ('queued', 'sending', 'sent', 'failed', 'withdrawn', 'unaddressed')", name="known_message_state"
        ),
        sa.CheckConstraint(
            "state NOT IN ('sending', 'sent') OR (subject IS NOT NULL AND text IS NOT NULL AND address IS NOT NULL)",
            name="written_before_it_is_sent",
        ),
        sa.CheckConstraint("(state = 'sent') <= (sent_at IS NOT NULL)", name="sent_has_its_time"),
        sa.Index(
            "ix_messages_due", "due_at", "id", postgresql_where=sa.text("state IN ('queued', 'sending')")
        ),
    )  # fmt: skip
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True, unique=True)
    customer_id: Mapped[str]
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), index=True)
    kind: Mapped[str]
    about: Mapped[str] = mapped_column(server_default="")
    until_update: Mapped[int | None]
    """Of a declared: the last update that it repeats. Later ones come in messages of their own."""
    uid: Mapped[str] = mapped_column(server_default=sa.text("gen_random_uuid()::text"))
    """The left part of its Message-ID."""
    state: Mapped[str] = mapped_column(server_default="queued")
    address: Mapped[str | None]
    subject: Mapped[str | None]
    text: Mapped[str | None]
    template: Mapped[int | None]
    """The version of the agency's template that it was written with; NULL: the built-in."""
    amount: Mapped[int | None]
    """What a refunded or correction says goes back, in the smallest unit of the grant's currency."""
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    first_sent_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    attempt_no: Mapped[int] = mapped_column(server_default="0")
    lease_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    reason: Mapped[str | None]


class MessageTemplate(AgencyOwned, Base):
    """An agency's own words for one kind of message. Versions are added, never changed; the newest is in force.

    One without a body goes back to the built-in words.
    """

    __tablename__ = "message_templates"
    __table_args__ = (
        sa.CheckConstraint(f"kind IN ({_QUOTED})", name="known_template_kind"),
        sa.CheckConstraint("(subject IS NULL) = (body IS NULL)", name="whole_or_built_in"),
    )
    kind: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[str | None]
    body: Mapped[str | None]
    saved_by: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    saved_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
