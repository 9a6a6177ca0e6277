"""By how much a grant stays below its lines, where no credit note of exactly that total can be made."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.add_column("grants", sa.Column("short", sa.BigInteger(), server_default="0", nullable=False))
    op.create_check_constraint(op.f("short_of_its_lines"), "grants", "short >= 0")


def downgrade() -> None:
    op.drop_constraint(op.f("short_of_its_lines"), "grants")
    op.drop_column("grants", "short")
