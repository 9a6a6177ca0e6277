"""Agencies, their people, and the audit trail: behind row-level security from the first day."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.walls import AGENCY, APP, OPERATOR, add_only, wall

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "agencies",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), server_default="usd", nullable=False),
        sa.Column("time_zone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("stripe_account", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), server_default="prorated", nullable=False),
        sa.Column("hold_behavior", sa.Text(), server_default="keep_as_draft", nullable=False),
        sa.Column("fall_back_to_credit", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("promise_days", sa.BigInteger(), server_default="7", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("hold_behavior IN ('keep_as_draft', 'void')", name=op.f("known_hold_behavior")),
        sa.CheckConstraint("policy IN ('prorated', 'credit', 'none')", name=op.f("known_policy")),
        sa.CheckConstraint("currency = lower(currency) AND length(currency) = 3", name=op.f("currency_is_lower_case")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agencies")),
        sa.UniqueConstraint("slug", name=op.f("uq_agencies_slug")),
        sa.UniqueConstraint("stripe_account", name=op.f("uq_agencies_stripe_account")),
    )
    op.create_table(
        "members",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=True),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(agency_id IS NULL) = (role IN ('finance', 'approver', 'auditor')) AND role IN ('finance', 'approver', 'auditor', 'agency-admin', 'agency-finance')",
            name=op.f("role_belongs_to_its_side"),
        ),
        sa.CheckConstraint("email = lower(email)", name=op.f("email_is_lower_case")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_members_agency_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_members")),
        sa.UniqueConstraint("email", name=op.f("uq_members_email")),
    )
    op.create_index(op.f("ix_members_agency_id"), "members", ["agency_id"], unique=False)
    op.create_table(
        "sign_in_links",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("member_id", sa.BigInteger(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=True),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(customer_id IS NULL) OR (agency_id IS NOT NULL)", name=op.f("customer_has_an_agency")),
        sa.CheckConstraint("(member_id IS NULL) <> (customer_id IS NULL)", name=op.f("link_is_for_one_person")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_sign_in_links_agency_id")),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_sign_in_links_member_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sign_in_links")),
    )
    op.create_table(
        "sign_ins",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("member_id", sa.BigInteger(), nullable=True),
        sa.Column("agency_id", sa.BigInteger(), nullable=True),
        sa.Column("customer_id", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(member_id IS NULL) <> (customer_id IS NULL)", name=op.f("sign_in_is_of_one_person")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_sign_ins_agency_id")),
        sa.ForeignKeyConstraint(["member_id"], ["members.id"], name=op.f("fk_sign_ins_member_id")),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_sign_ins")),
    )
    op.create_table(
        "audit_entries",
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_audit_entries_agency_id")),
        sa.PrimaryKeyConstraint("seq", "agency_id", name=op.f("pk_audit_entries")),
    )
    op.execute(f"GRANT USAGE ON SCHEMA public TO {APP}")
    op.execute(f"GRANT SELECT ON alembic_version TO {APP}")
    wall("agencies", sees=f"{OPERATOR} OR id = {AGENCY}", writes=f"{OPERATOR} OR id = {AGENCY}")
    wall("members")
    wall("sign_in_links")
    wall("sign_ins")
    wall("audit_entries", may="SELECT, INSERT")
    op.execute("SELECT set_config('app.operator', 'on', true)")
    op.execute("INSERT INTO agencies (slug, name) VALUES ('operator', 'Operator')")
    add_only("audit_entries")


def downgrade() -> None:
    op.drop_table("audit_entries")
    op.drop_table("sign_ins")
    op.drop_table("sign_in_links")
    op.drop_table("members")
    op.drop_table("agencies")
    op.execute("DROP FUNCTION audit_entries_are_added_only")
