"""What the engine found out: reconciliations of its books, frozen invoices, balances without money."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import AgencyOwned, Base


class Reconciliation(Base):
    """One comparison of our books with Stripe's. `scope`: an incident's id, `daily`, or '' after a restore; `hourly` is
    a round over all incidents, and `invariants` a look at our own rows."""

    __tablename__ = "reconciliations"
    __table_args__ = (sa.Index("ix_reconciliations_scope", "scope", "begun_at"),)
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    scope: Mapped[str]
    begun_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    ended_at: Mapped[datetime | None]
    """NULL: it is under way, whoever did it died, or it was given up because of `trouble`."""
    trouble: Mapped[str | None]
    objects: Mapped[int] = mapped_column(server_default="0")
    differences: Mapped[list[Any]] = mapped_column(server_default="[]")
    explained: Mapped[list[Any]] = mapped_column(server_default="[]")
    """By currency: how much Stripe says went back, and how much of it our books explain."""


class Frozen(AgencyOwned, Base):
    """An invoice whose payments are given nothing by the engine, for one reason, until a person lifts it."""

    __tablename__ = "frozen_invoices"
    __table_args__ = (
        sa.CheckConstraint("(lifted_at IS NULL) = (lifted_by IS NULL)", name="a_person_lifts_it"),
        sa.Index(
            "frozen_once_for_each_reason",
            "agency_id",
            "invoice_id",
            "reason",
            unique=True,
            postgresql_where=sa.text("lifted_at IS NULL"),
        ),
        sa.Index("ix_frozen_invoices_invoice_id", "invoice_id", postgresql_where=sa.text("lifted_at IS NULL")),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    invoice_id: Mapped[str]
    reason: Mapped[str]
    frozen_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    lifted_at: Mapped[datetime | None]
    lifted_by: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    why_lifted: Mapped[str | None]


class Shortage(Base):
    """A balance in Stripe (`account` '': the key's own) that lacked money for refunds, until it carries them again."""

    __tablename__ = "shortages"
    account: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    refused: Mapped[int]
    """Refunds that Stripe had no money for since."""
    failed: Mapped[bool]
    """One of them failed for it, so what Stripe does with the others says nothing about the next."""
    holds: Mapped[bool]
    """Nothing that takes money of this balance is sent."""
    available: Mapped[int | None]
    since: Mapped[datetime]
    due_at: Mapped[datetime]
