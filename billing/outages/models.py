"""Incident, Run, Grant, Step, Pause: what was lost, what is given back, and how far each call to Stripe has come.

Amounts are integers of the currency's smallest Stripe unit, times are UTC. Leases and due times are read and written
with the database's clock; `started_at`, `ended_at`, `as_of` and other business times come from `tenants.clock`.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSTZRANGE, ExcludeConstraint, Range
from sqlalchemy.orm import Mapped, mapped_column

from tenants.db import AgencyOwned, Base

STEP_NEXT: dict[str, frozenset[str]] = {
    "planned": frozenset({"approved", "cancelled"}),
    "approved": frozenset({"sent", "cancelled", "blocked", "needs_person"}),
    "sent": frozenset(
        {"sent", "pending", "succeeded", "failed", "unknown", "blocked", "needs_person", "given_elsewhere"}
    ),
    "unknown": frozenset({"sent", "pending", "succeeded", "needs_person", "unknown"}),
    "pending": frozenset({"succeeded", "failed", "cancelled"}),
    "succeeded": frozenset({"failed"}),  # banks return refunds, up to weeks later
    "blocked": frozenset({"approved", "pending", "succeeded", "needs_person", "cancelled", "given_elsewhere"}),
    "needs_person": frozenset({"approved", "pending", "succeeded", "failed", "cancelled", "given_elsewhere"}),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "given_elsewhere": frozenset(),
}
"""Which state of a step may follow which; a trigger in the database holds the same table (tested against this one)."""

GRANT_TO_TELL = (
    "(told IS NULL AND state NOT IN ('planned', 'cancelled'))"
    " OR (state IN ('succeeded', 'needs_person') AND told IS DISTINCT FROM state)"
)
"""Grants that a customer may have to hear of: approved ones, once, and each end of one."""
GRANT_TO_ANNOUNCE = "state IN ('succeeded', 'failed', 'needs_person') AND announced IS DISTINCT FROM state"
"""Grants of which the agency's webhooks have not told this state."""
PAUSE_TO_TELL = "state IN ('held', 'released') AND told IS DISTINCT FROM state AND held_at IS NOT NULL"
"""Pauses that really stood in Stripe, or no longer do."""
NOT_LET_GO = ("planned", "held", "finalized", "needs_person")
"""Held invoices that are still to be stopped, or to be let go."""


def _one_of(column: str, *states: str) -> str:
    return f"{column} IN ({', '.join(repr(state) for state in states)})"


class Incident(Base):
    """A declared outage of one platform over [started_at, ended_at). `agency_id`: who declared it for itself alone."""

    __tablename__ = "incidents"
    __table_args__ = (
        sa.CheckConstraint("ended_at IS NULL OR ended_at > started_at", name="window_runs_forward"),
        sa.CheckConstraint("impact_bp BETWEEN 1 AND 10000", name="impact_is_a_share"),
        sa.CheckConstraint(
            _one_of("state", "suspected", "declared", "resolved", "retracted", "retired"), name="known_state"
        ),
        sa.CheckConstraint("(state = 'resolved') <= (ended_at IS NOT NULL)", name="resolved_has_an_end"),
        sa.CheckConstraint(
            "policy IS NULL OR policy IN ('prorated', 'full', 'credit', 'none')", name="known_incident_policy"
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    agency_id: Mapped[int | None] = mapped_column(sa.ForeignKey("agencies.id"))
    platform_id: Mapped[int] = mapped_column(sa.ForeignKey("platforms.id"), index=True)
    title: Mapped[str]
    state: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    impact_bp: Mapped[int]
    policy: Mapped[str | None]
    """What was asked for at declaration; NULL: each agency's own policy."""
    declared_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    declared_at: Mapped[datetime]
    resolved_by: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    resolved_at: Mapped[datetime | None]
    promise_at: Mapped[datetime]
    followed_at: Mapped[datetime] = mapped_column(server_default=sa.func.clock_timestamp())
    """When it was last looked whether there are subscriptions that it takes and does not hold, on the database's clock.
    See `billing.outages.newcomers`."""


class IncidentScope(Base):
    """Which agency an incident covers; `agency_id` 0 is all of them. Two equal live declarations cannot stand."""

    __tablename__ = "incident_scope"
    __table_args__ = (
        sa.CheckConstraint("NOT isempty(during)", name="scope_is_not_empty"),
        ExcludeConstraint(
            (sa.func.int8range(sa.column("agency_id"), sa.column("agency_id"), sa.text("'[]'")), "&&"),
            (sa.func.int8range(sa.column("platform_id"), sa.column("platform_id"), sa.text("'[]'")), "&&"),
            (sa.func.int8range(sa.column("impact_bp"), sa.column("impact_bp"), sa.text("'[]'")), "&&"),
            (sa.column("during"), "&&"),
            where=sa.text("live"),
            using="gist",
            name="not_declared_twice",
        ),
    )
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), primary_key=True)
    agency_id: Mapped[int] = mapped_column(primary_key=True)
    platform_id: Mapped[int]
    impact_bp: Mapped[int]
    during: Mapped[Range[datetime]] = mapped_column(TSTZRANGE)
    live: Mapped[bool] = mapped_column(server_default=sa.true())


