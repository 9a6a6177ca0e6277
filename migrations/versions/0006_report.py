"""What a report needs beyond the grants: Stripe's fees, what people paid by hand, what customers say they lost."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import add_only, wall

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
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
    wall("payment_fees")
    op.create_table(
        "hand_payments",
        sa.Column("grant_id", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("paid_by", sa.BigInteger(), nullable=False),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("hand_payment_is_positive")),
        sa.ForeignKeyConstraint(
            ["agency_id", "grant_id"],
            ["grants.agency_id", "grants.id"],
            name=op.f("fk_hand_payments_agency_id_grant_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_hand_payments_agency_id")),
        sa.ForeignKeyConstraint(["paid_by"], ["members.id"], name=op.f("fk_hand_payments_paid_by")),
        sa.PrimaryKeyConstraint("grant_id", "agency_id", name=op.f("pk_hand_payments")),
    )
    wall("hand_payments", may="SELECT, INSERT")
    add_only("hand_payments")
    op.create_table(
        "reported_damages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("reported_by", sa.Text(), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("damage_is_positive")),
        sa.ForeignKeyConstraint(
            ["agency_id", "customer_id"],
            ["customers.agency_id", "customers.id"],
            name=op.f("fk_reported_damages_agency_id_customer_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_reported_damages_agency_id")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_reported_damages_incident_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_reported_damages")),
    )
    op.create_index(op.f("ix_reported_damages_incident_id"), "reported_damages", ["incident_id"], unique=False)
    wall("reported_damages", may="SELECT, INSERT")
    add_only("reported_damages")


def downgrade() -> None:
    op.drop_table("reported_damages")
    op.execute("DROP FUNCTION reported_damages_are_added_only()")
    op.drop_table("hand_payments")
    op.execute("DROP FUNCTION hand_payments_are_added_only()")
    op.drop_table("payment_fees")
