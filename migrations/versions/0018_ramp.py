"""Runs that begin with one grant, then ten, then all, after a preflight; and that halt themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("runs", sa.Column("halt_reason", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("opened_to", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("begun", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column(
        "runs", sa.Column("look_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
    )
    op.add_column("runs", sa.Column("trusted_from", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("begun_before", sa.BigInteger(), server_default="0", nullable=False))
    troubled = sa.text("state IN ('failed', 'needs_person', 'unknown') AND first_sent_at IS NOT NULL")
    op.create_index("ix_steps_troubled", "steps", ["grant_id"], postgresql_where=troubled)


def downgrade() -> None:
    op.drop_index("ix_steps_troubled", table_name="steps")
    for column in ("begun_before", "trusted_from", "look_at", "begun", "opened_to", "halt_reason"):
        op.drop_column("runs", column)