class Update(Base):
    """One published sentence or two about an incident, as the status page shows it."""

    __tablename__ = "updates"
    __table_args__ = (sa.UniqueConstraint("form", name="one_update_per_form"),)
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), index=True)
    state: Mapped[str]
    body: Mapped[str]
    published_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    published_at: Mapped[datetime]
    told: Mapped[bool] = mapped_column(server_default=sa.false())
    """Every customer whom it concerns has a message with it."""
    announced: Mapped[bool] = mapped_column(server_default=sa.false())
    """Every agency whom it concerns has a notice of it for its webhooks."""
    form: Mapped[str | None]
    """The token of the form that published it; NULL: another way."""


class Run(AgencyOwned, Base):
    """An immutable plan of one agency's grants for one incident: planned, approved, executed.

    waiting (for a person) -> running -> done, halted meanwhile; or, before its approval, declined by a person or
    superseded by a newer plan. A run within its agency's limits approves itself; one that owes nothing is done at once
    and needs nobody's approval.
    """

    __tablename__ = "runs"
    __table_args__ = (
        sa.UniqueConstraint("agency_id", "incident_id", "no", name="runs_are_numbered"),
        sa.CheckConstraint(
            _one_of("state", "waiting", "running", "halted", "done", "superseded", "declined"), name="known_run_state"
        ),
        sa.CheckConstraint(
            _one_of("purpose", "declare", "resolve", "change", "reopen", "retract", "retire", "settle"),
            name="known_purpose",
        ),
        sa.CheckConstraint(
            "approval IS NULL OR (approved_fingerprint IS NOT NULL AND approved_fingerprint = fingerprint)",
            name="approved_what_was_planned",
        ),
        sa.CheckConstraint(
            "approval IS NULL"
            " OR (approval = 'person' AND approved_by IS NOT NULL AND approved_by NOT IN (declared_by, started_by))"
            " OR (approval = 'automatic' AND approved_by IS NULL AND limit_set_by IS NOT NULL"
            " AND limit_set_at IS NOT NULL AND limit_set_by NOT IN (declared_by, started_by)"
            " AND limit_set_at < declared_at)",
            name="second_pair_of_eyes",
        ),
        sa.CheckConstraint(
            "state NOT IN ('running', 'halted') OR approval IS NOT NULL", name="nothing_runs_unapproved"
        ),
        sa.CheckConstraint(
            "(state = 'declined') = (declined_by IS NOT NULL AND coalesce(decline_reason, '') <> '')",
            name="declined_by_somebody_for_a_reason",
        ),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), index=True)
    no: Mapped[int]
    purpose: Mapped[str]
    state: Mapped[str]
    policy: Mapped[str]
    terms: Mapped[dict[str, Any] | None]
    """The agency's whole policy as it was then, as `billing.outages.terms` writes it down, and under `plans` what the
    plans of its lines were called: `{plan: name}`."""
    as_of: Mapped[datetime]
    """Open incidents are counted as lost until here."""
    planned_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    fingerprint: Mapped[str]
    started_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    declared_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    declared_at: Mapped[datetime]
    approval: Mapped[str | None]
    approved_by: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    approved_at: Mapped[datetime | None]
    approved_fingerprint: Mapped[str | None]
    limit_set_by: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    limit_set_at: Mapped[datetime | None]
    declined_by: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    decline_reason: Mapped[str | None]
    halted_by: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    halt_reason: Mapped[str | None]
    """Why it halted itself; NULL where a person did, or where it is not halted."""
    opened_to: Mapped[int | None]
    """How many of its grants may be begun, NULL: all of them. See `billing.outages.ramp`."""
    begun: Mapped[int] = mapped_column(server_default="0")
    look_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    """When its preflight is due, while `opened_to` is 0."""
    trusted_from: Mapped[datetime | None]
    begun_before: Mapped[int] = mapped_column(server_default="0")
    """How many had been begun when a person last continued it after it had halted itself."""
    finished_at: Mapped[datetime | None]
    left_out: Mapped[list[Any]] = mapped_column(server_default="[]")
    """Who is owed something and not in it, and why: `[{"reason", "count", "amount": [{"currency", "amount"}]}]`."""


