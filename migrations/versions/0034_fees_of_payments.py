"""The fee of a payment stands with the payment, and those still to be asked for are in an index."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import wall

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    op.add_column("payments", sa.Column("fee", sa.BigInteger(), nullable=True))
    op.add_column("payments", sa.Column("fee_currency", sa.Text(), nullable=True))
    op.add_column("payments", sa.Column("fee_asked", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute(
        "UPDATE payments p SET fee = f.amount, fee_currency = f.currency, fee_asked = true FROM payment_fees f"
        " WHERE f.agency_id = p.agency_id AND f.payment_id = p.id"
    )
    op.create_check_constraint("fee_has_its_currency", "payments", "(fee IS NULL) = (fee_currency IS NULL)")
    op.create_check_constraint("fee_was_asked_for", "payments", "fee_asked OR fee IS NULL")
    unknown = sa.text("refunded > 0 AND NOT fee_asked")
    op.create_index("ix_payments_fee_due", "payments", ["agency_id", "id"], postgresql_where=unknown)
    op.drop_table("payment_fees")


def downgrade() -> None:
    op.create_table(
        "payment_fees",
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(currency IS NULL) = (amount IS NULL)", name=op.f("fee_has_its_currency")),
        sa.ForeignKeyConstraint(
            ["agency_id", "payment_id"],
            ["payments.agency_id", "payments.id"],
            name=op.f("fk_payment_fees_agency_id_payment_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_payment_fees_agency_id")),
        sa.PrimaryKeyConstraint("payment_id", "agency_id", name=op.f("pk_payment_fees")),
    )
    op.execute(
        "INSERT INTO payment_fees (agency_id, payment_id, currency, amount)"
        " SELECT agency_id, id, fee_currency, fee FROM payments WHERE fee_asked"
    )
    wall("payment_fees")
    op.drop_index("ix_payments_fee_due", "payments")
    op.drop_constraint("fee_was_asked_for", "payments")
    op.drop_constraint("fee_has_its_currency", "payments")
    op.drop_column("payments", "fee_asked")
    op.drop_column("payments", "fee_currency")
    op.drop_column("payments", "fee")
