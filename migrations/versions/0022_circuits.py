"""Circuits that leave a failing Stripe alone; steps in the order of their agencies, and how often one was taken up."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import OPERATOR, wall

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.create_table(
        "circuits",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("see_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("wait", sa.Double(), server_default="1", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("called_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(opened_at IS NULL) = (see_at IS NULL) AND (opened_at IS NULL) = (reason IS NULL)",
            name=op.f("open_for_a_reason"),
        ),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_circuits")),
    )
    wall("circuits", sees=OPERATOR, writes=OPERATOR)
    op.add_column("steps", sa.Column("tries", sa.BigInteger(), server_default="0", nullable=False))
    workable = sa.text("state IN ('approved', 'sent', 'unknown', 'pending')")
    op.create_index("ix_steps_fair", "steps", ["agency_id", "due_at", "id"], postgresql_where=workable)
    unknown = sa.text("state IN ('sent', 'unknown')")
    op.create_index("ix_steps_unknown", "steps", ["agency_id", "due_at", "first_sent_at"], postgresql_where=unknown)
    under_way = sa.text(
        "state IN ('sent', 'unknown', 'pending') OR state = 'approved' AND (no > 1 OR first_sent_at IS NOT NULL)"
    )
    op.create_index("ix_steps_under_way", "steps", ["agency_id", "first_sent_at", "id"], postgresql_where=under_way)


def downgrade() -> None:
    op.drop_index("ix_steps_under_way", table_name="steps")
    op.drop_index("ix_steps_unknown", table_name="steps")
    op.drop_index("ix_steps_fair", table_name="steps")
    op.drop_column("steps", "tries")
    op.drop_table("circuits")