class RunTotal(AgencyOwned, Base):
    """What a run may send and has begun to send, per currency. `sent` rises in the transaction that claims a step."""

    __tablename__ = "run_totals"
    __table_args__ = (sa.CheckConstraint("sent BETWEEN 0 AND approved", name="never_more_than_approved"),)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    approved: Mapped[int]
    sent: Mapped[int] = mapped_column(server_default="0")


class Basis(AgencyOwned, Base):
    """On which past an approved grant was planned: two runs that counted the same past cannot both be approved."""

    __tablename__ = "basis"
    invoice_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    granted_before: Mapped[int]


class Grant(AgencyOwned, Base):
    """One line of a run: what one invoice gets back, and through which channel.

    `amount` is the sum of its parts: `refund` (to the cards, newest payment first), `credit` (to the customer's
    balance), `reduce` (off what is due) and `out_of_band` (by a person). `owed` is the exact amount owed for this
    invoice by all incidents together, as "numerator/denominator". The state is the worst of its steps' states.
    """

    __tablename__ = "grants"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "run_id"], ["runs.agency_id", "runs.id"]),
        sa.ForeignKeyConstraint(["agency_id", "invoice_id"], ["invoices.agency_id", "invoices.id"]),
        sa.UniqueConstraint("agency_id", "id"),
        sa.Index(
            "one_grant_per_invoice_and_run",
            "agency_id",
            "run_id",
            "invoice_id",
            unique=True,
            postgresql_where=sa.text("fallback_of IS NULL"),
        ),
        sa.Index(
            "ix_grants_at_work",
            "run_id",
            postgresql_where=sa.text("state IN ('planned', 'approved', 'sent', 'unknown')"),
        ),
        sa.Index("ix_grants_to_tell", "id", postgresql_where=sa.text(GRANT_TO_TELL)),
        sa.Index("ix_grants_to_announce", "agency_id", "id", postgresql_where=sa.text(GRANT_TO_ANNOUNCE)),
        sa.CheckConstraint("amount > 0", name="grant_is_positive"),
        sa.CheckConstraint(
            "refund >= 0 AND credit >= 0 AND reduce >= 0 AND out_of_band >= 0"
            " AND refund + credit + reduce + out_of_band = amount",
            name="parts_make_the_whole",
        ),
        sa.CheckConstraint("short >= 0", name="short_of_its_lines"),
        sa.CheckConstraint(_one_of("channel", "refund", "credit", "reduce", "manual"), name="known_channel"),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True, unique=True)
    run_id: Mapped[str] = mapped_column(index=True)
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), index=True)
    invoice_id: Mapped[str] = mapped_column(index=True)
    customer_id: Mapped[str] = mapped_column(index=True)
    subscription_id: Mapped[str | None]
    channel: Mapped[str]
    currency: Mapped[str]
    amount: Mapped[int]
    refund: Mapped[int] = mapped_column(server_default="0")
    credit: Mapped[int] = mapped_column(server_default="0")
    reduce: Mapped[int] = mapped_column(server_default="0")
    out_of_band: Mapped[int] = mapped_column(server_default="0")
    short: Mapped[int] = mapped_column(server_default="0")
    """By how much Stripe's rounding of tax keeps it below what its lines come to; it stays owed."""
    owed: Mapped[str]
    base: Mapped[str] = mapped_column(server_default="1/1")
    """The part of the invoice that still stood when this was planned: what others gave back has been taken off."""
    whole: Mapped[str] = mapped_column(server_default="0/1")
    """The part of what still stood that was paid while an incident under the policy `full` went on."""
    elsewhere: Mapped[int | None]
    """What others had given back of its invoice when it was approved; None where nobody wrote it down."""
    granted_before: Mapped[int]
    netted: Mapped[str | None]
    """What later invoices of its subscription took back of it, exact: what its lines come to, less this, is `owed`."""
    waived: Mapped[int | None]
    """By how much its customer's choices made it smaller."""
    clipped: Mapped[int | None]
    """By how much it was planned below the formula, as no more could be refunded or sent; it stays owed.

    These three are empty for a grant that is older than they are, or that stands in for another."""
    basis_seq: Mapped[int]
    state: Mapped[str]
    reason: Mapped[str | None]
    fallback_of: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    settled_at: Mapped[datetime | None]
    told: Mapped[str | None]
    """The last state of it that the customer's messages have taken account of: see `billing.outages.messages`."""
    announced: Mapped[str | None]
    """The last state of it that the agency's webhooks have told, or need not tell: see `webhooks.notices`."""


