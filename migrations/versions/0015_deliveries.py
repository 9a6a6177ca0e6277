"""What agencies are told by webhook: endpoints with their secrets, notices and their deliveries."""

import sqlalchemy as sa
from alembic import op

from migrations.walls import wall

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.add_column("updates", sa.Column("announced", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute("UPDATE updates SET announced = true")
    op.add_column("grants", sa.Column("announced", sa.Text(), nullable=True))
    op.create_index(
        "ix_grants_to_announce",
        "grants",
        ["agency_id", "id"],
        postgresql_where=sa.text(
            "state IN ('succeeded', 'failed', 'needs_person') AND announced IS DISTINCT FROM state"
        ),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="enabled", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("added_by", sa.BigInteger(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('enabled', 'disabled')", name=op.f("known_endpoint_state")),
        sa.ForeignKeyConstraint(["added_by"], ["members.id"], name=op.f("fk_webhook_endpoints_added_by")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_webhook_endpoints_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_webhook_endpoints")),
        sa.UniqueConstraint("id", name=op.f("uq_webhook_endpoints_id")),
        sa.UniqueConstraint("agency_id", "url", name="one_endpoint_per_address"),
    )
    op.create_table(
        "webhook_secrets",
        sa.Column("endpoint_id", sa.BigInteger(), nullable=False),
        sa.Column("no", sa.BigInteger(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "endpoint_id"],
            ["webhook_endpoints.agency_id", "webhook_endpoints.id"],
            name=op.f("fk_webhook_secrets_agency_id_endpoint_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_webhook_secrets_agency_id")),
        sa.PrimaryKeyConstraint("endpoint_id", "no", "agency_id", name=op.f("pk_webhook_secrets")),
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "uid",
            sa.Text(),
            server_default=sa.text("'msg_' || replace(gen_random_uuid()::text, '-', '')"),
            nullable=False,
        ),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("incident_id", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_notices_agency_id")),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"], name=op.f("fk_notices_incident_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_notices")),
        sa.UniqueConstraint("id", name=op.f("uq_notices_id")),
        sa.UniqueConstraint("agency_id", "type", "about", name="no_notice_twice"),
    )
    op.create_index(op.f("ix_notices_incident_id"), "notices", ["incident_id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("endpoint_id", sa.BigInteger(), nullable=False),
        sa.Column("notice_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("attempt_no", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'sending', 'delivered', 'failed', 'withdrawn')", name=op.f("known_delivery_state")
        ),
        sa.CheckConstraint("(state = 'delivered') = (delivered_at IS NOT NULL)", name=op.f("delivered_has_its_time")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_deliveries_agency_id")),
        sa.ForeignKeyConstraint(
            ["agency_id", "endpoint_id"],
            ["webhook_endpoints.agency_id", "webhook_endpoints.id"],
            name=op.f("fk_deliveries_agency_id_endpoint_id"),
        ),
        sa.ForeignKeyConstraint(
            ["agency_id", "notice_id"],
            ["notices.agency_id", "notices.id"],
            name=op.f("fk_deliveries_agency_id_notice_id"),
        ),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("id", name=op.f("uq_deliveries_id")),
        sa.UniqueConstraint("agency_id", "endpoint_id", "notice_id", name="delivered_once"),
    )
    op.create_index(op.f("ix_deliveries_notice_id"), "deliveries", ["notice_id"])
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["endpoint_id", "due_at"],
        postgresql_where=sa.text("state IN ('queued', 'sending')"),
    )
    wall("webhook_endpoints")
    wall("webhook_secrets")
    wall("notices", may="SELECT, INSERT")
    wall("deliveries")


def downgrade() -> None:
    for table in ("deliveries", "notices", "webhook_secrets", "webhook_endpoints"):
        op.drop_table(table)
    op.drop_index("ix_grants_to_announce", "grants")
    op.drop_column("grants", "announced")
    op.drop_column("updates", "announced")
