"""The orders database: catalog, stock, carts, orders, sagas, mails."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from services.chassis.tables import append_only, secure_user_table

revision = "0001"
down_revision = None

_USER_TABLES = (
    "carts",
    "cart_items",
    "orders",
    "order_items",
    "order_history",
    "stock_reservations",
    "saga_runs",
    "mails",
    "idempotency_keys",
)

# What a customer's request may do. Sagas, consumers and mails run as orders_worker.
_APP_GRANTS = """
    GRANT SELECT ON products, product_inventory TO orders_app;
    GRANT UPDATE (reserved_quantity, updated_at) ON product_inventory TO orders_app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON carts, cart_items TO orders_app;
    GRANT SELECT, INSERT ON orders, order_items, stock_reservations, saga_runs, idempotency_keys TO orders_app;
    GRANT SELECT, INSERT ON order_history TO orders_app;
    GRANT INSERT ON outbox TO orders_app;
"""
_WORKER_GRANTS = """
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO orders_worker;
    REVOKE UPDATE, DELETE ON stock_movements, order_history FROM orders_worker;
    REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM orders_worker;
"""

# Rows that change soon after they were written: room on their page keeps the change off the indexes.
_ROOM_FOR_UPDATES = """
    ALTER TABLE orders SET (fillfactor = 75);
    ALTER TABLE saga_runs SET (fillfactor = 60);
    ALTER TABLE stock_reservations SET (fillfactor = 75);
    ALTER TABLE product_inventory SET (fillfactor = 50);
    ALTER TABLE mails SET (fillfactor = 75);
