"""When each account's events were last asked for, so that any worker sees who is due."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    now = sa.text("now()")
    op.add_column(
        "sync_cursors", sa.Column("looked_at", sa.DateTime(timezone=True), nullable=False, server_default=now)
    )


def downgrade() -> None:
    op.drop_column("sync_cursors", "looked_at")
