"""What becomes of subscriptions whose platform does not come back."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.walls import wall

revision = "0010"
down_revision = "0009"

CHECKS = {
    ("incidents", "known_state"): ("state", "'suspected', 'declared', 'resolved', 'retracted'"),
    ("runs", "known_purpose"): ("purpose", "'declare', 'resolve', 'change', 'reopen', 'retract'"),
    ("incident_versions", "known_decision"): ("what", "'declared', 'changed', 'resolved', 'reopened', 'retracted'"),
}
NEW = {"state": "retired", "purpose": "retire", "what": "retired"}


def upgrade() -> None:
    op.create_table(
        "retirements",
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("moves", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt_no", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('cancel', 'move')", name=op.f("known_fate")),
        sa.CheckConstraint("state IN ('planned', 'done', 'needs_person')", name=op.f("known_retirement_state")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_retirements_agency_id")),
        sa.ForeignKeyConstraint(
            ["agency_id", "subscription_id"],
            ["subscriptions.agency_id", "subscriptions.id"],
            name=op.f("fk_retirements_agency_id_subscription_id"),
        ),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_retirements_incident_id")),
        sa.PrimaryKeyConstraint("incident_id", "subscription_id", "agency_id", name=op.f("pk_retirements")),
    )
    op.create_index(
        "ix_retirements_due", "retirements", ["due_at"], unique=False, postgresql_where=sa.text("state = 'planned'")
    )
    wall("retirements")
    for (table, name), (column, known) in CHECKS.items():
        op.drop_constraint(op.f(name), table)
        op.create_check_constraint(op.f(name), table, f"{column} IN ({known}, '{NEW[column]}')")


def downgrade() -> None:
    for (table, name), (column, known) in CHECKS.items():
        op.drop_constraint(op.f(name), table)
        op.create_check_constraint(op.f(name), table, f"{column} IN ({known})")
    op.drop_table("retirements")
