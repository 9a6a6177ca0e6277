"""Why a grant is less than its lines come to: what was netted, waived and not refundable when it was planned."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    op.add_column("grants", sa.Column("netted", sa.Text(), nullable=True))
    op.add_column("grants", sa.Column("waived", sa.BigInteger(), nullable=True))
    op.add_column("grants", sa.Column("clipped", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for column in ("clipped", "waived", "netted"):
        op.drop_column("grants", column)
