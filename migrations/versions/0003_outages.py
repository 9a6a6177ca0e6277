"""Incidents, runs, grants, steps and pauses, with the rules that no code may break."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.walls import OPERATOR, OWN, add_only, wall

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("CREATE AGGREGATE lcm_of(numeric) (SFUNC = lcm, STYPE = numeric, INITCOND = '1')")
    op.create_table(
        "control",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("sending", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_control")),
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=True),
        sa.Column("platform_id", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("impact_bp", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("declared_by", sa.BigInteger(), nullable=False),
        sa.Column("declared_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_by", sa.BigInteger(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("promise_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(state = 'resolved') <= (ended_at IS NOT NULL)", name=op.f("resolved_has_an_end")),
        sa.CheckConstraint(
            "policy IS NULL OR policy IN ('prorated', 'credit', 'none')", name=op.f("known_incident_policy")
        ),
        sa.CheckConstraint("state IN ('suspected', 'declared', 'resolved', 'retracted')", name=op.f("known_state")),
        sa.CheckConstraint("ended_at IS NULL OR ended_at > started_at", name=op.f("window_runs_forward")),
        sa.CheckConstraint("impact_bp BETWEEN 1 AND 10000", name=op.f("impact_is_a_share")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_incidents_agency_id")),
        sa.ForeignKeyConstraint(["declared_by"], ["members.id"], name=op.f("fk_incidents_declared_by")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_incidents_platform_id")),
        sa.ForeignKeyConstraint(["resolved_by"], ["members.id"], name=op.f("fk_incidents_resolved_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incidents")),
    )
    op.create_index(op.f("ix_incidents_platform_id"), "incidents", ["platform_id"], unique=False)
    op.create_table(
        "incident_scope",
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.Column("platform_id", sa.BigInteger(), nullable=False),
        sa.Column("impact_bp", sa.BigInteger(), nullable=False),
        sa.Column("during", postgresql.TSTZRANGE(), nullable=False),
        sa.Column("live", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        postgresql.ExcludeConstraint(
            (sa.text("int8range(agency_id, agency_id, '[]')"), "&&"),
            (sa.text("int8range(platform_id, platform_id, '[]')"), "&&"),
            (sa.text("int8range(impact_bp, impact_bp, '[]')"), "&&"),
            (sa.column("during"), "&&"),
            where=sa.text("live"),
            using="gist",
            name="not_declared_twice",
        ),
        sa.CheckConstraint("NOT isempty(during)", name=op.f("scope_is_not_empty")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_incident_scope_incident_id")),
        sa.PrimaryKeyConstraint("incident_id", "agency_id", name=op.f("pk_incident_scope")),
    )
    op.create_table(
        "updates",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("published_by", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_updates_incident_id")),
        sa.ForeignKeyConstraint(["published_by"], ["members.id"], name=op.f("fk_updates_published_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_updates")),
    )
    op.create_index(op.f("ix_updates_incident_id"), "updates", ["incident_id"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("no", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("planned_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("started_by", sa.BigInteger(), nullable=False),
        sa.Column("declared_by", sa.BigInteger(), nullable=False),
        sa.Column("declared_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("approval", sa.Text(), nullable=True),
        sa.Column("approved_by", sa.BigInteger(), nullable=True),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("approved_fingerprint", sa.Text(), nullable=True),
        sa.Column("limit_set_by", sa.BigInteger(), nullable=True),
        sa.Column("limit_set_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("halted_by", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "left_out", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), server_default="[]", nullable=False
        ),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "approval IS NULL OR (approval = 'person' AND approved_by IS NOT NULL AND approved_by NOT IN (declared_by, started_by)) OR (approval = 'automatic' AND approved_by IS NULL AND limit_set_by IS NOT NULL AND limit_set_at IS NOT NULL AND limit_set_by NOT IN (declared_by, started_by) AND limit_set_at < declared_at)",
            name=op.f("second_pair_of_eyes"),
        ),
        sa.CheckConstraint("purpose IN ('declare', 'resolve')", name=op.f("known_purpose")),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'halted', 'done', 'superseded')", name=op.f("known_run_state")
        ),
        sa.CheckConstraint(
            "state NOT IN ('running', 'halted') OR approval IS NOT NULL", name=op.f("nothing_runs_unapproved")
        ),
        sa.CheckConstraint(
            "approval IS NULL OR (approved_fingerprint IS NOT NULL AND approved_fingerprint = fingerprint)",
            name=op.f("approved_what_was_planned"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_runs_agency_id")),
        sa.ForeignKeyConstraint(["approved_by"], ["members.id"], name=op.f("fk_runs_approved_by")),
        sa.ForeignKeyConstraint(["declared_by"], ["members.id"], name=op.f("fk_runs_declared_by")),
        sa.ForeignKeyConstraint(["halted_by"], ["members.id"], name=op.f("fk_runs_halted_by")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_runs_incident_id")),
        sa.ForeignKeyConstraint(["limit_set_by"], ["members.id"], name=op.f("fk_runs_limit_set_by")),
        sa.ForeignKeyConstraint(["started_by"], ["members.id"], name=op.f("fk_runs_started_by")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_runs")),
        sa.UniqueConstraint("agency_id", "incident_id", "no", name="runs_are_numbered"),
    )
    op.create_index(op.f("ix_runs_incident_id"), "runs", ["incident_id"], unique=False)
    op.create_table(
        "run_totals",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("approved", sa.BigInteger(), nullable=False),
        sa.Column("sent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("sent BETWEEN 0 AND approved", name=op.f("never_more_than_approved")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_run_totals_agency_id")),
        sa.PrimaryKeyConstraint("run_id", "currency", "agency_id", name=op.f("pk_run_totals")),
    )
    op.create_table(
        "run_losses",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("share", sa.BigInteger(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "run_id"], ["runs.agency_id", "runs.id"], name=op.f("fk_run_losses_agency_id_run_id")
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_run_losses_agency_id")),
        sa.PrimaryKeyConstraint("run_id", "plan_id", "starts_at", "agency_id", name=op.f("pk_run_losses")),
    )
    op.create_table(
        "basis",
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("granted_before", sa.BigInteger(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_basis_agency_id")),
        sa.PrimaryKeyConstraint("invoice_id", "seq", "agency_id", name=op.f("pk_basis")),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=True),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("refund", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("credit", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reduce", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("out_of_band", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("owed", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), server_default="1/1", nullable=False),
        sa.Column("granted_before", sa.BigInteger(), nullable=False),
        sa.Column("basis_seq", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("fallback_of", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("channel IN ('refund', 'credit', 'reduce', 'manual')", name=op.f("known_channel")),
        sa.CheckConstraint("amount > 0", name=op.f("grant_is_positive")),
        sa.CheckConstraint(
            "refund >= 0 AND credit >= 0 AND reduce >= 0 AND out_of_band >= 0 AND refund + credit + reduce + out_of_band = amount",
            name=op.f("parts_make_the_whole"),
        ),
        sa.ForeignKeyConstraint(
            ["agency_id", "invoice_id"],
            ["invoices.agency_id", "invoices.id"],
            name=op.f("fk_grants_agency_id_invoice_id"),
        ),
        sa.ForeignKeyConstraint(
            ["agency_id", "run_id"], ["runs.agency_id", "runs.id"], name=op.f("fk_grants_agency_id_run_id")
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_grants_agency_id")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_grants_incident_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_grants")),
        sa.UniqueConstraint("agency_id", "id", name=op.f("uq_grants_agency_id_id")),
        sa.UniqueConstraint("id", name=op.f("uq_grants_id")),
    )
    op.create_index(
        "ix_grants_at_work",
        "grants",
        ["run_id"],
        unique=False,
        postgresql_where=sa.text("state IN ('planned', 'approved', 'sent', 'unknown')"),
    )
    op.create_index(op.f("ix_grants_customer_id"), "grants", ["customer_id"], unique=False)
    op.create_index(op.f("ix_grants_incident_id"), "grants", ["incident_id"], unique=False)
    op.create_index(op.f("ix_grants_invoice_id"), "grants", ["invoice_id"], unique=False)
    op.create_index(op.f("ix_grants_run_id"), "grants", ["run_id"], unique=False)
    op.create_index(
        "one_grant_per_invoice_and_run",
        "grants",
        ["agency_id", "run_id", "invoice_id"],
        unique=True,
        postgresql_where=sa.text("fallback_of IS NULL"),
    )
    op.create_table(
        "grant_lines",
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("line_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=True),
        sa.Column("net", sa.BigInteger(), nullable=False),
        sa.Column("tax", sa.BigInteger(), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lost", sa.Numeric(precision=40, scale=0), nullable=False),
        sa.Column("owed", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "grant_id"], ["grants.agency_id", "grants.id"], name=op.f("fk_grant_lines_agency_id_grant_id")
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_grant_lines_agency_id")),
        sa.PrimaryKeyConstraint("grant_id", "line_id", "agency_id", name=op.f("pk_grant_lines")),
    )
    op.create_table(
        "steps",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("no", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("refund", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stripe_account", sa.Text(), nullable=False),
        sa.Column("stripe_id", sa.Text(), nullable=True),
        sa.Column("refund_id", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("body_sha256", sa.Text(), nullable=True),
        sa.Column("stripe_version", sa.Text(), nullable=True),
        sa.Column("available", sa.BigInteger(), nullable=True),
        sa.Column("first_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt_no", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('credit_note', 'refund', 'balance', 'void')", name=op.f("known_step_kind")),
        sa.CheckConstraint(
            "state NOT IN ('sent', 'unknown', 'pending', 'succeeded', 'failed')"
            " OR (body IS NOT NULL AND first_sent_at IS NOT NULL)",
            name=op.f("frozen_before_it_is_sent"),
        ),
        sa.CheckConstraint(
            "state IN ('planned', 'approved', 'sent', 'unknown', 'pending', 'succeeded', 'blocked', 'needs_person', 'failed', 'cancelled', 'given_elsewhere')",
            name=op.f("known_step_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('pending', 'succeeded') OR stripe_id IS NOT NULL", name=op.f("an_answer_names_its_object")
        ),
        sa.ForeignKeyConstraint(
            ["agency_id", "grant_id"], ["grants.agency_id", "grants.id"], name=op.f("fk_steps_agency_id_grant_id")
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_steps_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_steps")),
        sa.UniqueConstraint("agency_id", "grant_id", "no", name="steps_are_numbered"),
        sa.UniqueConstraint("id", name=op.f("uq_steps_id")),
        sa.UniqueConstraint("stripe_account", "stripe_id", name="one_object_one_step"),
    )
    op.create_index(
        "ix_steps_due",
        "steps",
        ["due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('approved', 'sent', 'unknown', 'pending')"),
    )
    op.create_index(op.f("ix_steps_grant_id"), "steps", ["grant_id"], unique=False)
    op.create_table(
        "step_events",
        sa.Column("step_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=False),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("evidence", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "step_id"], ["steps.agency_id", "steps.id"], name=op.f("fk_step_events_agency_id_step_id")
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_step_events_agency_id")),
        sa.PrimaryKeyConstraint("step_id", "seq", "agency_id", name=op.f("pk_step_events")),
    )
    op.create_table(
        "attempts",
        sa.Column("step_id", sa.BigInteger(), nullable=False),
        sa.Column("no", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("http_status", sa.BigInteger(), nullable=True),
        sa.Column("replayed", sa.Boolean(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "step_id"], ["steps.agency_id", "steps.id"], name=op.f("fk_attempts_agency_id_step_id")
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_attempts_agency_id")),
        sa.PrimaryKeyConstraint("step_id", "no", "agency_id", name=op.f("pk_attempts")),
    )
    op.create_table(
        "pauses",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("behavior", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("renews_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("found", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("held_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("read_back_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempt_no", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('planned', 'held', 'left', 'releasing', 'released', 'cancelled', 'needs_person')",
            name=op.f("known_pause_state"),
        ),
        sa.ForeignKeyConstraint(
            ["agency_id", "subscription_id"],
            ["subscriptions.agency_id", "subscriptions.id"],
            name=op.f("fk_pauses_agency_id_subscription_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_pauses_agency_id")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_pauses_incident_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_pauses")),
        sa.UniqueConstraint("agency_id", "incident_id", "subscription_id", name="one_hold_per_incident"),
        sa.UniqueConstraint("id", name=op.f("uq_pauses_id")),
    )
    op.create_index(
        "ix_pauses_due",
        "pauses",
        ["state", "renews_at", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('planned', 'releasing')"),
    )
    op.create_index(op.f("ix_pauses_incident_id"), "pauses", ["incident_id"], unique=False)
    op.create_index(op.f("ix_pauses_subscription_id"), "pauses", ["subscription_id"], unique=False)
    op.create_table(
        "held_invoices",
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("pause_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("found_auto_advance", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=True),
        sa.Column("attempt_no", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('draft', 'open')", name=op.f("known_held_kind")),
        sa.CheckConstraint(
            "state IN ('planned', 'held', 'finalized', 'collecting', 'collected', 'voided', 'released', 'needs_person')",
            name=op.f("known_held_state"),
        ),
        sa.ForeignKeyConstraint(
            ["agency_id", "invoice_id"],
            ["invoices.agency_id", "invoices.id"],
            name=op.f("fk_held_invoices_agency_id_invoice_id"),
        ),
        sa.ForeignKeyConstraint(
            ["agency_id", "pause_id"],
            ["pauses.agency_id", "pauses.id"],
            name=op.f("fk_held_invoices_agency_id_pause_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_held_invoices_agency_id")),
        sa.PrimaryKeyConstraint("invoice_id", "pause_id", "agency_id", name=op.f("pk_held_invoices")),
    )
    wall("control", sees=OPERATOR, writes=OPERATOR)
    wall("incident_scope", sees=f"agency_id = 0 OR {OWN}")
    covered = f"{OPERATOR} OR EXISTS (SELECT FROM incident_scope s WHERE s.incident_id = {{}})"
    wall("incidents", sees=covered.format("incidents.id"))
    wall("updates", sees=covered.format("updates.incident_id"), writes=OPERATOR)
    for table in ("runs", "run_totals", "grants", "steps", "attempts", "pauses", "held_invoices"):
        wall(table)
    for table in ("run_losses", "basis", "grant_lines", "step_events"):
        wall(table, may="SELECT, INSERT")
        add_only(table)
    op.execute(
        """
        CREATE FUNCTION step_follows_its_table() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE next jsonb := '{
            "planned": [
                "approved",
                "cancelled"
            ],
            "approved": [
                "blocked",
                "cancelled",
                "needs_person",
                "sent"
            ],
            "sent": [
                "blocked",
                "failed",
                "given_elsewhere",
                "needs_person",
                "pending",
                "sent",
                "succeeded",
                "unknown"
            ],
            "unknown": [
                "needs_person",
                "pending",
                "sent",
                "succeeded",
                "unknown"
            ],
            "pending": [
                "cancelled",
                "failed",
                "succeeded"
            ],
            "succeeded": [
                "failed"
            ],
            "blocked": [
                "approved",
                "cancelled",
                "given_elsewhere",
                "needs_person",
                "pending",
                "succeeded"
            ],
            "needs_person": [
                "approved",
                "cancelled",
                "failed",
                "given_elsewhere",
                "pending",
                "succeeded"
            ],
            "failed": [],
            "cancelled": [],
            "given_elsewhere": []
        }';
        BEGIN
            IF NEW.state <> OLD.state AND NOT coalesce(next -> OLD.state ? NEW.state, false) THEN
                RAISE EXCEPTION 'a step cannot go from % to %', OLD.state, NEW.state
                    USING ERRCODE = '23514', CONSTRAINT = 'step_follows_its_table';
            END IF;
            IF OLD.body IS NOT NULL AND NEW.body IS DISTINCT FROM OLD.body THEN
                RAISE EXCEPTION 'the body of step % is frozen', OLD.id
                    USING ERRCODE = '23514', CONSTRAINT = 'body_is_frozen';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER step_follows_its_table BEFORE UPDATE ON steps "
        "FOR EACH ROW EXECUTE FUNCTION step_follows_its_table()"
    )


def downgrade() -> None:
    for table in ("incidents", "updates"):
        op.execute(f"DROP POLICY sees ON {table}")
    op.execute("DROP TRIGGER step_follows_its_table ON steps")
    op.execute("DROP FUNCTION step_follows_its_table")
    op.drop_table("held_invoices")
    op.drop_table("pauses")
    op.drop_table("attempts")
    op.drop_table("step_events")
    op.drop_table("steps")
    op.drop_table("grant_lines")
    op.drop_table("grants")
    op.drop_table("basis")
    op.drop_table("run_losses")
    op.drop_table("run_totals")
    op.drop_table("runs")
    op.drop_table("updates")
    op.drop_table("incident_scope")
    op.drop_table("incidents")
    op.drop_table("control")
    op.execute("DROP FUNCTION run_losses_are_added_only")
    op.execute("DROP FUNCTION basis_are_added_only")
    op.execute("DROP FUNCTION grant_lines_are_added_only")
    op.execute("DROP FUNCTION step_events_are_added_only")
    op.execute("DROP AGGREGATE lcm_of(numeric)")
