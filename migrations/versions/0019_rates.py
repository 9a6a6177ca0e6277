"""Turns at Stripe that all workers share."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import OPERATOR, wall

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "rate_buckets",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("slowed_to", sa.Float(), nullable=True),
        sa.Column("slowed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("account", "endpoint", name=op.f("pk_rate_buckets")),
    )
    wall("rate_buckets", sees=OPERATOR, writes=OPERATOR)


def downgrade() -> None:
    op.drop_table("rate_buckets")
