"""Events that are kept because nobody knows whose they are."""

from alembic import op

revision = "0016"
down_revision = "0015"

STATES = "'received', 'handled', 'ignored', 'failed'"


def upgrade() -> None:
    op.drop_constraint(op.f("known_inbox_state"), "inbox_events")
    op.create_check_constraint(op.f("known_inbox_state"), "inbox_events", f"state IN ({STATES}, 'orphan')")


def downgrade() -> None:
    op.execute("UPDATE inbox_events SET state = 'failed' WHERE state = 'orphan'")
    op.drop_constraint(op.f("known_inbox_state"), "inbox_events")
    op.create_check_constraint(op.f("known_inbox_state"), "inbox_events", f"state IN ({STATES})")
