"""Runs that are due by themselves, and what customers chose to get."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import wall

revision = "0017"
down_revision = "0016"

PURPOSES = "'declare', 'resolve', 'change', 'reopen', 'retract', 'retire'"


def upgrade() -> None:
    op.create_table(
        "settlements",
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("closes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_settlements_agency_id")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_settlements_incident_id")),
        sa.PrimaryKeyConstraint("incident_id", "agency_id", name=op.f("pk_settlements")),
    )
    op.create_index("ix_settlements_due", "settlements", ["due_at"], postgresql_where=sa.text("due_at IS NOT NULL"))
    wall("settlements")
    op.create_table(
        "choices",
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("choice", sa.Text(), nullable=False),
        sa.Column("chosen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("choice IN ('money', 'credit', 'waive')", name=op.f("known_choice")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_choices_agency_id")),
        sa.ForeignKeyConstraint(
            ["agency_id", "customer_id"],
            ["customers.agency_id", "customers.id"],
            name=op.f("fk_choices_agency_id_customer_id"),
        ),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_choices_incident_id")),
        sa.PrimaryKeyConstraint("incident_id", "customer_id", "agency_id", name=op.f("pk_choices")),
    )
    wall("choices")
    op.create_table(
        "waivers",
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("waiver_is_positive")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_waivers_agency_id")),
        sa.ForeignKeyConstraint(
            ["agency_id", "invoice_id"],
            ["invoices.agency_id", "invoices.id"],
            name=op.f("fk_waivers_agency_id_invoice_id"),
        ),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_waivers_incident_id")),
        sa.PrimaryKeyConstraint("incident_id", "invoice_id", "agency_id", name=op.f("pk_waivers")),
    )
    op.create_index("ix_waivers_invoice_id", "waivers", ["invoice_id"])
    wall("waivers", may="SELECT, INSERT, UPDATE, DELETE")
    op.drop_constraint(op.f("known_purpose"), "runs")
    op.create_check_constraint(op.f("known_purpose"), "runs", f"purpose IN ({PURPOSES}, 'settle')")


def downgrade() -> None:
    op.drop_constraint(op.f("known_purpose"), "runs")
    op.create_check_constraint(op.f("known_purpose"), "runs", f"purpose IN ({PURPOSES})")
    for table in ("waivers", "choices", "settlements"):
        op.drop_table(table)
