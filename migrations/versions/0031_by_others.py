"""What others had given back of an invoice when a grant was approved; and steps that wait for a dispute's end."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    op.add_column("grants", sa.Column("elsewhere", sa.BigInteger(), nullable=True))
    op.create_index("ix_steps_blocked", "steps", ["due_at"], postgresql_where=sa.text("state = 'blocked'"))


def downgrade() -> None:
    op.drop_index("ix_steps_blocked", table_name="steps")
    op.drop_column("grants", "elsewhere")
