"""Orders complete: physical products, stock that is corrected or returned, refunds, disputes, download grants,
more mails, the audit log. Everything is added; what version 0001 writes is still valid.
"""

import sqlalchemy as sa
from alembic import op

from services.chassis.tables import append_only, secure_user_table

revision = "0002"
down_revision = "0001"

_USER_TABLES = ("refunds", "refund_items", "download_grants", "downloads")

_APP_GRANTS = """
    GRANT SELECT ON download_grants TO orders_app;
    GRANT UPDATE (downloads_left, reissues_left, generation, expires_at, updated_at)
        ON download_grants TO orders_app;
    GRANT SELECT, INSERT ON downloads TO orders_app;
"""
_WORKER_GRANTS = """
    GRANT SELECT, INSERT, UPDATE ON refunds, refund_items, download_grants TO orders_worker;
    GRANT SELECT, INSERT ON downloads, audit_log TO orders_worker;
"""

_AUDIT_LOG = """
    CREATE TABLE audit_log (
        id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT audit_log_pkey PRIMARY KEY,
        seq bigint NOT NULL,
        actor text NOT NULL,
        action text NOT NULL,
        subject text NOT NULL,
        reason text NOT NULL,
        details jsonb NOT NULL,
        created_at timestamptz NOT NULL,
        prev_hash bytea NOT NULL,
        hash bytea NOT NULL,
        CONSTRAINT audit_log_seq_key UNIQUE (seq),
        CONSTRAINT audit_log_seq_positive CHECK (seq > 0),
        CONSTRAINT audit_log_actor_and_reason_given CHECK (length(actor) > 0 AND length(reason) > 0),
        CONSTRAINT audit_log_hashes_are_sha256
            CHECK (octet_length(prev_hash) = 32 AND octet_length(hash) = 32)
    )"""

# Checks that changed, by table: dropped, then added as they are now.
_DROPPED_CHECKS = (
    ("products", "known_type"),
    ("stock_movements", "known_reason"),
    ("stock_movements", "sold_by_an_order"),
    ("mails", "known_kind"),
)
_CHECKS = (
    ("products", "known_type", "type IN ('digital', 'physical')"),
    ("products", "title_given", "length(title) BETWEEN 1 AND 200"),
    (
        "products",
        "asset_key_stays_inside",
        "asset_key = '' OR asset_key ~ '^([A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*)$'",
    ),
    ("products", "digital_has_its_file", "type <> 'digital' OR asset_key <> ''"),
    ("stock_movements", "known_reason", "reason IN ('received', 'corrected', 'sold', 'returned')"),
    ("stock_movements", "of_an_order", "(reason IN ('sold', 'returned')) = (order_id IS NOT NULL)"),
    ("stock_movements", "returned_by_a_refund", "(reason = 'returned') = (refund_id IS NOT NULL)"),
    (
        "stock_movements",
        "sign_fits_reason",
        "CASE reason WHEN 'sold' THEN delta < 0 WHEN 'corrected' THEN true ELSE delta > 0 END",
    ),
    ("orders", "known_dispute", "dispute IN ('none', 'open', 'won', 'lost')"),
    ("orders", "version_positive", "version > 0"),
    ("order_items", "refunded_quantity_within_line", "refunded_quantity BETWEEN 0 AND quantity"),
    (
        "mails",
        "known_kind",
        "kind ~ '^(receipt|downloads|shipped|refund:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$'",
    ),
)