class GrantLine(AgencyOwned, Base):
    """The arithmetic of one invoice line, kept for good. `owed` is exact, "numerator/denominator"; `amount` its share
    of the grant after the one rounding. `lost` is the integral of the lost share over the period in 10^-8 seconds."""

    __tablename__ = "grant_lines"
    __table_args__ = (sa.ForeignKeyConstraint(["agency_id", "grant_id"], ["grants.agency_id", "grants.id"]),)
    grant_id: Mapped[int] = mapped_column(primary_key=True)
    line_id: Mapped[str] = mapped_column(primary_key=True)
    plan_id: Mapped[str | None]
    net: Mapped[int]
    tax: Mapped[int]
    period_start: Mapped[datetime]
    period_end: Mapped[datetime]
    lost: Mapped[int] = mapped_column(sa.Numeric(40, 0))
    owed: Mapped[str]
    amount: Mapped[int]


class RunLoss(AgencyOwned, Base):
    """The loss schedule that a run was planned with: one plan's lost share over [starts_at, ends_at), in 10^-8."""

    __tablename__ = "run_losses"
    __table_args__ = (sa.ForeignKeyConstraint(["agency_id", "run_id"], ["runs.agency_id", "runs.id"]),)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    plan_id: Mapped[str] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    ends_at: Mapped[datetime]
    share: Mapped[int]


