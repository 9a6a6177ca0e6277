"""What the engine finds out about its own books; numbers of steps that may be passed over after a restore."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.walls import APP, OPERATOR, wall

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "reconciliations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("trouble", sa.Text(), nullable=True),
        sa.Column("objects", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "differences",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciliations")),
    )
    op.create_index("ix_reconciliations_scope", "reconciliations", ["scope", "begun_at"])
    wall("reconciliations", sees=OPERATOR, writes=OPERATOR)
    op.create_table(
        "frozen_invoices",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("frozen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_by", sa.BigInteger(), nullable=True),
        sa.Column("why_lifted", sa.Text(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(lifted_at IS NULL) = (lifted_by IS NULL)", name=op.f("a_person_lifts_it")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_frozen_invoices_agency_id")),
        sa.ForeignKeyConstraint(["lifted_by"], ["members.id"], name=op.f("fk_frozen_invoices_lifted_by")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_frozen_invoices")),
    )
    live = sa.text("lifted_at IS NULL")
    op.create_index(
        "frozen_once_for_each_reason",
        "frozen_invoices",
        ["agency_id", "invoice_id", "reason"],
        unique=True,
        postgresql_where=live,
    )
    op.create_index("ix_frozen_invoices_invoice_id", "frozen_invoices", ["invoice_id"], postgresql_where=live)
    wall("frozen_invoices", writes=OPERATOR)
    op.execute(f"GRANT SELECT, UPDATE ON SEQUENCE steps_id_seq TO {APP}")


def downgrade() -> None:
    op.execute(f"REVOKE SELECT, UPDATE ON SEQUENCE steps_id_seq FROM {APP}")
    op.drop_table("frozen_invoices")
    op.drop_table("reconciliations")
