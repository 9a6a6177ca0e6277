"""Versions of incidents, and the goodwill that cutting one leaves behind."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.walls import APP, OPERATOR, add_only, wall

revision = "0008"
down_revision = "0007"

PURPOSES = "purpose IN ('declare', 'resolve', 'change', 'reopen', 'retract')"


def upgrade() -> None:
    op.create_table(
        "incident_versions",
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("no", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("impact_bp", sa.BigInteger(), nullable=False),
        sa.Column("agencies", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "what IN ('declared', 'changed', 'resolved', 'reopened', 'retracted')", name=op.f("known_decision")
        ),
        sa.CheckConstraint("what = 'declared' OR reason <> ''", name=op.f("every_change_has_its_reason")),
        sa.ForeignKeyConstraint(["by"], ["members.id"], name=op.f("fk_incident_versions_by")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_incident_versions_incident_id")),
        sa.PrimaryKeyConstraint("incident_id", "no", name=op.f("pk_incident_versions")),
    )
    op.execute(
        "INSERT INTO incident_versions"
        " SELECT i.id, 1, 'declared', i.started_at, i.ended_at, i.impact_bp, jsonb_agg(s.agency_id), '', i.declared_by,"
        " i.declared_at FROM incidents i JOIN incident_scope s ON s.incident_id = i.id GROUP BY i.id"
    )
    covered = "EXISTS (SELECT FROM incident_scope s WHERE s.incident_id = incident_versions.incident_id)"
    wall("incident_versions", sees=f"{OPERATOR} OR {covered}", writes=OPERATOR, may="SELECT, INSERT")
    add_only("incident_versions")
    op.create_table(
        "goodwill",
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("highest", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount BETWEEN 0 AND highest", name=op.f("goodwill_is_never_taken_back")),
        sa.ForeignKeyConstraint(
            ["agency_id", "invoice_id"],
            ["invoices.agency_id", "invoices.id"],
            name=op.f("fk_goodwill_agency_id_invoice_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_goodwill_agency_id")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_goodwill_incident_id")),
        sa.PrimaryKeyConstraint("incident_id", "invoice_id", "agency_id", name=op.f("pk_goodwill")),
    )
    op.create_index(op.f("ix_goodwill_invoice_id"), "goodwill", ["invoice_id"])
    wall("goodwill")
    op.drop_constraint(op.f("known_purpose"), "runs")
    op.create_check_constraint(op.f("known_purpose"), "runs", PURPOSES)
    op.execute(f"GRANT DELETE ON incident_scope TO {APP}")


def downgrade() -> None:
    op.execute(f"REVOKE DELETE ON incident_scope FROM {APP}")
    op.drop_constraint(op.f("known_purpose"), "runs")
    op.create_check_constraint(op.f("known_purpose"), "runs", "purpose IN ('declare', 'resolve')")
    op.drop_table("goodwill")
    op.drop_table("incident_versions")
    op.execute("DROP FUNCTION incident_versions_are_added_only")
