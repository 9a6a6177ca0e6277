"""Runs keep the terms that they were planned on; what an agency wants lives in its policy's versions alone."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("runs", sa.Column("terms", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True))
    op.add_column("grants", sa.Column("whole", sa.Text(), server_default="0/1", nullable=False))
    op.drop_constraint(op.f("known_incident_policy"), "incidents")
    op.create_check_constraint(
        op.f("known_incident_policy"),
        "incidents",
        "policy IS NULL OR policy IN ('prorated', 'full', 'credit', 'none')",
    )
    for column in ("policy", "hold_behavior", "promise_days"):
        op.drop_column("agencies", column)


def downgrade() -> None:
    op.add_column("agencies", sa.Column("policy", sa.Text(), server_default="prorated", nullable=False))
    op.add_column("agencies", sa.Column("hold_behavior", sa.Text(), server_default="keep_as_draft", nullable=False))
    op.add_column("agencies", sa.Column("promise_days", sa.BigInteger(), server_default="7", nullable=False))
    op.create_check_constraint(op.f("known_policy"), "agencies", "policy IN ('prorated', 'credit', 'none')")
    op.create_check_constraint(op.f("known_hold_behavior"), "agencies", "hold_behavior IN ('keep_as_draft', 'void')")
    op.drop_constraint(op.f("known_incident_policy"), "incidents")
    op.create_check_constraint(
        op.f("known_incident_policy"), "incidents", "policy IS NULL OR policy IN ('prorated', 'credit', 'none')"
    )
    op.drop_column("grants", "whole")
    op.drop_column("runs", "terms")