class Step(AgencyOwned, Base):
    """One POST of money to Stripe. `body` is frozen, as ordered JSON text, before the first attempt.

    `kind` is credit_note, refund, balance, or void (a draft of which everything was lost). The idempotency key is
    `e{env}:a{agency}:s{step}:n{epoch}`.
    """

    __tablename__ = "steps"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "grant_id"], ["grants.agency_id", "grants.id"]),
        sa.UniqueConstraint("agency_id", "grant_id", "no", name="steps_are_numbered"),
        sa.UniqueConstraint("stripe_account", "stripe_id", name="one_object_one_step"),
        sa.CheckConstraint(_one_of("kind", "credit_note", "refund", "balance", "void"), name="known_step_kind"),
        sa.CheckConstraint(_one_of("state", *STEP_NEXT), name="known_step_state"),
        sa.CheckConstraint(
            "state NOT IN ('pending', 'succeeded') OR stripe_id IS NOT NULL", name="an_answer_names_its_object"
        ),
        sa.CheckConstraint(
            "state NOT IN ('sent', 'unknown', 'pending', 'succeeded', 'failed')"
            " OR (body IS NOT NULL AND first_sent_at IS NOT NULL)",
            name="frozen_before_it_is_sent",
        ),
        sa.Index(
            "ix_steps_troubled",
            "grant_id",
            postgresql_where=sa.text("state IN ('failed', 'needs_person', 'unknown') AND first_sent_at IS NOT NULL"),
        ),
        sa.Index(
            "ix_steps_fair",
            "agency_id",
            "due_at",
            "id",
            postgresql_where=sa.text("state IN ('approved', 'sent', 'unknown', 'pending')"),
        ),
        sa.Index(
            "ix_steps_unknown",
            "agency_id",
            "due_at",
            "first_sent_at",
            postgresql_where=sa.text("state IN ('sent', 'unknown')"),
        ),
        sa.Index(
            "ix_steps_under_way",
            "agency_id",
            "first_sent_at",
            "id",
            postgresql_where=sa.text(
                "state IN ('sent', 'unknown', 'pending')"
                " OR state = 'approved' AND (no > 1 OR first_sent_at IS NOT NULL)"
            ),
        ),
        sa.Index(
            "ix_steps_due",
            "due_at",
            "id",
            postgresql_where=sa.text("state IN ('approved', 'sent', 'unknown', 'pending')"),
        ),
        sa.Index("ix_steps_blocked", "due_at", postgresql_where=sa.text("state = 'blocked'")),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True, unique=True)
    grant_id: Mapped[int] = mapped_column(index=True)
    no: Mapped[int]
    kind: Mapped[str]
    payment_id: Mapped[str | None]
    currency: Mapped[str]
    amount: Mapped[int]
    """Of the whole note, refund or entry; what it takes from a payment is `refund`."""
    refund: Mapped[int] = mapped_column(server_default="0")
    state: Mapped[str]
    stripe_account: Mapped[str]
    stripe_id: Mapped[str | None]
    refund_id: Mapped[str | None]
    """The refund that a credit note made, where it made one."""
    epoch: Mapped[int] = mapped_column(server_default="0")
    body: Mapped[str | None]
    body_sha256: Mapped[str | None]
    stripe_version: Mapped[str | None]
    available: Mapped[int | None]
    """What others had left of the payment when it was planned: captured - elsewhere - disputed. Anything else at
    sending cancels the step; what we take ourselves is kept in bounds by the payment's own counters."""
    tries: Mapped[int] = mapped_column(server_default="0")
    """How often it was taken up since it last came to anything: what always raises is not taken up for ever."""
    first_sent_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    attempt_no: Mapped[int] = mapped_column(server_default="0")
    due_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    reason: Mapped[str | None]


class StepEvent(AgencyOwned, Base):
    """One transition of a step, with what was seen. Add-only."""

    __tablename__ = "step_events"
    __table_args__ = (sa.ForeignKeyConstraint(["agency_id", "step_id"], ["steps.agency_id", "steps.id"]),)
    step_id: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    from_state: Mapped[str]
    to_state: Mapped[str]
    actor: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    evidence: Mapped[dict[str, Any] | None]


class Attempt(AgencyOwned, Base):
    """One sending of a step, written before it is sent."""

    __tablename__ = "attempts"
    __table_args__ = (sa.ForeignKeyConstraint(["agency_id", "step_id"], ["steps.agency_id", "steps.id"]),)
    step_id: Mapped[int] = mapped_column(primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    sent_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    ended_at: Mapped[datetime | None]
    http_status: Mapped[int | None]
    replayed: Mapped[bool | None]
    request_id: Mapped[str | None]
    outcome: Mapped[str | None]


class Pause(AgencyOwned, Base):
    """The engine's hold on one subscription's billing, on behalf of one incident.

    planned -> held (ours in Stripe) or left (somebody else had paused it, or it had ended: not ours to touch);
    held -> releasing -> released. `found` is Stripe's pause_collection as it was before us. `behavior` is how this
    incident wants renewals held: of several pauses of a subscription the one that has stood the longest decides.
    """

    __tablename__ = "pauses"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "subscription_id"], ["subscriptions.agency_id", "subscriptions.id"]),
        sa.UniqueConstraint("agency_id", "incident_id", "subscription_id", name="one_hold_per_incident"),
        sa.CheckConstraint(
            _one_of("state", "planned", "held", "left", "releasing", "released", "cancelled", "needs_person"),
            name="known_pause_state",
        ),
        sa.Index(
            "ix_pauses_due",
            "state",
            "renews_at",
            "id",
            postgresql_where=sa.text("state IN ('planned', 'releasing')"),
        ),
        sa.Index("ix_pauses_to_tell", "id", postgresql_where=sa.text(PAUSE_TO_TELL)),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True, unique=True)
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), index=True)
    subscription_id: Mapped[str] = mapped_column(index=True)
    behavior: Mapped[str]
    state: Mapped[str]
    renews_at: Mapped[datetime | None]
    """When it would have been charged next: the soonest are held first."""
    found: Mapped[dict[str, Any] | None]
    held_at: Mapped[datetime | None]
    read_back_at: Mapped[datetime | None]
    released_at: Mapped[datetime | None]
    epoch: Mapped[int] = mapped_column(server_default="0")
    attempt_no: Mapped[int] = mapped_column(server_default="0")
    lease_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    reason: Mapped[str | None]
    told: Mapped[str | None]
    """The last state of it that the customer's messages have taken account of."""


