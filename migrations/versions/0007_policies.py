"""What agencies want done in an outage, version by version."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.walls import add_only, wall

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "policy_versions",
        sa.Column("no", sa.BigInteger(), nullable=False),
        sa.Column("settings", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("set_by", sa.BigInteger(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_policy_versions_agency_id")),
        sa.ForeignKeyConstraint(["set_by"], ["members.id"], name=op.f("fk_policy_versions_set_by")),
        sa.PrimaryKeyConstraint("no", "agency_id", name=op.f("pk_policy_versions")),
    )
    wall("policy_versions", may="SELECT, INSERT")
    add_only("policy_versions")


def downgrade() -> None:
    op.drop_table("policy_versions")
    op.execute("DROP FUNCTION policy_versions_are_added_only()")
