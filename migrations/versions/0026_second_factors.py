"""Second factors of members: the secret of their authenticator, and which of its codes were taken."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import OPERATOR, wall

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.create_table(
        "second_factors",
        sa.Column("member_id", sa.BigInteger(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=True),
        sa.Column("wrong", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("wrong BETWEEN 0 AND 4", name=op.f("locked_at_the_fifth_wrong_code")),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_second_factors_member_id")),
        sa.PrimaryKeyConstraint("member_id", name=op.f("pk_second_factors")),
    )
    wall("second_factors", sees=OPERATOR, writes=OPERATOR, may="SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    op.drop_table("second_factors")
