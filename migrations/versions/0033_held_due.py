"""The first held invoice that is due, however many are held."""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    waiting = sa.text("state IN ('planned', 'held', 'finalized', 'needs_person')")
    op.create_index("ix_held_invoices_due", "held_invoices", ["due_at", "invoice_id"], postgresql_where=waiting)


def downgrade() -> None:
    op.drop_index("ix_held_invoices_due", "held_invoices")
