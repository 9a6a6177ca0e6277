"""What was sold, mirrored from Stripe."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.walls import OPERATOR, OWN, wall

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "platforms",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("slug", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_platforms")),
        sa.UniqueConstraint("slug", name=op.f("uq_platforms_slug")),
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=True),
        sa.Column("product_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("unit_amount", sa.BigInteger(), nullable=True),
        sa.Column("interval", sa.Text(), nullable=True),
        sa.Column("interval_count", sa.BigInteger(), nullable=True),
        sa.Column("metered", sa.Boolean(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("weights_from", sa.Text(), server_default="stripe", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("weights_from IN ('stripe', 'here')", name=op.f("weights_from_a_known_place")),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_plans_agency_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plans")),
    )
    op.create_index(op.f("ix_plans_agency_id"), "plans", ["agency_id"], unique=False)
    op.create_index(op.f("ix_plans_product_id"), "plans", ["product_id"], unique=False)
    op.create_table(
        "plan_weights",
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("platform_id", sa.BigInteger(), nullable=False),
        sa.Column("weight_bp", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("weight_bp BETWEEN 1 AND 10000", name=op.f("weight_is_a_share")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_plan_weights_plan_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_plan_weights_platform_id")),
        sa.PrimaryKeyConstraint("plan_id", "platform_id", name=op.f("pk_plan_weights")),
    )
    op.create_table(
        "customers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("balance", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_customers_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_customers")),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("collection_method", sa.Text(), nullable=False),
        sa.Column("pause_behavior", sa.Text(), nullable=True),
        sa.Column("pause_resumes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pause_incident", sa.Text(), nullable=True),
        sa.Column("cancel_at_period_end", sa.Boolean(), nullable=False),
        sa.Column("trial_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("renews_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("canceled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "customer_id"],
            ["customers.agency_id", "customers.id"],
            name=op.f("fk_subscriptions_agency_id_customer_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_subscriptions_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_subscriptions")),
    )
    op.create_index(op.f("ix_subscriptions_customer_id"), "subscriptions", ["customer_id"], unique=False)
    op.create_table(
        "subscription_items",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "subscription_id"],
            ["subscriptions.agency_id", "subscriptions.id"],
            name=op.f("fk_subscription_items_agency_id_subscription_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_subscription_items_agency_id")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_subscription_items_plan_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_subscription_items")),
    )
    op.create_index(op.f("ix_subscription_items_plan_id"), "subscription_items", ["plan_id"], unique=False)
    op.create_index(
        op.f("ix_subscription_items_subscription_id"), "subscription_items", ["subscription_id"], unique=False
    )
    op.create_table(
        "invoices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=True),
        sa.Column("number", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("billing_reason", sa.Text(), nullable=True),
        sa.Column("collection_method", sa.Text(), nullable=False),
        sa.Column("auto_advance", sa.Boolean(), nullable=False),
        sa.Column("automatic_tax", sa.Boolean(), nullable=False),
        sa.Column("subtotal", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("amount_due", sa.BigInteger(), nullable=False),
        sa.Column("amount_paid", sa.BigInteger(), nullable=False),
        sa.Column("amount_remaining", sa.BigInteger(), nullable=False),
        sa.Column("paid_off_stripe", sa.BigInteger(), nullable=False),
        sa.Column("starting_balance", sa.BigInteger(), nullable=False),
        sa.Column("ending_balance", sa.BigInteger(), nullable=False),
        sa.Column("pre_payment_credited", sa.BigInteger(), nullable=False),
        sa.Column("post_payment_credited", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finalized_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("automatically_finalizes_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "customer_id"],
            ["customers.agency_id", "customers.id"],
            name=op.f("fk_invoices_agency_id_customer_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_invoices_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_invoices")),
    )
    op.create_index(op.f("ix_invoices_created_at"), "invoices", ["created_at"], unique=False)
    op.create_index(op.f("ix_invoices_customer_id"), "invoices", ["customer_id"], unique=False)
    op.create_index(op.f("ix_invoices_subscription_id"), "invoices", ["subscription_id"], unique=False)
    op.create_table(
        "invoice_lines",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=True),
        sa.Column("plan_id", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("quantity", sa.BigInteger(), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("discount", sa.BigInteger(), nullable=False),
        sa.Column("net", sa.BigInteger(), nullable=False),
        sa.Column("tax", sa.BigInteger(), nullable=False),
        sa.Column(
            "taxes", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), server_default="[]", nullable=False
        ),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("proration", sa.Boolean(), nullable=False),
        sa.Column("metered", sa.Boolean(), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "invoice_id"],
            ["invoices.agency_id", "invoices.id"],
            name=op.f("fk_invoice_lines_agency_id_invoice_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_invoice_lines_agency_id")),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name=op.f("fk_invoice_lines_plan_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_invoice_lines")),
    )
    op.create_index(op.f("ix_invoice_lines_invoice_id"), "invoice_lines", ["invoice_id"], unique=False)
    op.create_index(op.f("ix_invoice_lines_period_end"), "invoice_lines", ["period_end"], unique=False)
    op.create_index(op.f("ix_invoice_lines_plan_id"), "invoice_lines", ["plan_id"], unique=False)
    op.create_table(
        "payments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("payment_intent", sa.Text(), nullable=True),
        sa.Column("charge", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("paid_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("captured", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refunded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("elsewhere", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("disputed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("dispute_open", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "reserved >= 0 AND refunded >= 0 AND reserved + refunded <= captured", name=op.f("never_more_than_captured")
        ),
        sa.ForeignKeyConstraint(
            ["agency_id", "invoice_id"],
            ["invoices.agency_id", "invoices.id"],
            name=op.f("fk_payments_agency_id_invoice_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_payments_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_payments")),
    )
    op.create_index(op.f("ix_payments_charge"), "payments", ["charge"], unique=False)
    op.create_index(op.f("ix_payments_invoice_id"), "payments", ["invoice_id"], unique=False)
    op.create_index(op.f("ix_payments_payment_intent"), "payments", ["payment_intent"], unique=False)
    op.create_table(
        "refunds",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("payment_intent", sa.Text(), nullable=True),
        sa.Column("charge", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("step_id", sa.BigInteger(), nullable=True),
        sa.Column("credit_note_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_refunds_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_refunds")),
    )
    op.create_index(op.f("ix_refunds_charge"), "refunds", ["charge"], unique=False)
    op.create_index(op.f("ix_refunds_credit_note_id"), "refunds", ["credit_note_id"], unique=False)
    op.create_index(op.f("ix_refunds_payment_intent"), "refunds", ["payment_intent"], unique=False)
    op.create_index(op.f("ix_refunds_step_id"), "refunds", ["step_id"], unique=False)
    op.create_table(
        "credit_notes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("pre_payment_amount", sa.BigInteger(), nullable=False),
        sa.Column("post_payment_amount", sa.BigInteger(), nullable=False),
        sa.Column("refunded", sa.BigInteger(), nullable=False),
        sa.Column("credited", sa.BigInteger(), nullable=False),
        sa.Column("out_of_band", sa.BigInteger(), nullable=False),
        sa.Column(
            "refund_ids",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
        ),
        sa.Column("memo", sa.Text(), nullable=True),
        sa.Column("pdf", sa.Text(), nullable=True),
        sa.Column("step_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "invoice_id"],
            ["invoices.agency_id", "invoices.id"],
            name=op.f("fk_credit_notes_agency_id_invoice_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_credit_notes_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_credit_notes")),
    )
    op.create_index(op.f("ix_credit_notes_customer_id"), "credit_notes", ["customer_id"], unique=False)
    op.create_index(op.f("ix_credit_notes_invoice_id"), "credit_notes", ["invoice_id"], unique=False)
    op.create_index(op.f("ix_credit_notes_step_id"), "credit_notes", ["step_id"], unique=False)
    op.create_table(
        "disputes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("charge", sa.Text(), nullable=False),
        sa.Column("payment_intent", sa.Text(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_disputes_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_disputes")),
    )
    op.create_index(op.f("ix_disputes_charge"), "disputes", ["charge"], unique=False)
    op.create_index(op.f("ix_disputes_payment_intent"), "disputes", ["payment_intent"], unique=False)
    op.create_table(
        "balance_entries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("credit_note_id", sa.Text(), nullable=True),
        sa.Column("step_id", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("agency_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["agency_id", "customer_id"],
            ["customers.agency_id", "customers.id"],
            name=op.f("fk_balance_entries_agency_id_customer_id"),
        ),
        sa.ForeignKeyConstraint(["agency_id"], ["agencies.id"], name=op.f("fk_balance_entries_agency_id")),
        sa.PrimaryKeyConstraint("id", "agency_id", name=op.f("pk_balance_entries")),
    )
    op.create_index(op.f("ix_balance_entries_customer_id"), "balance_entries", ["customer_id"], unique=False)
    op.create_index(op.f("ix_balance_entries_step_id"), "balance_entries", ["step_id"], unique=False)
    op.create_table(
        "sync_windows",
        sa.Column("stripe_account", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("stripe_account", "kind", "starts_at", name=op.f("pk_sync_windows")),
    )
    op.create_table(
        "sync_cursors",
        sa.Column("stripe_account", sa.Text(), nullable=False),
        sa.Column("last_event", sa.Text(), nullable=True),
        sa.Column("fresh_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("invoices_since", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("stripe_account", name=op.f("pk_sync_cursors")),
    )
    op.execute(
        """
        CREATE FUNCTION weights_fit_the_whole() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (SELECT sum(weight_bp) FROM plan_weights WHERE plan_id = NEW.plan_id) > 10000 THEN
                RAISE EXCEPTION 'the weights of plan % add up to more than 10,000 basis points', NEW.plan_id
                    USING ERRCODE = '23514', CONSTRAINT = 'weights_fit_the_whole';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE CONSTRAINT TRIGGER weights_fit_the_whole AFTER INSERT OR UPDATE ON plan_weights "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION weights_fit_the_whole()"
    )
    everybody = "true"
    wall("platforms", sees=everybody, writes=OPERATOR)
    op.execute("SELECT set_config('app.operator', 'on', true)")
    op.execute(
        "INSERT INTO platforms (slug, name) VALUES ('facebook', 'Facebook'), ('instagram', 'Instagram'), "
        "('x', 'X'), ('linkedin', 'LinkedIn'), ('youtube', 'YouTube'), ('tiktok', 'TikTok'), ('pinterest', 'Pinterest')"
    )
    wall("plans", sees=f"agency_id IS NULL OR {OWN}")
    wall("plan_weights", sees=everybody, writes=OPERATOR, may="SELECT, INSERT, UPDATE, DELETE")
    for table in ("customers", "subscriptions", "invoices", "payments", "refunds", "credit_notes", "disputes"):
        wall(table)
    wall("balance_entries")
    for table in ("subscription_items", "invoice_lines"):
        wall(table, may="SELECT, INSERT, UPDATE, DELETE")
    for table in ("sync_windows", "sync_cursors"):
        wall(table, sees=OPERATOR, writes=OPERATOR, may="SELECT, INSERT, UPDATE, DELETE")


def downgrade() -> None:
    op.drop_table("sync_cursors")
    op.drop_table("sync_windows")
    op.drop_table("balance_entries")
    op.drop_table("disputes")
    op.drop_table("credit_notes")
    op.drop_table("refunds")
    op.drop_table("payments")
    op.drop_table("invoice_lines")
    op.drop_table("invoices")
    op.drop_table("subscription_items")
    op.drop_table("subscriptions")
    op.drop_table("customers")
    op.drop_table("plan_weights")
    op.drop_table("plans")
    op.drop_table("platforms")
    op.execute("DROP FUNCTION weights_fit_the_whole")
