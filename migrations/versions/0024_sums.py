"""A sum of whole numbers that stays one, for the sums that planning makes for each of very many invoices."""

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    # PostgreSQL's own sum(bigint) is a numeric, and each group of it has memory of its own. This one refuses to overflow.
    op.execute("CREATE AGGREGATE sum_of(bigint) (SFUNC = int8pl, STYPE = bigint, INITCOND = '0')")


def downgrade() -> None:
    op.execute("DROP AGGREGATE sum_of(bigint)")
