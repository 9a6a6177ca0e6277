"""Who may propose incidents, what they saw, and the suspected incidents that follow from it."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import OPERATOR, wall

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.create_table(
        "suspicions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=True),
        sa.Column("platform_id", sa.BigInteger(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="suspected", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("noticed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("decided_by", sa.BigInteger(), nullable=True),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('suspected', 'confirmed', 'dismissed')", name=op.f("known_suspicion_state")),
        sa.CheckConstraint("ended_at IS NULL OR ended_at >= started_at", name=op.f("suspicion_runs_forward")),
        sa.CheckConstraint(
            "(state = 'suspected') = (decided_by IS NULL) AND (state = 'suspected') = (decided_at IS NULL)",
            name=op.f("decided_by_somebody"),
        ),
        sa.CheckConstraint("state <> 'dismissed' OR coalesce(reason, '') <> ''", name=op.f("dismissed_for_a_reason")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_suspicions_agency_id")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_suspicions_platform_id")),
        sa.ForeignKeyConstraint(["decided_by"], ["members.id"], name=op.f("fk_suspicions_decided_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_suspicions")),
    )
    op.create_index("ix_suspicions_platform_id", "suspicions", ["platform_id", "started_at"])
    op.create_table(
        "monitors",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("platform_id", sa.BigInteger(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("added_by", sa.BigInteger(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('alertmanager', 'pagerduty', 'statuspage')", name=op.f("known_monitor_kind")),
        sa.CheckConstraint("(kind = 'statuspage') = (secret IS NULL)", name=op.f("proves_who_it_is")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_monitors_agency_id")),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_monitors_platform_id")),
        sa.ForeignKeyConstraint(["added_by"], ["members.id"], name=op.f("fk_monitors_added_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_monitors")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_monitors_token_hash")),
    )
    op.create_table(
        "monitor_alerts",
        sa.Column("monitor_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("no", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("said_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heard_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("suspicion_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["monitor_id"], ["monitors.id"], name=op.f("fk_monitor_alerts_monitor_id")),
        sa.ForeignKeyConstraint(["suspicion_id"], ["suspicions.id"], name=op.f("fk_monitor_alerts_suspicion_id")),
        sa.PrimaryKeyConstraint("monitor_id", "name", "no", name=op.f("pk_monitor_alerts")),
    )
    op.create_index("ix_monitor_alerts_suspicion_id", "monitor_alerts", ["suspicion_id"])
    wall("suspicions")
    wall("monitors")
    wall("monitor_alerts", sees=OPERATOR, writes=OPERATOR)


def downgrade() -> None:
    for table in ("monitor_alerts", "monitors", "suspicions"):
        op.drop_table(table)