"""


def upgrade() -> None:
    op.create_table(
        "carts",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("version > 0", name="version_positive"),
        sa.PrimaryKeyConstraint("user_id"),
    )
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
        "orders",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("payment_method", sa.Text(), nullable=False),
        sa.Column("total_cents", sa.BigInteger(), nullable=False),
        sa.Column("total_points", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("failure_fields", postgresql.JSONB(), nullable=True),
        sa.Column("email", sa.LargeBinary(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("cart_version", sa.BigInteger(), nullable=True),
        sa.Column("stripe_session_id", sa.Text(), nullable=True),
        sa.Column("stripe_session_url", sa.Text(), nullable=True),
        sa.Column("stripe_payment_intent_id", sa.Text(), nullable=True),
        sa.Column("checkout_version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refunded_cents", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refunded_points", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("fulfilled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("tracking_info", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "CASE payment_method WHEN 'points' THEN total_points > 0 AND total_cents = 0 ELSE total_cents > 0 AND total_points = 0 END",
            name="one_kind_of_total",
        ),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
        sa.CheckConstraint(
            "failure_reason IS NOT NULL OR status NOT IN ('failed', 'cancelled')", name="failure_has_a_reason"
        ),
        sa.CheckConstraint("payment_method IN ('stripe', 'points')", name="known_payment_method"),
        sa.CheckConstraint(
            "status <> 'completed' OR payment_method = 'points' OR stripe_payment_intent_id IS NOT NULL",
            name="completed_by_card_has_its_payment",
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'refunded')",
            name="known_status",
        ),
        sa.CheckConstraint("refunded_cents BETWEEN 0 AND total_cents", name="refunded_cents_within_total"),
        sa.CheckConstraint("refunded_points BETWEEN 0 AND total_points", name="refunded_points_within_total"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("user_id", "idempotency_key", name="orders_user_id_idempotency_key_key"),
    )
    op.create_index(
        "idx_orders_one_per_cart_version",
        "orders",
        ["user_id", "cart_version"],
        unique=True,
        postgresql_where=sa.text("cart_version IS NOT NULL"),
    )
    op.create_index(
        "idx_orders_payment_intent",
        "orders",
        ["stripe_payment_intent_id"],
        unique=True,
        postgresql_where=sa.text("stripe_payment_intent_id IS NOT NULL"),
    )
    op.create_index(
        "idx_orders_user_created",
        "orders",
        ["user_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
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
        "products",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("type", sa.Text(), server_default="digital", nullable=False),
        sa.Column("price_cents", sa.BigInteger(), nullable=False),
        sa.Column("price_points", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("asset_key", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
        sa.CheckConstraint("type IN ('digital')", name="known_type"),
        sa.CheckConstraint("price_cents > 0", name="price_cents_positive"),
        sa.CheckConstraint("price_points >= 0", name="price_points_not_negative"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "idx_products_active", "products", ["id"], unique=False, postgresql_where=sa.text("active")
    )
    op.create_table(
        "saga_runs",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("saga", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("undo_reason", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column(
            "next_attempt_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status <> 'undoing' OR undo_reason IS NOT NULL", name="undone_for_a_reason"),
        sa.CheckConstraint(
            "status IN ('running', 'undoing', 'done', 'undone', 'stuck')", name="known_status"
        ),
        sa.PrimaryKeyConstraint("order_id", "saga"),
    )
    op.create_index(
        "idx_saga_runs_due",
        "saga_runs",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('running', 'undoing')"),
    )
    op.create_table(
        "cart_items",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("price_cents", sa.BigInteger(), nullable=False),
        sa.Column("price_points", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("quantity BETWEEN 1 AND 1000", name="quantity_in_range"),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["products.id"],
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["carts.user_id"],
        ),
        sa.PrimaryKeyConstraint("user_id", "product_id"),
    )
    op.create_index("idx_cart_items_user", "cart_items", ["user_id"], unique=False)
    op.create_table(
        "mails",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column(
            "next_attempt_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("sent_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('receipt')", name="known_kind"),
        sa.ForeignKeyConstraint(
            ["order_id"],
            ["orders.id"],
        ),
        sa.PrimaryKeyConstraint("order_id", "kind"),
    )
    op.create_index(
        "idx_mails_unsent",
        "mails",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("sent_at IS NULL"),
    )
    op.create_table(
        "order_history",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=True),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("from_status IS DISTINCT FROM to_status", name="moves"),
        sa.ForeignKeyConstraint(
            ["order_id"],
            ["orders.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("idx_order_history_order", "order_history", ["order_id"], unique=False)
    op.create_table(
        "order_items",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("price_cents", sa.BigInteger(), nullable=False),
        sa.Column("price_points", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("refunded_cents", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refunded_points", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("price_cents > 0 AND price_points >= 0", name="prices_not_negative"),
        sa.CheckConstraint("quantity BETWEEN 1 AND 1000", name="quantity_in_range"),
        sa.CheckConstraint(
            "refunded_cents BETWEEN 0 AND price_cents * quantity", name="refunded_cents_within_line"
        ),
        sa.CheckConstraint(
            "refunded_points BETWEEN 0 AND price_points * quantity", name="refunded_points_within_line"
        ),
        sa.ForeignKeyConstraint(
            ["order_id"],
            ["orders.id"],
        ),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["products.id"],
        ),
        sa.PrimaryKeyConstraint("order_id", "product_id"),
    )
    op.create_table(
        "product_inventory",
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("stock_quantity", sa.BigInteger(), nullable=True),
        sa.Column("reserved_quantity", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("reserved_quantity <= stock_quantity", name="reserved_within_stock"),
        sa.CheckConstraint("reserved_quantity >= 0", name="reserved_not_negative"),
        sa.CheckConstraint("stock_quantity >= 0", name="stock_not_negative"),
        sa.CheckConstraint(
            "stock_quantity IS NOT NULL OR reserved_quantity = 0", name="unlimited_reserves_nothing"
        ),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["products.id"],
        ),
        sa.PrimaryKeyConstraint("product_id"),
    )
    op.create_table(
        "stock_movements",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("delta", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(reason = 'sold') = (order_id IS NOT NULL)", name="sold_by_an_order"),
        sa.CheckConstraint("reason IN ('received', 'sold')", name="known_reason"),
        sa.CheckConstraint("delta <> 0", name="delta_moves_something"),
        sa.ForeignKeyConstraint(
            ["order_id"],
            ["orders.id"],
        ),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["products.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("idx_stock_movements_product", "stock_movements", ["product_id"], unique=False)
    op.create_index(
        "idx_stock_movements_sold_once",
        "stock_movements",
        ["order_id", "product_id"],
        unique=True,
        postgresql_where=sa.text("reason = 'sold'"),
    )
    op.create_table(
        "stock_reservations",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default="held", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('held', 'taken', 'released')", name="known_status"),
        sa.CheckConstraint("quantity > 0", name="quantity_positive"),
        sa.ForeignKeyConstraint(
            ["order_id"],
            ["orders.id"],
        ),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["products.id"],
        ),
        sa.PrimaryKeyConstraint("order_id", "product_id"),
    )

    for table in _USER_TABLES:
        for statement in secure_user_table("orders", table):
            op.execute(statement)
    for table in ("stock_movements", "order_history"):
        for statement in append_only(table):
            op.execute(statement)
    op.execute(_ROOM_FOR_UPDATES)
    op.execute(_APP_GRANTS)
    op.execute(_WORKER_GRANTS)
