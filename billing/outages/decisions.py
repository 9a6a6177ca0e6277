"""IncidentVersion, Goodwill, Settlement, Choice, Waiver, Retirement: what people decided about an incident after they
had declared it, and what followed.

Amounts are integers of the currency's smallest Stripe unit, times are UTC business time.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import AgencyOwned, Base


class IncidentVersion(Base):
    """One incident as somebody made it, from `at` until the next version. Add-only: what it once said stays known.

    `agencies` are the numbers of its scope, `[0]`: all of them.
    """

    __tablename__ = "incident_versions"
    __table_args__ = (
        sa.CheckConstraint(
            "what IN ('declared', 'changed', 'resolved', 'reopened', 'retracted', 'retired')", name="known_decision"
        ),
        sa.CheckConstraint("what = 'declared' OR reason <> ''", name="every_change_has_its_reason"),
    )
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    impact_bp: Mapped[int]
    agencies: Mapped[list[Any]]
    reason: Mapped[str]
    by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    at: Mapped[datetime]


class Goodwill(AgencyOwned, Base):
    """What an invoice had had back for time that was not lost after all, because this incident was cut or retracted.

    It stays with the customer. It counts as given before for this incident, should it grow again, and for no other.
    """

    __tablename__ = "goodwill"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "invoice_id"], ["invoices.agency_id", "invoices.id"]),
        sa.CheckConstraint("amount BETWEEN 0 AND highest", name="goodwill_is_never_taken_back"),
    )
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), primary_key=True)
    invoice_id: Mapped[str] = mapped_column(primary_key=True, index=True)
    currency: Mapped[str]
    amount: Mapped[int]
    highest: Mapped[int]
    """The most that it ever was: so much may have been granted beyond what was owed at any one time."""
    changed_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    """When it was last worked out. What was never given after all leaves it without that."""


class Settlement(AgencyOwned, Base):
    """When the next run of an agency for an incident is due, besides those that people start. None: there is no more.

    Until `closes_at` the agency's customers may choose what they get, and nothing that they paid goes back.
    """

    __tablename__ = "settlements"
    __table_args__ = (sa.Index("ix_settlements_due", "due_at", postgresql_where=sa.text("due_at IS NOT NULL")),)
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), primary_key=True)
    closes_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]


class Choice(AgencyOwned, Base):
    """What a customer wants for an incident: `money`, the way it was paid, `credit`, or nothing: `waive`."""

    __tablename__ = "choices"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "customer_id"], ["customers.agency_id", "customers.id"]),
        sa.CheckConstraint("choice IN ('money', 'credit', 'waive')", name="known_choice"),
    )
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), primary_key=True)
    customer_id: Mapped[str] = mapped_column(primary_key=True)
    choice: Mapped[str]
    chosen_at: Mapped[datetime]


class Waiver(AgencyOwned, Base):
    """What an incident would have given for an invoice, had its customer not waived it, as its last run made it out."""

    __tablename__ = "waivers"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "invoice_id"], ["invoices.agency_id", "invoices.id"]),
        sa.CheckConstraint("amount > 0", name="waiver_is_positive"),
    )
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), primary_key=True)
    invoice_id: Mapped[str] = mapped_column(primary_key=True, index=True)
    currency: Mapped[str]
    amount: Mapped[int]


class Retirement(AgencyOwned, Base):
    """What becomes of one subscription because its platform does not come back: `cancel`, or `move` to other plans.

    planned -> done or needs_person. `moves` is {plan that it had when this was decided: plan that takes its place}.
    """

    __tablename__ = "retirements"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "subscription_id"], ["subscriptions.agency_id", "subscriptions.id"]),
        sa.CheckConstraint("kind IN ('cancel', 'move')", name="known_fate"),
        sa.CheckConstraint("state IN ('planned', 'done', 'needs_person')", name="known_retirement_state"),
        sa.Index("ix_retirements_due", "due_at", postgresql_where=sa.text("state = 'planned'")),
    )
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), primary_key=True)
    subscription_id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    moves: Mapped[dict[str, Any]]
    state: Mapped[str]
    attempt_no: Mapped[int] = mapped_column(server_default="0")
    lease_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    done_at: Mapped[datetime | None]
    reason: Mapped[str | None]
