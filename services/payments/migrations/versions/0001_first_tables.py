"""The payments database: packages, checkouts, Stripe's events, payments, quarantine."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.chassis.tables import secure_user_table

revision = "0001"
down_revision = None

_USER_TABLES = ("checkouts", "payments", "idempotency_keys")

# What a customer's request may do: read, and write down what it wants. Column by column, so that it cannot
# write a checkout that is open or paid; that is for the worker, after Stripe has spoken.
_APP_GRANTS = """
    GRANT SELECT ON points_packages, checkouts TO payments_app;
    GRANT INSERT (id, user_id, order_id, package_id, points, amount_cents, currency, request, attempt_until,
                  expires_at, lease_token, lease_until) ON checkouts TO payments_app;
    GRANT SELECT, INSERT ON idempotency_keys TO payments_app;
"""
_WORKER_GRANTS = """
    GRANT SELECT, INSERT, UPDATE ON points_packages, checkouts, stripe_events, outbox TO payments_worker;
    GRANT SELECT, INSERT ON payments, quarantine, inbox, dead_letters TO payments_worker;
    GRANT SELECT, INSERT, DELETE ON idempotency_keys TO payments_worker;
"""


def upgrade() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("headers", postgresql.JSONB(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("consumer", "message_id", name="dead_letters_consumer_message_id_key"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("resource_id", sa.Uuid(), nullable=True),
        sa.Column("rejection", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("num_nonnulls(resource_id, rejection) = 1", name="one_outcome"),
        sa.PrimaryKeyConstraint("user_id", "route", "key"),
    )
    op.create_index("idx_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "inbox",
        sa.Column("consumer", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column(
            "received_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("consumer", "message_id"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "idx_outbox_unsent", "outbox", ["id"], unique=False, postgresql_where=sa.text("sent_at IS NULL")
    )
    op.create_table(
        "points_packages",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("price_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
        sa.CheckConstraint("points > 0", name="points_positive"),
        sa.CheckConstraint("price_cents > 0", name="price_cents_positive"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "stripe_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("created", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), server_default="received", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column(
            "lease_until", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column(
            "received_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("processed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'received') = (processed_at IS NULL)", name="settled_has_a_time"),
        sa.CheckConstraint("status IN ('received', 'processed', 'ignored')", name="known_status"),
        sa.CheckConstraint("attempts >= 0", name="attempts_not_negative"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "idx_stripe_events_due",
        "stripe_events",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("status = 'received'"),
    )
    op.create_index("idx_stripe_events_received", "stripe_events", ["received_at"], unique=False)
    op.create_table(
        "checkouts",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), server_default="creating", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("package_id", sa.Text(), nullable=True),
        sa.Column("points", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("attempt_until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("payment_intent_id", sa.Text(), nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column(
            "lease_until", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(status = 'failed') = (failure_reason IS NOT NULL)", name="failed_has_a_reason"),
        sa.CheckConstraint("(status = 'paid') = (payment_intent_id IS NOT NULL)", name="paid_has_a_payment"),
        sa.CheckConstraint(
            "amount_cents > 0 OR amount_cents = 0 AND status = 'expired' AND session_id IS NULL",
            name="amount_positive",
        ),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
        sa.CheckConstraint("status <> 'open' OR url IS NOT NULL", name="open_has_a_page"),
        sa.CheckConstraint(
            "status IN ('creating', 'open', 'processing', 'paid', 'expired', 'failed')", name="known_status"
        ),
        sa.CheckConstraint(
            "status NOT IN ('open', 'processing', 'paid') OR session_id IS NOT NULL",
            name="begun_has_a_session",
        ),
        sa.CheckConstraint(
            "(package_id IS NOT NULL) = (points > 0) AND points >= 0", name="packages_give_points"
        ),
        sa.CheckConstraint("attempt_until <= expires_at", name="attempt_within_lifetime"),
        sa.CheckConstraint("num_nonnulls(order_id, package_id) = 1", name="one_purpose"),
        sa.CheckConstraint("version > 0 AND attempt > 0 AND tries >= 0", name="counters_in_range"),
        sa.ForeignKeyConstraint(
            ["package_id"],
            ["points_packages.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("order_id", name="checkouts_order_id_key"),
        sa.UniqueConstraint("payment_intent_id", name="checkouts_payment_intent_id_key"),
        sa.UniqueConstraint("session_id", name="checkouts_session_id_key"),
    )
    op.create_index(
        "idx_checkouts_creating",
        "checkouts",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("status = 'creating'"),
    )
    op.create_index(
        "idx_checkouts_unsettled",
        "checkouts",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('open', 'processing')"),
    )
    op.create_index("idx_checkouts_user_created", "checkouts", ["user_id", "created_at"], unique=False)
    op.create_table(
        "payments",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("checkout_id", sa.Uuid(), nullable=False),
        sa.Column("payment_intent_id", sa.Text(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
        sa.CheckConstraint("amount_cents > 0", name="amount_positive"),
        sa.ForeignKeyConstraint(
            ["checkout_id"],
            ["checkouts.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("checkout_id", name="payments_checkout_id_key"),
        sa.UniqueConstraint("payment_intent_id", name="payments_payment_intent_id_key"),
    )
    op.create_index("idx_payments_user_created", "payments", ["user_id", "created_at"], unique=False)
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("payment_intent_id", sa.Text(), nullable=True),
        sa.Column("checkout_id", sa.Uuid(), nullable=True),
        sa.Column("amount_cents", sa.BigInteger(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="parked", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "reason IN ('amount_mismatch', 'currency_mismatch', 'not_a_payment', 'metadata_mismatch', 'second_payment', 'unknown_checkout')",
            name="known_reason",
        ),
        sa.CheckConstraint("status IN ('parked')", name="known_status"),
        sa.ForeignKeyConstraint(
            ["checkout_id"],
            ["checkouts.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("session_id", name="quarantine_session_id_key"),
    )

    for table in _USER_TABLES:
        for statement in secure_user_table("payments", table):
            op.execute(statement)
    op.execute(_APP_GRANTS)
    op.execute(_WORKER_GRANTS)
