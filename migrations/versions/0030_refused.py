"""Why a plan's weights in Stripe were not taken: a person corrects them, there or here."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    op.add_column("plans", sa.Column("weights_refused", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("plans", "weights_refused")