class HeldInvoice(AgencyOwned, Base):
    """A draft or open invoice whose collection we stopped, until the pause of its subscription is released.

    planned -> held -> finalized (drafts only) -> collecting -> collected | voided (all of it was lost) | released
    (`auto_advance` put back as it was found) | needs_person. `due` is what the customer was asked for in the end.
    """

    __tablename__ = "held_invoices"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "pause_id"], ["pauses.agency_id", "pauses.id"]),
        sa.ForeignKeyConstraint(["agency_id", "invoice_id"], ["invoices.agency_id", "invoices.id"]),
        sa.CheckConstraint(_one_of("kind", "draft", "open"), name="known_held_kind"),
        sa.CheckConstraint(
            _one_of(
                "state", "planned", "held", "finalized", "collecting", "collected", "voided", "released", "needs_person"
            ),
            name="known_held_state",
        ),
        sa.Index(
            "ix_held_invoices_due", "due_at", "invoice_id",
            postgresql_where=sa.text(_one_of("state", *NOT_LET_GO)),
        ),
    )  # fmt: skip
    invoice_id: Mapped[str] = mapped_column(primary_key=True)
    pause_id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    found_auto_advance: Mapped[bool]
    state: Mapped[str]
    due: Mapped[int | None]
    attempt_no: Mapped[int] = mapped_column(server_default="0")
    lease_until: Mapped[datetime | None]
    due_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    reason: Mapped[str | None]


class HandPayment(AgencyOwned, Base):
    """What a person paid back outside Stripe for one grant, as they noted it. Add-only."""

    __tablename__ = "hand_payments"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "grant_id"], ["grants.agency_id", "grants.id"]),
        sa.CheckConstraint("amount > 0", name="hand_payment_is_positive"),
    )
    grant_id: Mapped[int] = mapped_column(primary_key=True)
    currency: Mapped[str]
    amount: Mapped[int]
    note: Mapped[str]
    paid_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    paid_at: Mapped[datetime]


class ReportedDamage(AgencyOwned, Base):
    """What a customer says an outage cost it beyond the paid time: evidence, never a reason to pay. Add-only."""

    __tablename__ = "reported_damages"
    __table_args__ = (
        sa.ForeignKeyConstraint(["agency_id", "customer_id"], ["customers.agency_id", "customers.id"]),
        sa.CheckConstraint("amount > 0", name="damage_is_positive"),
        sa.UniqueConstraint("agency_id", "form", name="one_damage_per_form"),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    incident_id: Mapped[str] = mapped_column(sa.ForeignKey("incidents.id"), index=True)
    customer_id: Mapped[str]
    currency: Mapped[str]
    amount: Mapped[int]
    what: Mapped[str]
    reported_by: Mapped[str]
    reported_at: Mapped[datetime]
    form: Mapped[str | None]
    """The token of the form that it was entered with; NULL: another way."""


class Control(Base):
    """Whether money may be sent: scope '' is everything, `incident:<id>` an incident, `account:<id>` an account."""

    __tablename__ = "control"
    scope: Mapped[str] = mapped_column(primary_key=True)
    sending: Mapped[bool]
    reason: Mapped[str]
    by: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