def upgrade() -> None:
    for table, name in _DROPPED_CHECKS:
        op.drop_constraint(name, table, type_="check")
    op.create_table(
        "refunds",
        # Chosen by whoever asks: the same id refunds once.
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), server_default="requested", nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column("amount_points", sa.BigInteger(), nullable=False),
        sa.Column("return_stock", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("status IN ('requested', 'pending', 'succeeded', 'failed')", name="known_status"),
        sa.CheckConstraint(
            "amount_cents >= 0 AND amount_points >= 0 AND num_nonnulls(nullif(amount_cents, 0),"
            " nullif(amount_points, 0)) = 1",
            name="one_kind_of_amount",
        ),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'failed')) = (finished_at IS NOT NULL)", name="finished_has_a_time"
        ),
        sa.CheckConstraint("(status = 'failed') = (failure_reason IS NOT NULL)", name="failed_has_a_reason"),
        sa.CheckConstraint("length(actor) > 0 AND length(reason) > 0", name="actor_and_reason_given"),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("idx_refunds_order", "refunds", ["order_id", "created_at"], unique=False)
    op.create_table(
        "refund_items",
        sa.Column("refund_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("cents", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("quantity > 0", name="quantity_positive"),
        sa.CheckConstraint("cents >= 0 AND points >= 0", name="amounts_not_negative"),
        sa.ForeignKeyConstraint(["refund_id"], ["refunds.id"]),
        sa.ForeignKeyConstraint(
            ["order_id", "product_id"], ["order_items.order_id", "order_items.product_id"]
        ),
        sa.PrimaryKeyConstraint("refund_id", "product_id"),
    )
    op.create_table(
        "download_grants",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("downloads_left", sa.Integer(), nullable=False),
        sa.Column("reissues_left", sa.Integer(), nullable=False),
        # Part of every link: raised by a reissue, so that older links are void.
        sa.Column("generation", sa.Integer(), server_default="1", nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("status IN ('active', 'suspended', 'revoked')", name="known_status"),
        sa.CheckConstraint("downloads_left >= 0", name="downloads_left_not_negative"),
        sa.CheckConstraint("reissues_left >= 0", name="reissues_left_not_negative"),
        sa.ForeignKeyConstraint(
            ["order_id", "product_id"], ["order_items.order_id", "order_items.product_id"]
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("order_id", "product_id", name="download_grants_order_id_product_id_key"),
    )
    op.create_table(
        "downloads",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("grant_id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["download_grants.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("idx_downloads_grant", "downloads", ["grant_id"], unique=False)
    op.create_index("idx_downloads_order", "downloads", ["order_id"], unique=False)

    op.add_column("products", sa.Column("request_hash", sa.LargeBinary(), nullable=True))
    # In the order they came in: ids that operators choose do not sort by time.
    op.drop_index("idx_products_active", "products")
    op.create_index(
        "idx_products_active",
        "products",
        ["created_at", "id"],
        unique=False,
        postgresql_where=sa.text("active"),
    )
    op.drop_index("idx_stock_movements_product", "stock_movements")
    op.create_index(
        "idx_stock_movements_product",
        "stock_movements",
        ["product_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.add_column("stock_movements", sa.Column("refund_id", sa.Uuid(), nullable=True))
    op.add_column("stock_movements", sa.Column("note", sa.Text(), server_default="", nullable=False))
    op.create_foreign_key(
        "stock_movements_refund_id_fkey", "stock_movements", "refunds", ["refund_id"], ["id"]
    )
    op.create_index(
        "idx_stock_movements_returned_once",
        "stock_movements",
        ["refund_id", "product_id"],
        unique=True,
        postgresql_where=sa.text("reason = 'returned'"),
    )
    # When somebody must ask what became of the order; never when the stock is given back.
    op.add_column(
        "stock_reservations",
        sa.Column(
            "due_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now() + interval '50 minutes'"),
            nullable=False,
        ),
    )
    op.add_column("orders", sa.Column("dispute", sa.Text(), server_default="none", nullable=False))
    op.add_column("orders", sa.Column("payment_version", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("orders", sa.Column("version", sa.BigInteger(), server_default="1", nullable=False))
    op.add_column(
        "order_items", sa.Column("refunded_quantity", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("order_history", sa.Column("trace_id", sa.Text(), nullable=True))
    op.add_column("saga_runs", sa.Column("traceparent", sa.Text(), nullable=True))
    op.create_index(
        "idx_saga_runs_stuck",
        "saga_runs",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("status = 'stuck'"),
    )

    for table, name, condition in _CHECKS:
        op.create_check_constraint(name, table, condition)
    for table in _USER_TABLES:
        for statement in secure_user_table("orders", table):
            op.execute(statement)
    for statement in (_AUDIT_LOG, *append_only("audit_log"), *append_only("downloads")):
        op.execute(statement)
    op.execute(_APP_GRANTS)
    op.execute(_WORKER_GRANTS)
