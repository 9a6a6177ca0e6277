"""Suspicion: an outage that monitors report and no person has confirmed. Planning never looks at it."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import Base


class Suspicion(Base):
    """A suspected incident: suspected -> confirmed (the incident with the same id is declared) or dismissed.

    `agency_id`: whose monitors report it, for itself alone; NULL: the operator's, for everybody.
    """

    __tablename__ = "suspicions"
    __table_args__ = (
        sa.CheckConstraint("state IN ('suspected', 'confirmed', 'dismissed')", name="known_suspicion_state"),
        sa.CheckConstraint("ended_at IS NULL OR ended_at >= started_at", name="suspicion_runs_forward"),
        sa.CheckConstraint(
            "(state = 'suspected') = (decided_by IS NULL) AND (state = 'suspected') = (decided_at IS NULL)",
            name="decided_by_somebody",
        ),
        sa.CheckConstraint("state <> 'dismissed' OR coalesce(reason, '') <> ''", name="dismissed_for_a_reason"),
        sa.Index("ix_suspicions_platform_id", "platform_id", "started_at"),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    agency_id: Mapped[int | None] = mapped_column(sa.ForeignKey("agencies.id"))
    platform_id: Mapped[int] = mapped_column(sa.ForeignKey("platforms.id"))
    title: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="suspected")
    started_at: Mapped[datetime]
    """The earliest that a monitor reports."""
    ended_at: Mapped[datetime | None]
    """When the last of its alerts ended; NULL: one goes on."""
    noticed_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    decided_by: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    decided_at: Mapped[datetime | None]
    reason: Mapped[str | None]
