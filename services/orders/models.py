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
    ForeignKeyConstraint,
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
from services.chassis.audit_log import audit_log_table
from services.orders.rules import ASSET_KEY

metadata = MetaData()
tables.messaging_tables(metadata)
tables.relay_table(metadata)
tables.decided_dead_letters(metadata)
tables.idempotency_table(metadata)
audit_log_table(metadata)


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
    # Of the request that created it; NULL when none did.
    Column("request_hash", LargeBinary),
    _time("created_at"),
    _time("updated_at"),
    CheckConstraint("price_cents > 0", name="price_cents_positive"),
    CheckConstraint("price_points >= 0", name="price_points_not_negative"),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    CheckConstraint("type IN ('digital', 'physical')", name="known_type"),
    CheckConstraint("length(title) BETWEEN 1 AND 200", name="title_given"),
    CheckConstraint(
        f"asset_key = '' OR asset_key ~ '^({ASSET_KEY.pattern})$'", name="asset_key_stays_inside"
    ),
    CheckConstraint("type <> 'digital' OR asset_key <> ''", name="digital_has_its_file"),
    Index("idx_products_active", "created_at", "id", postgresql_where=text("active")),
)

# What queries/catalog.py looks into.
Index(
    "idx_products_search",
    func.casefold(products.c.title.collate("pg_unicode_fast")).label("folded_title"),
    postgresql_using="gin",
    postgresql_ops={"folded_title": "gin_trgm_ops"},
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
    Column("refund_id", Uuid, ForeignKey("refunds.id")),
    Column("actor", Text, nullable=False),
    # Why, in an operator's words.
    Column("note", Text, nullable=False, server_default=""),
    _time("created_at"),
    CheckConstraint("delta <> 0", name="delta_moves_something"),
    CheckConstraint("reason IN ('received', 'corrected', 'sold', 'returned')", name="known_reason"),
    CheckConstraint("(reason IN ('sold', 'returned')) = (order_id IS NOT NULL)", name="of_an_order"),
    CheckConstraint("(reason = 'returned') = (refund_id IS NOT NULL)", name="returned_by_a_refund"),
    CheckConstraint(
        "CASE reason WHEN 'sold' THEN delta < 0 WHEN 'corrected' THEN true ELSE delta > 0 END",
        name="sign_fits_reason",
    ),
    Index("idx_stock_movements_product", "product_id", text("created_at DESC"), text("id DESC")),
    Index(
        "idx_stock_movements_sold_once",
        "order_id",
        "product_id",
        unique=True,
        postgresql_where=text("reason = 'sold'"),
    ),
    Index(
        "idx_stock_movements_returned_once",
        "refund_id",
        "product_id",
        unique=True,
        postgresql_where=text("reason = 'returned'"),
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

_UNBOUGHT = "failure_reason IN ('out_of_stock', 'insufficient_points')"
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
    # The order's money (rules.Money). NULL: written by a release that did not tell it apart.
    Column("paid_cents", BigInteger),
    # Of the payment: held by disputes that are open, and taken by those that were lost.
    Column("disputed_cents", BigInteger),
    Column("lost_cents", BigInteger),
    # The most that the customer was ever told to get back, what an operator settled outside of Stripe or
    # wrote off, and what is still owed after all that.
    Column("promised_cents", BigInteger, nullable=False, server_default="0"),
    Column("settled_cents", BigInteger, nullable=False, server_default="0"),
    Column("written_off_cents", BigInteger, nullable=False, server_default="0"),
    Column("owed_cents", BigInteger, nullable=False, server_default="0"),
    _time("fulfilled_at", null=True),
    Column("tracking_info", JSONB),
    # What the payment's disputes amount to, and the version of the newest fact about the payment.
    Column("dispute", Text, nullable=False, server_default="none"),
    Column("payment_version", BigInteger, nullable=False, server_default="0"),
    # Rises with every change that the customer can see.
    Column("version", BigInteger, nullable=False, server_default="1"),
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
    CheckConstraint("dispute IN ('none', 'open', 'won', 'lost')", name="known_dispute"),
    CheckConstraint("version > 0", name="version_positive"),
    CheckConstraint("refunded_cents BETWEEN 0 AND total_cents", name="refunded_cents_within_total"),
    CheckConstraint("refunded_points BETWEEN 0 AND total_points", name="refunded_points_within_total"),
    CheckConstraint("paid_cents BETWEEN 0 AND total_cents", name="paid_cents_within_total"),
    CheckConstraint("disputed_cents BETWEEN 0 AND total_cents", name="disputed_cents_within_total"),
    CheckConstraint("lost_cents BETWEEN 0 AND total_cents", name="lost_cents_within_total"),
    CheckConstraint("promised_cents BETWEEN 0 AND total_cents", name="promised_cents_within_total"),
    CheckConstraint(
        "settled_cents >= 0 AND written_off_cents >= 0 AND settled_cents + written_off_cents <= total_cents",
        name="decided_within_total",
    ),
    CheckConstraint("owed_cents BETWEEN 0 AND promised_cents", name="owed_cents_within_promised"),
    CheckConstraint(
        "failure_reason IS NOT NULL OR status NOT IN ('failed', 'cancelled')", name="failure_has_a_reason"
    ),
    CheckConstraint(
        # What promotion codes paid for in full has none.
        "status <> 'completed' OR payment_method = 'points'"
        " OR (stripe_payment_intent_id IS NOT NULL) = (coalesce(paid_cents, total_cents) > 0)",
        name="completed_by_card_has_its_payment",
    ),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    # By the number that mails print (rules.order_number).
    Index("idx_orders_number", text("right(id::text, 12)")),
    Index("idx_orders_user_created", "user_id", text("created_at DESC"), text("id DESC")),
    Index(
        "idx_orders_one_per_cart_version",
        "user_id",
        "cart_version",
        unique=True,
        postgresql_where=text("cart_version IS NOT NULL"),
    ),
    Index("idx_orders_owed", "id", postgresql_where=text("owed_cents > 0")),
    # What commands/bounds.py and commands/purging.py look for.
    Index(
        "idx_orders_open_by_card",
        "user_id",
        postgresql_where=text("status = 'pending' AND payment_method = 'stripe'"),
    ),
    Index("idx_orders_unbought_user", "user_id", "created_at", postgresql_where=text(_UNBOUGHT)),
    Index("idx_orders_unbought", "created_at", postgresql_where=text(_UNBOUGHT)),
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
    # What refunds have taken, those under way included.
    Column("refunded_quantity", Integer, nullable=False, server_default="0"),
    Column("refunded_cents", BigInteger, nullable=False, server_default="0"),
    Column("refunded_points", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("order_id", "product_id"),
    CheckConstraint("quantity BETWEEN 1 AND 1000", name="quantity_in_range"),
    CheckConstraint("price_cents > 0 AND price_points >= 0", name="prices_not_negative"),
    CheckConstraint("refunded_quantity BETWEEN 0 AND quantity", name="refunded_quantity_within_line"),
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
    Column("trace_id", Text),
    _time("created_at"),
    # A shipment leaves the status as it is.
    CheckConstraint("from_status IS DISTINCT FROM to_status OR reason = 'shipped'", name="moves"),
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
    # When somebody must ask what became of the order; never when the stock is given back.
    Column(
        "due_at",
        TIMESTAMP(timezone=True),
        nullable=False,
        server_default=text("now() + interval '50 minutes'"),
    ),
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
    # W3C: the trace that whoever drives the run continues.
    Column("traceparent", Text),
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
    Index("idx_saga_runs_stuck", "created_at", postgresql_where=text("status = 'stuck'")),
)

refunds = Table(
    "refunds",
    metadata,
    # Chosen by whoever asks: the same id refunds once.
    Column("id", Uuid, primary_key=True),
    Column("order_id", Uuid, ForeignKey("orders.id"), nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("status", Text, nullable=False, server_default="requested"),
    Column("amount_cents", BigInteger, nullable=False),
    Column("amount_points", BigInteger, nullable=False),
    Column("return_stock", Boolean, nullable=False),
    # The operator's user id, or `saga` for a late payment without goods.
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("failure_reason", Text),
    # Version of the newest fact about a refund at Stripe that was applied.
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("trace_id", Text),
    _time("created_at"),
    _time("updated_at"),
    _time("finished_at", null=True),
    CheckConstraint("status IN ('requested', 'pending', 'succeeded', 'failed')", name="known_status"),
    CheckConstraint(
        "amount_cents >= 0 AND amount_points >= 0"
        " AND num_nonnulls(nullif(amount_cents, 0), nullif(amount_points, 0)) = 1",
        name="one_kind_of_amount",
    ),
    CheckConstraint(
        "(status IN ('succeeded', 'failed')) = (finished_at IS NOT NULL)", name="finished_has_a_time"
    ),
    CheckConstraint("(status = 'failed') = (failure_reason IS NOT NULL)", name="failed_has_a_reason"),
    CheckConstraint("length(actor) > 0 AND length(reason) > 0", name="actor_and_reason_given"),
    Index("idx_refunds_order", "order_id", "created_at"),
    Index("idx_refunds_failed", "finished_at", postgresql_where=text("status = 'failed'")),
)

refund_items = Table(
    "refund_items",
    metadata,
    Column("refund_id", Uuid, ForeignKey("refunds.id"), nullable=False),
    Column("product_id", Uuid, nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("cents", BigInteger, nullable=False),
    Column("points", BigInteger, nullable=False),
    PrimaryKeyConstraint("refund_id", "product_id"),
    ForeignKeyConstraint(["order_id", "product_id"], ["order_items.order_id", "order_items.product_id"]),
    CheckConstraint("quantity > 0", name="quantity_positive"),
    CheckConstraint("cents >= 0 AND points >= 0", name="amounts_not_negative"),
)

# What operators decided about money that is owed: settled outside of Stripe, or written off. Each once.
owed_decisions = Table(
    "owed_decisions",
    metadata,
    # Chosen by whoever decides: the same id decides once.
    Column("id", Uuid, primary_key=True),
    Column("order_id", Uuid, ForeignKey("orders.id"), nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("decision", Text, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    # Of the transfer, say: how to find what was settled.
    Column("reference", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _time("created_at"),
    CheckConstraint("decision IN ('settled_outside', 'written_off')", name="known_decision"),
    CheckConstraint("amount_cents > 0", name="amount_positive"),
    CheckConstraint("decision <> 'settled_outside' OR reference <> ''", name="settled_with_a_reference"),
    CheckConstraint("length(actor) > 0 AND length(reason) > 0", name="actor_and_reason_given"),
    Index("idx_owed_decisions_order", "order_id"),
)

download_grants = Table(
    "download_grants",
    metadata,
    _new_id(),
    Column("order_id", Uuid, nullable=False),
    Column("product_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    Column("downloads_left", Integer, nullable=False),
    Column("reissues_left", Integer, nullable=False),
    # Part of every link: raised by a reissue, so that older links are void.
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False),
    _time("created_at"),
    _time("updated_at"),
    UniqueConstraint("order_id", "product_id", name="download_grants_order_id_product_id_key"),
    ForeignKeyConstraint(["order_id", "product_id"], ["order_items.order_id", "order_items.product_id"]),
    CheckConstraint("status IN ('active', 'suspended', 'revoked')", name="known_status"),
    CheckConstraint("downloads_left >= 0", name="downloads_left_not_negative"),
    CheckConstraint("reissues_left >= 0", name="reissues_left_not_negative"),
)

# Every file that was given out.
downloads = Table(
    "downloads",
    metadata,
    _new_id(),
    Column("grant_id", Uuid, ForeignKey("download_grants.id"), nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("product_id", Uuid, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("trace_id", Text),
    _time("created_at"),
    Index("idx_downloads_grant", "grant_id"),
    Index("idx_downloads_order", "order_id"),
)

mails = Table(
    "mails",
    metadata,
    Column("order_id", Uuid, ForeignKey("orders.id"), nullable=False),
    # receipt, shipped, refund:<refund id> or returned:<refund id>; downloads, of the version before. Each
    # mail once.
    Column("kind", Text, nullable=False),
    Column("user_id", Uuid, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("last_error", Text),
    Column("next_attempt_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    _time("created_at"),
    _time("handed_at", null=True),
    _time("sent_at", null=True),
    # The mail server will never take it: an operator decides.
    _time("refused_at", null=True),
    PrimaryKeyConstraint("order_id", "kind"),
    CheckConstraint(
        "refused_at IS NULL"
        " OR (sent_at IS NULL AND handed_at IS NULL AND next_attempt_at >= '9999-01-01 00:00+00')",
        name="refused_ended",
    ),
    # Whoever looks for what is due finds nothing that may have been sent.
    CheckConstraint(
        "handed_at IS NULL OR sent_at IS NOT NULL OR next_attempt_at >= '9999-01-01 00:00+00'",
        name="handed_once",
    ),
    CheckConstraint(
        "kind ~ '^(receipt|downloads|shipped|(refund|returned):[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$'",
        name="known_kind",
    ),
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
    "refunds",
    "refund_items",
    "owed_decisions",
    "download_grants",
    "downloads",
)
APPEND_ONLY_TABLES = ("stock_movements", "order_history", "audit_log", "downloads", "owed_decisions")
