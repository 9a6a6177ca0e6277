"""Limits within which a run approves itself, the budget of each day, and runs that were declined."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import add_only, wall

revision = "0013"
down_revision = "0012"

STATES = "'waiting', 'running', 'halted', 'done', 'superseded'"


def upgrade() -> None:
    op.create_table(
        "approval_limits",
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("no", sa.BigInteger(), nullable=False),
        sa.Column("per_run", sa.BigInteger(), nullable=False),
        sa.Column("per_day", sa.BigInteger(), nullable=False),
        sa.Column("set_by", sa.BigInteger(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("0 <= per_run AND per_run <= per_day", name=op.f("a_run_fits_into_its_day")),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name=op.f("limit_names_a_currency")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_approval_limits_agency_id")),
        sa.ForeignKeyConstraint(["set_by"], ["members.id"], name=op.f("fk_approval_limits_set_by")),
        sa.PrimaryKeyConstraint("currency", "no", "agency_id", name=op.f("pk_approval_limits")),
    )
    wall("approval_limits", may="SELECT, INSERT")
    add_only("approval_limits")
    op.create_table(
        "limit_days",
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("allowed", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("used BETWEEN 0 AND allowed", name=op.f("automatic_within_the_day")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_limit_days_agency_id")),
        sa.PrimaryKeyConstraint("currency", "day", "agency_id", name=op.f("pk_limit_days")),
    )
    wall("limit_days")
    op.add_column("runs", sa.Column("declined_by", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("decline_reason", sa.Text(), nullable=True))
    op.create_foreign_key(op.f("fk_runs_declined_by"), "runs", "members", ["declined_by"], ["id"])
    op.drop_constraint(op.f("known_run_state"), "runs")
    op.create_check_constraint(op.f("known_run_state"), "runs", f"state IN ({STATES}, 'declined')")
    op.create_check_constraint(
        op.f("declined_by_somebody_for_a_reason"),
        "runs",
        "(state = 'declined') = (declined_by IS NOT NULL AND coalesce(decline_reason, '') <> '')",
    )


def downgrade() -> None:
    op.drop_constraint(op.f("declined_by_somebody_for_a_reason"), "runs")
    op.drop_constraint(op.f("known_run_state"), "runs")
    op.create_check_constraint(op.f("known_run_state"), "runs", f"state IN ({STATES})")
    op.drop_column("runs", "decline_reason")
    op.drop_column("runs", "declined_by")
    op.drop_table("limit_days")
    op.drop_table("approval_limits")
    op.execute("DROP FUNCTION approval_limits_are_added_only")
