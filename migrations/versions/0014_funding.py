"""Balances without money for refunds, and why a refund is pending."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import OPERATOR, wall

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("refunds", sa.Column("pending_reason", sa.Text(), nullable=True))
    op.create_table(
        "shortages",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("holds", sa.Boolean(), nullable=False),
        sa.Column("available", sa.BigInteger(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account", "currency", name=op.f("pk_shortages")),
    )
    wall("shortages", sees=OPERATOR, writes=OPERATOR, may="SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    op.drop_table("shortages")
    op.drop_column("refunds", "pending_reason")
