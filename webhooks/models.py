"""The inbox: every event of Stripe's, kept once, with what became of it."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import Base


class InboxEvent(Base):
    """One event, unique by (account, event id); '' is the operator's account. Its payload is not kept."""

    __tablename__ = "inbox_events"
    __table_args__ = (
        sa.CheckConstraint("state IN ('received', 'handled', 'ignored', 'failed')", name="known_inbox_state"),
        sa.Index("ix_inbox_events_due", "due_at", postgresql_where=sa.text("state = 'received'")),
        sa.Index("ix_inbox_events_waiting", "object_id", postgresql_where=sa.text("state = 'received'")),
    )
    stripe_account: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(sa.Identity(), unique=True)
    type: Mapped[str]
    object_kind: Mapped[str]
    object_id: Mapped[str]
    livemode: Mapped[bool]
    api_version: Mapped[str | None]
    created_at: Mapped[datetime]
    received_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    state: Mapped[str] = mapped_column(server_default="received")
    attempts: Mapped[int] = mapped_column(server_default="0")
    due_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    handled_at: Mapped[datetime | None]
    reason: Mapped[str | None]
