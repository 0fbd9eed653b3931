"""Tables of the orders database. Amounts are minor units of the shop's currency, points are whole.

Every invariant of rules.py stands here again as a constraint: the code's check is for the message, the
constraint is for the truth.
"""

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis import tables

metadata = MetaData()
tables.messaging_tables(metadata)
tables.idempotency_table(metadata)


def _time(name: str, *, null: bool = False) -> "Column[object]":
    return Column(
        name,
        TIMESTAMP(timezone=True),
        nullable=null,
        server_default=None if null else func.now(),
    )


def _new_id() -> "Column[object]":
    return Column("id", Uuid, primary_key=True, server_default=text("uuidv7()"))


products = Table(
    "products",
    metadata,
    _new_id(),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("type", Text, nullable=False, server_default="digital"),
    Column("price_cents", BigInteger, nullable=False),
    # 0: not for points.
    Column("price_points", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    # Where fulfilment finds the picture; never shown to customers.
    Column("asset_key", Text, nullable=False),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Column("version", Integer, nullable=False, server_default="1"),
    _time("created_at"),
    _time("updated_at"),
    CheckConstraint("price_cents > 0", name="price_cents_positive"),
    CheckConstraint("price_points >= 0", name="price_points_not_negative"),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    CheckConstraint("type IN ('digital')", name="known_type"),
    Index("idx_products_active", "id", postgresql_where=text("active")),
)

product_inventory = Table(
    "product_inventory",
    metadata,
    Column("product_id", Uuid, ForeignKey("products.id"), primary_key=True),
    # NULL: unlimited.
    Column("stock_quantity", BigInteger),
    Column("reserved_quantity", BigInteger, nullable=False, server_default="0"),
    _time("updated_at"),
    CheckConstraint("stock_quantity >= 0", name="stock_not_negative"),
    CheckConstraint("reserved_quantity >= 0", name="reserved_not_negative"),
    # A NULL stock compares as unknown and passes.
    CheckConstraint("reserved_quantity <= stock_quantity", name="reserved_within_stock"),
    CheckConstraint("stock_quantity IS NOT NULL OR reserved_quantity = 0", name="unlimited_reserves_nothing"),
)

stock_movements = Table(
    "stock_movements",
    metadata,
    _new_id(),
    Column("product_id", Uuid, ForeignKey("products.id"), nullable=False),
    Column("delta", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("order_id", Uuid, ForeignKey("orders.id")),
    Column("actor", Text, nullable=False),
    _time("created_at"),
    CheckConstraint("delta <> 0", name="delta_moves_something"),
    CheckConstraint("reason IN ('received', 'sold')", name="known_reason"),
    CheckConstraint("(reason = 'sold') = (order_id IS NOT NULL)", name="sold_by_an_order"),
    Index("idx_stock_movements_product", "product_id"),
    Index(
        "idx_stock_movements_sold_once",
        "order_id",
        "product_id",
        unique=True,
        postgresql_where=text("reason = 'sold'"),
    ),
)

carts = Table(
    "carts",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    Column("version", BigInteger, nullable=False, server_default="1"),
    _time("updated_at"),
    CheckConstraint("version > 0", name="version_positive"),
)

cart_items = Table(
    "cart_items",
    metadata,
    Column("user_id", Uuid, ForeignKey("carts.user_id"), nullable=False),
    Column("product_id", Uuid, ForeignKey("products.id"), nullable=False),
    Column("quantity", Integer, nullable=False),
    # What the customer saw when the line was put in.
    Column("price_cents", BigInteger, nullable=False),
    Column("price_points", BigInteger, nullable=False),
    _time("created_at"),
    PrimaryKeyConstraint("user_id", "product_id"),
    CheckConstraint("quantity BETWEEN 1 AND 1000", name="quantity_in_range"),
    Index("idx_cart_items_user", "user_id"),
)

orders = Table(
    "orders",
    metadata,
    _new_id(),
    Column("user_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("payment_method", Text, nullable=False),
    Column("total_cents", BigInteger, nullable=False),
    Column("total_points", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("failure_reason", Text),
    Column("failure_fields", JSONB(none_as_null=True)),
    # Frozen from the verified token, sealed with the service's keys; NULL when the token bore none.
    Column("email", LargeBinary),
    Column("idempotency_key", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    # Set when the order buys the cart, until it fails: a version of a cart is bought once.
    Column("cart_version", BigInteger),
    Column("stripe_session_id", Text),
    Column("stripe_session_url", Text),
    Column("stripe_payment_intent_id", Text),
    # Version of the newest fact about the checkout that was applied.
    Column("checkout_version", BigInteger, nullable=False, server_default="0"),
    Column("refunded_cents", BigInteger, nullable=False, server_default="0"),
    Column("refunded_points", BigInteger, nullable=False, server_default="0"),
    _time("fulfilled_at", null=True),
    Column("tracking_info", JSONB),
    _time("created_at"),
    _time("updated_at"),
    UniqueConstraint("user_id", "idempotency_key", name="orders_user_id_idempotency_key_key"),
    CheckConstraint(
        "status IN ('pending', 'processing', 'completed', 'failed', 'cancelled', 'refunded')",
        name="known_status",
    ),
    CheckConstraint("payment_method IN ('stripe', 'points')", name="known_payment_method"),
    CheckConstraint(
        "CASE payment_method WHEN 'points' THEN total_points > 0 AND total_cents = 0"
        " ELSE total_cents > 0 AND total_points = 0 END",
        name="one_kind_of_total",
    ),
    CheckConstraint("refunded_cents BETWEEN 0 AND total_cents", name="refunded_cents_within_total"),
    CheckConstraint("refunded_points BETWEEN 0 AND total_points", name="refunded_points_within_total"),
    CheckConstraint(
        "failure_reason IS NOT NULL OR status NOT IN ('failed', 'cancelled')", name="failure_has_a_reason"
    ),
    CheckConstraint(
        "status <> 'completed' OR payment_method = 'points' OR stripe_payment_intent_id IS NOT NULL",
        name="completed_by_card_has_its_payment",
    ),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    Index("idx_orders_user_created", "user_id", text("created_at DESC"), text("id DESC")),
    Index(
        "idx_orders_one_per_cart_version",
        "user_id",
        "cart_version",
        unique=True,
        postgresql_where=text("cart_version IS NOT NULL"),
    ),
    Index(
        "idx_orders_payment_intent",
        "stripe_payment_intent_id",
        unique=True,
        postgresql_where=text("stripe_payment_intent_id IS NOT NULL"),
    ),
)

order_items = Table(
    "order_items",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.id"), nullable=False),
    Column("product_id", Uuid, ForeignKey("products.id"), nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("title", Text, nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("price_points", BigInteger, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("refunded_cents", BigInteger, nullable=False, server_default="0"),
    Column("refunded_points", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("order_id", "product_id"),
    CheckConstraint("quantity BETWEEN 1 AND 1000", name="quantity_in_range"),
    CheckConstraint("price_cents > 0 AND price_points >= 0", name="prices_not_negative"),
    CheckConstraint("refunded_cents BETWEEN 0 AND price_cents * quantity", name="refunded_cents_within_line"),
    CheckConstraint(
        "refunded_points BETWEEN 0 AND price_points * quantity", name="refunded_points_within_line"
    ),
)

order_history = Table(
    "order_history",
    metadata,
    _new_id(),
    Column("order_id", Uuid, ForeignKey("orders.id"), nullable=False),
    Column("user_id", Uuid, nullable=False),
    # NULL: the order came into being.
    Column("from_status", Text),
    Column("to_status", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _time("created_at"),
    CheckConstraint("from_status IS DISTINCT FROM to_status", name="moves"),
    Index("idx_order_history_order", "order_id"),
)

stock_reservations = Table(
    "stock_reservations",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.id"), nullable=False),
    Column("product_id", Uuid, ForeignKey("products.id"), nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("status", Text, nullable=False, server_default="held"),
    _time("created_at"),
    PrimaryKeyConstraint("order_id", "product_id"),
    CheckConstraint("quantity > 0", name="quantity_positive"),
    CheckConstraint("status IN ('held', 'taken', 'released')", name="known_status"),
)

saga_runs = Table(
    "saga_runs",
    metadata,
    # The order's id; a hold that no order knows is released by a run under its order_id, too.
    Column("order_id", Uuid, nullable=False),
    Column("saga", Text, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("status", Text, nullable=False, server_default="running"),
    # The name of the step to do next, never its place in the list.
    Column("step", Text, nullable=False),
    # Why it is being undone; becomes the order's failure_reason.
    Column("undo_reason", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("last_error", Text),
    Column("next_attempt_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    # Whoever drives the run; every write is guarded by the token.
    Column("lease_token", Uuid),
    Column("lease_until", TIMESTAMP(timezone=True)),
    _time("created_at"),
    _time("updated_at"),
    PrimaryKeyConstraint("order_id", "saga"),
    CheckConstraint("status IN ('running', 'undoing', 'done', 'undone', 'stuck')", name="known_status"),
    CheckConstraint("status <> 'undoing' OR undo_reason IS NOT NULL", name="undone_for_a_reason"),
    Index(
        "idx_saga_runs_due",
        "next_attempt_at",
        postgresql_where=text("status IN ('running', 'undoing')"),
    ),
)

mails = Table(
    "mails",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("last_error", Text),
    Column("next_attempt_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    _time("created_at"),
    _time("sent_at", null=True),
    PrimaryKeyConstraint("order_id", "kind"),
    CheckConstraint("kind IN ('receipt')", name="known_kind"),
    Index("idx_mails_unsent", "next_attempt_at", postgresql_where=text("sent_at IS NULL")),
)

# Row-level security: what bears user_id shows itself to that user alone.
USER_TABLES = (
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
APPEND_ONLY_TABLES = ("stock_movements", "order_history")
