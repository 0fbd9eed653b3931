"""Payments complete: plans and subscriptions, refunds, disputes, invoices, quarantine's resolution,
reconciliation, the audit log. What was paid so far becomes `fulfilled`, with the points and source of its checkout.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.chassis.tables import append_only, secure_user_table

revision = "0002"
down_revision = "0001"

_USER_TABLES = ("subscriptions", "invoices")

_APP_GRANTS = """
    GRANT SELECT ON plans, subscriptions TO payments_app;
    GRANT INSERT (plan_id) ON checkouts TO payments_app;
"""
_WORKER_GRANTS = """
    GRANT SELECT, INSERT, UPDATE ON plans, payments, refunds, disputes, subscriptions, quarantine,
        reconciliations TO payments_worker;
    GRANT SELECT, INSERT ON invoices, audit_log TO payments_worker;
"""

# Checks that changed, by table: dropped, then added as they are now.
_DROPPED_CHECKS = (
    ("checkouts", "one_purpose"),
    ("checkouts", "packages_give_points"),
    ("checkouts", "paid_has_a_payment"),
    ("quarantine", "known_status"),
    ("quarantine", "known_reason"),
)
_CHECKS = (
    ("checkouts", "one_purpose", "num_nonnulls(order_id, package_id, plan_id) = 1"),
    ("checkouts", "all_but_orders_give_points", "(order_id IS NULL) = (points > 0) AND points >= 0"),
    (
        "checkouts",
        "paid_has_a_payment",
        "(status = 'paid' AND plan_id IS NULL) = (payment_intent_id IS NOT NULL)",
    ),
    ("payments", "points_not_negative", "points >= 0"),
    ("payments", "version_positive", "version > 0"),
    ("payments", "known_standing", "standing IN ('fulfilled', 'quarantined')"),
    ("payments", "fulfilled_has_a_user", "standing <> 'fulfilled' OR user_id IS NOT NULL"),
    (
        "payments",
        "points_have_a_source",
        "(standing = 'fulfilled' AND points > 0) = (grant_source IS NOT NULL)",
    ),
    ("payments", "never_asked_for_more_than_paid", "requested_cents BETWEEN 0 AND amount_cents"),
    ("payments", "never_refunded_more_than_paid", "refunded_cents BETWEEN 0 AND amount_cents"),
    ("payments", "disputed_not_negative", "disputed_cents >= 0"),
    ("payments", "known_dispute", "dispute IN ('none', 'open', 'won', 'lost')"),
    ("quarantine", "something_is_known", "num_nonnulls(session_id, payment_intent_id, invoice_id) > 0"),
    ("quarantine", "known_status", "status IN ('parked', 'fulfilled', 'refunding', 'refunded')"),
    (
        "quarantine",
        "resolved_has_a_time",
        "(status IN ('fulfilled', 'refunded')) = (resolved_at IS NOT NULL)",
    ),
    (
        "quarantine",
        "known_reason",
        "reason IN ('amount_mismatch', 'currency_mismatch', 'not_a_payment', 'metadata_mismatch',"
        " 'second_payment', 'unknown_checkout', 'unexpected_invoice')",
    ),
)
_BACKFILL = """
    UPDATE payments SET order_id = checkouts.order_id, points = checkouts.points, version = checkouts.version,
        grant_source = CASE WHEN checkouts.points > 0 THEN checkouts.id::text END
    FROM checkouts WHERE checkouts.id = payments.checkout_id
"""
# Money that was parked so far gets its payment, so that it can be fulfilled or given back.
_BACKFILL_PARKED = """
    INSERT INTO payments (user_id, payment_intent_id, checkout_id, order_id, amount_cents, currency, points,
        standing)
    SELECT checkouts.user_id, parked.payment_intent_id, parked.checkout_id, checkouts.order_id,
        parked.amount_cents, parked.currency, coalesce(checkouts.points, 0), 'quarantined'
    FROM quarantine AS parked LEFT JOIN checkouts ON checkouts.id = parked.checkout_id
    WHERE parked.payment_intent_id IS NOT NULL AND parked.amount_cents > 0 AND parked.currency ~ '^[a-z]{3}$'
    ON CONFLICT (payment_intent_id) DO NOTHING
"""
_LINK_PARKED = """
    UPDATE quarantine SET payment_id = payments.id FROM payments
    WHERE payments.payment_intent_id = quarantine.payment_intent_id AND payments.standing = 'quarantined'
