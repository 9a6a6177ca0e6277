"""What customers are told: messages and templates, and which states of grants, pauses and updates they have heard of."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import add_only, wall

revision = "0011"
down_revision = "0010"

KINDS = "('declared', 'update', 'refunded', 'correction', 'resumed')"


def upgrade() -> None:
    op.add_column("customers", sa.Column("locale", sa.Text(), nullable=True))
    op.add_column("agencies", sa.Column("locale", sa.Text(), server_default="en-US", nullable=False))
    op.add_column("agencies", sa.Column("reply_to", sa.Text(), nullable=True))
    op.add_column("updates", sa.Column("told", sa.Boolean(), server_default=sa.false(), nullable=False))
    for table in ("grants", "pauses"):
        op.add_column(table, sa.Column("told", sa.Text(), nullable=True))
    op.create_index(
        "ix_grants_to_tell",
        "grants",
        ["id"],
        postgresql_where=sa.text(
            "(told IS NULL AND state NOT IN ('planned', 'cancelled'))"
            " OR (state IN ('succeeded', 'needs_person') AND told IS DISTINCT FROM state)"
        ),
    )
    op.create_index(
        "ix_pauses_to_tell",
        "pauses",
        ["id"],
        postgresql_where=sa.text(
            "state IN ('held', 'released') AND told IS DISTINCT FROM state AND held_at IS NOT NULL"
        ),
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("about", sa.Text(), server_default="", nullable=False),
        sa.Column("until_update", sa.BigInteger(), nullable=True),
        sa.Column("uid", sa.Text(), server_default=sa.text("gen_random_uuid()::text"), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("template", sa.BigInteger(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("first_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempt_no", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(f"kind IN {KINDS}", name=op.f("known_message_kind")),
        sa.CheckConstraint(
            "state IN ('queued', 'sending', 'sent', 'failed', 'withdrawn', 'unaddressed')",
            name=op.f("known_message_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('sending', 'sent') OR (subject IS NOT NULL AND text IS NOT NULL AND address IS NOT NULL)",
            name=op.f("written_before_it_is_sent"),
        ),
        sa.CheckConstraint("(state = 'sent') <= (sent_at IS NOT NULL)", name=op.f("sent_has_its_time")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_messages_agency_id")),
        sa.ForeignKeyConstraint(
            ["agency_id", "customer_id"],
            ["customers.agency_id", "customers.id"],
            name=op.f("fk_messages_agency_id_customer_id"),
        ),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_messages_incident_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_messages")),
        sa.UniqueConstraint("id", name=op.f("uq_messages_id")),
        sa.UniqueConstraint(
            "agency_id", "customer_id", "incident_id", "kind", "about", name=op.f("nobody_is_told_twice")
        ),
    )
    op.create_index("ix_messages_incident_id", "messages", ["incident_id"])
    op.create_index(
        "ix_messages_due", "messages", ["due_at", "id"], postgresql_where=sa.text("state IN ('queued', 'sending')")
    )
    op.create_table(
        "message_templates",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("saved_by", sa.BigInteger(), nullable=True),
        sa.Column("saved_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(f"kind IN {KINDS}", name=op.f("known_template_kind")),
        sa.CheckConstraint("(subject IS NULL) = (body IS NULL)", name=op.f("whole_or_built_in")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_message_templates_agency_id")),
        sa.ForeignKeyConstraint(["saved_by"], ["members.id"], name=op.f("fk_message_templates_saved_by")),
        sa.PrimaryKeyConstraint("kind", "version", "agency_id", name=op.f("pk_message_templates")),
    )
    wall("messages")
    wall("message_templates", may="SELECT, INSERT")
    add_only("message_templates")


def downgrade() -> None:
    op.drop_table("message_templates")
    op.execute("DROP FUNCTION message_templates_are_added_only()")
    op.drop_table("messages")
    op.drop_index("ix_pauses_to_tell", "pauses")
    op.drop_index("ix_grants_to_tell", "grants")
    for table in ("pauses", "grants", "updates"):
        op.drop_column(table, "told")
    op.drop_column("agencies", "reply_to")
    op.drop_column("agencies", "locale")
    op.drop_column("customers", "locale")
