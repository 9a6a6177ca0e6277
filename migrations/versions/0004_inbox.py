"""The inbox of Stripe's events."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import OPERATOR, wall

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "inbox_events",
        sa.Column("stripe_account", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("object_kind", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("api_version", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("state", sa.Text(), server_default="received", nullable=False),
        sa.Column("attempts", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint("state IN ('received', 'handled', 'ignored', 'failed')", name=op.f("known_inbox_state")),
        sa.PrimaryKeyConstraint("stripe_account", "event_id", name=op.f("pk_inbox_events")),
        sa.UniqueConstraint("id", name=op.f("uq_inbox_events_id")),
    )
    op.create_index(
        "ix_inbox_events_due", "inbox_events", ["due_at"], unique=False, postgresql_where=sa.text("state = 'received'")
    )
    op.create_index(
        "ix_inbox_events_waiting",
        "inbox_events",
        ["object_id"],
        unique=False,
        postgresql_where=sa.text("state = 'received'"),
    )
    wall("inbox_events", sees=OPERATOR, writes=OPERATOR)


def downgrade() -> None:
    op.drop_table("inbox_events")
