"""Whether an account was imported with a live key or with a test key."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("sync_cursors", sa.Column("live", sa.Boolean(), nullable=True))


def downgrade() -> None:
    op.drop_column("sync_cursors", "live")