"""


def upgrade() -> None:
    _create_tables()
    _extend_tables()
    for statement in (_BACKFILL, _BACKFILL_PARKED, _LINK_PARKED):
        op.execute(statement)
    for table, name in _DROPPED_CHECKS:
        op.drop_constraint(name, table, type_="check")
    for table, name, condition in _CHECKS:
        op.create_check_constraint(name, table, condition)
    for table in _USER_TABLES:
        for statement in secure_user_table("payments", table):
            op.execute(statement)
    for statement in append_only("audit_log"):
        op.execute(statement)
    op.execute(_APP_GRANTS)
    op.execute(_WORKER_GRANTS)


def _create_tables() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("length(actor) > 0 AND length(reason) > 0", name="actor_and_reason_given"),
        sa.CheckConstraint(
            "octet_length(prev_hash) = 32 AND octet_length(hash) = 32", name="hashes_are_sha256"
        ),
        sa.CheckConstraint("seq > 0", name="seq_positive"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("seq", name="audit_log_seq_key"),
    )
    op.create_table(
        "plans",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("price_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("interval", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
        sa.CheckConstraint("interval IN ('month', 'year')", name="known_interval"),
        sa.CheckConstraint("points > 0", name="points_positive"),
        sa.CheckConstraint("price_cents > 0", name="price_cents_positive"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "reconciliations",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("since", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("events_seen", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("events_missing", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("objects_seen", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("objects_changed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("percent", sa.Integer(), server_default="0", nullable=False),
        sa.Column("drift", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column(
            "lease_until", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'done') = (finished_at IS NOT NULL)", name="done_has_a_time"),
        sa.CheckConstraint("status IN ('running', 'done')", name="known_status"),
        sa.CheckConstraint("percent BETWEEN 0 AND 100", name="percent_in_range"),
        sa.CheckConstraint("since <= until", name="goes_forward"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "idx_reconciliations_running",
        "reconciliations",
        ["requested_by"],
        unique=True,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index("idx_reconciliations_started", "reconciliations", ["started_at"], unique=False)
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("plan_id", sa.Text(), nullable=False),
        sa.Column("stripe_subscription_id", sa.Text(), nullable=False),
        sa.Column("stripe_customer_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("price_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("interval", sa.Text(), nullable=False),
        sa.Column("current_period_end", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("cancel_at_period_end", sa.Boolean(), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("observed_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("interval IN ('month', 'year')", name="known_interval"),
        sa.CheckConstraint("status <> 'canceled' OR ended_at IS NOT NULL", name="canceled_has_ended"),
        sa.CheckConstraint(
            "status IN ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'canceled', 'unpaid', 'paused')",
            name="known_status",
        ),
        sa.CheckConstraint("points > 0 AND price_cents > 0", name="terms_positive"),
        sa.ForeignKeyConstraint(
            ["id"],
            ["checkouts.id"],
        ),
        sa.ForeignKeyConstraint(
            ["plan_id"],
            ["plans.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("stripe_subscription_id", name="subscriptions_stripe_subscription_id_key"),
    )
    op.create_index(
        "idx_subscriptions_user_created", "subscriptions", ["user_id", "created_at", "id"], unique=False
    )
    op.create_table(
        "disputes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("amount_cents >= 0", name="amount_not_negative"),
        sa.ForeignKeyConstraint(
            ["payment_id"],
            ["payments.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("idx_disputes_payment", "disputes", ["payment_id"], unique=False)
    op.create_table(
        "invoices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("billing_reason", sa.Text(), nullable=True),
        sa.Column("amount_paid_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("amount_paid_cents > 0", name="amount_positive"),
        sa.ForeignKeyConstraint(
            ["payment_id"],
            ["payments.id"],
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscriptions.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("payment_id", name="invoices_payment_id_key"),
    )
    op.create_index("idx_invoices_user_created", "invoices", ["user_id", "created_at"], unique=False)
    op.create_table(
        "refunds",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("payment_id", sa.Uuid(), nullable=False),
        sa.Column("payment_intent_id", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("is_ours", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("stripe_refund_id", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("attempt_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column(
            "lease_until", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
        sa.CheckConstraint(
            "status <> 'creating' OR is_ours AND attempt_until IS NOT NULL", name="creating_is_ours"
        ),
        sa.CheckConstraint(
            "status IN ('creating', 'pending', 'requires_action', 'succeeded', 'failed', 'canceled')",
            name="known_status",
        ),
        sa.CheckConstraint(
            "stripe_refund_id IS NOT NULL OR status IN ('creating', 'failed')",
            name="begun_is_known_to_stripe",
        ),
        sa.CheckConstraint("amount_cents > 0", name="amount_positive"),
        sa.CheckConstraint("version > 0 AND attempt > 0 AND tries >= 0", name="counters_in_range"),
        sa.ForeignKeyConstraint(
            ["payment_id"],
            ["payments.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("stripe_refund_id", name="refunds_stripe_refund_id_key"),
    )
    op.create_index(
        "idx_refunds_creating",
        "refunds",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("status = 'creating'"),
    )
    op.create_index("idx_refunds_payment", "refunds", ["payment_id"], unique=False)


def _extend_tables() -> None:
    op.add_column("checkouts", sa.Column("plan_id", sa.Text(), nullable=True))
    op.create_foreign_key("checkouts_plan_id_fkey", "checkouts", "plans", ["plan_id"], ["id"])
    op.add_column("payments", sa.Column("order_id", sa.Uuid(), nullable=True))
    op.add_column("payments", sa.Column("invoice_id", sa.Text(), nullable=True))
    op.add_column("payments", sa.Column("points", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("payments", sa.Column("grant_source", sa.Text(), nullable=True))
    # What was recorded so far was credited; a new row says its standing itself.
    op.add_column("payments", sa.Column("standing", sa.Text(), server_default="fulfilled", nullable=False))
    op.alter_column("payments", "standing", server_default=None)
    op.add_column("payments", sa.Column("version", sa.BigInteger(), server_default="1", nullable=False))
    op.add_column(
        "payments", sa.Column("requested_cents", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "payments", sa.Column("refunded_cents", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column(
        "payments", sa.Column("disputed_cents", sa.BigInteger(), server_default="0", nullable=False)
    )
    op.add_column("payments", sa.Column("dispute", sa.Text(), server_default="none", nullable=False))
    op.add_column("payments", sa.Column("refunds_observed_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("payments", sa.Column("disputes_observed_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column(
        "payments",
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.alter_column("payments", "user_id", existing_type=sa.UUID(), nullable=True)
    op.alter_column("payments", "checkout_id", existing_type=sa.UUID(), nullable=True)
    op.drop_constraint("payments_checkout_id_key", "payments", type_="unique")
    op.create_index("idx_payments_checkout", "payments", ["checkout_id"], unique=False)
    op.create_index(
        "idx_payments_one_per_order",
        "payments",
        ["order_id"],
        unique=True,
        postgresql_where=sa.text("standing = 'fulfilled'"),
    )
    op.create_unique_constraint("payments_grant_source_key", "payments", ["grant_source"])
    op.create_unique_constraint("payments_invoice_id_key", "payments", ["invoice_id"])
    op.add_column("quarantine", sa.Column("invoice_id", sa.Text(), nullable=True))
    op.add_column("quarantine", sa.Column("payment_id", sa.Uuid(), nullable=True))
    op.add_column(
        "quarantine",
        sa.Column("metadata", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.add_column("quarantine", sa.Column("refund_id", sa.Uuid(), nullable=True))
    op.add_column("quarantine", sa.Column("resolved_by", sa.Text(), nullable=True))
    op.add_column("quarantine", sa.Column("resolution_reason", sa.Text(), nullable=True))
    op.add_column("quarantine", sa.Column("resolved_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.alter_column("quarantine", "session_id", existing_type=sa.TEXT(), nullable=True)
    op.create_index("idx_quarantine_created", "quarantine", ["created_at", "id"], unique=False)
    op.create_unique_constraint("quarantine_payment_id_key", "quarantine", ["payment_id"])
    op.create_foreign_key("quarantine_payment_id_fkey", "quarantine", "payments", ["payment_id"], ["id"])
    op.create_foreign_key("quarantine_refund_id_fkey", "quarantine", "refunds", ["refund_id"], ["id"])
    op.add_column("stripe_events", sa.Column("object_id", sa.Text(), nullable=True))
    op.add_column("stripe_events", sa.Column("payment_intent_id", sa.Text(), nullable=True))
    op.add_column(
        "stripe_events",
        sa.Column("effects", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
    )
    op.drop_index("idx_stripe_events_received", table_name="stripe_events")
    op.create_index("idx_stripe_events_received", "stripe_events", ["received_at", "id"], unique=False)
    op.create_index("idx_stripe_events_object", "stripe_events", ["object_id"], unique=False)
    op.create_index("idx_stripe_events_payment_intent", "stripe_events", ["payment_intent_id"], unique=False)
