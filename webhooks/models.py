"""InboxEvent: each event of Stripe's. Monitor, MonitorAlert: who proposes incidents. Else: what agencies are told."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import AgencyOwned, Base


class InboxEvent(Base):
    """One event, unique by (account, event id); '' is the operator's account. Its payload is not kept.

    received -> handled, or ignored (nothing to do, and `reason` says why), or, for a person, failed (it could not be
    handled for days) or orphan (nobody knows whose it is).
    """

    __tablename__ = "inbox_events"
    __table_args__ = (
        sa.CheckConstraint("state IN ('received', 'handled', 'ignored', 'failed', 'orphan')", name="known_inbox_state"),
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


class Monitor(Base):
    """Who may propose incidents of one platform, for one agency or (NULL) for everybody. Only its token's hash is kept.

    `secret` is what PagerDuty signs with, or the hash of the bearer token that Alertmanager sends.
    """

    __tablename__ = "monitors"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('alertmanager', 'pagerduty', 'statuspage')", name="known_monitor_kind"),
        sa.CheckConstraint("(kind = 'statuspage') = (secret IS NULL)", name="proves_who_it_is"),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    agency_id: Mapped[int | None] = mapped_column(sa.ForeignKey("agencies.id"))
    kind: Mapped[str]
    platform_id: Mapped[int] = mapped_column(sa.ForeignKey("platforms.id"))
    token_hash: Mapped[str] = mapped_column(unique=True)
    secret: Mapped[str | None]
    added_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    added_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    disabled_at: Mapped[datetime | None]


class MonitorAlert(Base):
    """One occurrence of one alert, as its monitor spoke of it last; `name` is the monitor's own."""

    __tablename__ = "monitor_alerts"
    __table_args__ = (sa.Index("ix_monitor_alerts_suspicion_id", "suspicion_id"),)
    monitor_id: Mapped[int] = mapped_column(sa.ForeignKey("monitors.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime | None]
    """NULL: it has only been said that it ended."""
    ended_at: Mapped[datetime | None]
    said_at: Mapped[datetime]
    """When the monitor said so: what it had said before that changes nothing."""
    heard_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    suspicion_id: Mapped[str | None] = mapped_column(sa.ForeignKey("suspicions.id"))


class WebhookEndpoint(AgencyOwned, Base):
    """Where an agency wants to be told. disabled: by a person, or because it answered 410 Gone."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        sa.CheckConstraint("state IN ('enabled', 'disabled')", name="known_endpoint_state"),
        sa.UniqueConstraint("agency_id", "url", name="one_endpoint_per_address"),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True, unique=True)
    url: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="enabled")
    reason: Mapped[str | None]
    """Why it is disabled."""
    failing_since: Mapped[datetime | None]
    """Since when no call has been taken; NULL: the last one was."""
    added_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    added_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class WebhookSecret(AgencyOwned, Base):
    """What calls to one endpoint are signed with. After a rotation the old one goes on signing until `until`."""

    __tablename__ = "webhook_secrets"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "endpoint_id"], ["webhook_endpoints.agency_id", "webhook_endpoints.id"]),
    )
    endpoint_id: Mapped[int] = mapped_column(primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True)
    secret: Mapped[str]
    made_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    until: Mapped[datetime | None]


class Notice(AgencyOwned, Base):
    """One fact for one agency's endpoints, in the words in which it is sent, always the same: once per (type, about).

    `about` is the update or the grant that it tells of.
    """

    __tablename__ = "notices"
    __table_args__ = (sa.UniqueConstraint("agency_id", "type", "about", name="no_notice_twice"),)
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True, unique=True)
    uid: Mapped[str] = mapped_column(server_default=sa.text("'msg_' || replace(gen_random_uuid()::text, '-', '')"))
    """Its `webhook-id`: the same at every attempt, so that the receiver can tell a copy."""
    type: Mapped[str]
    about: Mapped[str]
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), index=True)
    body: Mapped[str]
    made_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class Delivery(AgencyOwned, Base):
    """A notice on its way to an endpoint: queued -> sending -> delivered, queued again for later, failed, withdrawn."""

    __tablename__ = "deliveries"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "endpoint_id"], ["webhook_endpoints.agency_id", "webhook_endpoints.id"]),
        sa.ForeignKeyConstraint(["agency_id", "notice_id"], ["notices.agency_id", "notices.id"]),
        sa.UniqueConstraint("agency_id", "endpoint_id", "notice_id", name="delivered_once"),
        sa.CheckConstraint(
            "state IN ('queued', 'sending', 'delivered', 'failed', 'withdrawn')", name="known_delivery_state"
        ),
        sa.CheckConstraint("(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_has_its_time"),
        sa.Index(
            "ix_deliveries_due", "endpoint_id", "due_at", postgresql_where=sa.text("state IN ('queued', 'sending')")
        ),
    )  # fmt: skip
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True, unique=True)
    endpoint_id: Mapped[int]
    notice_id: Mapped[int] = mapped_column(index=True)
    state: Mapped[str] = mapped_column(server_default="queued")
    attempt_no: Mapped[int] = mapped_column(server_default="0")
    status: Mapped[int | None]
    """What the last attempt was answered with."""
    reason: Mapped[str | None]
    due_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    lease_until: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
