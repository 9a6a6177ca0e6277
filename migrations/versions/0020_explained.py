"""How much of what went back our books explain."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    json = postgresql.JSONB(none_as_null=True, astext_type=sa.Text())
    op.add_column("reconciliations", sa.Column("explained", json, server_default="[]", nullable=False))


def downgrade() -> None:
    op.drop_column("reconciliations", "explained")
