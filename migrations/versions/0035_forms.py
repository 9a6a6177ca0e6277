"""What a form publishes or enters is kept under the form's own token, so that a form sent twice counts once."""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    op.add_column("updates", sa.Column("form", sa.Text(), nullable=True))
    op.create_unique_constraint("one_update_per_form", "updates", ["form"])
    op.add_column("reported_damages", sa.Column("form", sa.Text(), nullable=True))
    op.create_unique_constraint("one_damage_per_form", "reported_damages", ["agency_id", "form"])


def downgrade() -> None:
    op.drop_constraint("one_damage_per_form", "reported_damages")
    op.drop_column("reported_damages", "form")
    op.drop_constraint("one_update_per_form", "updates")
    op.drop_column("updates", "form")
