"""Tables of the payments database. Amounts are minor units of the row's currency, points are whole.

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
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)

from services.chassis import tables

metadata = MetaData()
tables.messaging_tables(metadata)
tables.idempotency_table(metadata)


def _time(name: str) -> "Column[object]":
    return Column(name, TIMESTAMP(timezone=True), nullable=False, server_default=func.now())


def _new_id() -> "Column[object]":
    return Column("id", Uuid, primary_key=True, server_default=text("uuidv7()"))


points_packages = Table(
    "points_packages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("active", Boolean, nullable=False, server_default=text("true")),
    _time("created_at"),
    CheckConstraint("points > 0", name="points_positive"),
    CheckConstraint("price_cents > 0", name="price_cents_positive"),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
)

checkouts = Table(
    "checkouts",
    metadata,
    _new_id(),
    Column("user_id", Uuid, nullable=False),
    Column("status", Text, nullable=False, server_default="creating"),
    # Rises with every change of the state: what wallet and orders compare.
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("order_id", Uuid),
    Column("package_id", Text, ForeignKey("points_packages.id")),
    Column("points", BigInteger, nullable=False, server_default="0"),
    # 0 only in the tombstone of an order that was given up before its checkout was asked for.
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    # Sealed: lines and e-mail, so that each call under one key sends the same parameters.
    Column("request", LargeBinary, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("attempt_until", TIMESTAMP(timezone=True), nullable=False),
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False),
    Column("session_id", Text),
    Column("url", Text),
    Column("payment_intent_id", Text),
    Column("failure_reason", Text),
    # Held while someone talks to Stripe about the row; without a token `lease_until` is a backoff.
    Column("lease_token", Uuid),
    _time("lease_until"),
    Column("tries", Integer, nullable=False, server_default="0"),
    _time("created_at"),
    _time("updated_at"),
    UniqueConstraint("order_id", name="checkouts_order_id_key"),
    UniqueConstraint("session_id", name="checkouts_session_id_key"),
    UniqueConstraint("payment_intent_id", name="checkouts_payment_intent_id_key"),
    CheckConstraint(
        "status IN ('creating', 'open', 'processing', 'paid', 'expired', 'failed')", name="known_status"
    ),
    CheckConstraint("num_nonnulls(order_id, package_id) = 1", name="one_purpose"),
    CheckConstraint("(package_id IS NOT NULL) = (points > 0) AND points >= 0", name="packages_give_points"),
    CheckConstraint(
        "amount_cents > 0 OR amount_cents = 0 AND status = 'expired' AND session_id IS NULL",
        name="amount_positive",
    ),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    CheckConstraint("version > 0 AND attempt > 0 AND tries >= 0", name="counters_in_range"),
    CheckConstraint("attempt_until <= expires_at", name="attempt_within_lifetime"),
    CheckConstraint("status <> 'open' OR url IS NOT NULL", name="open_has_a_page"),
    CheckConstraint(
        "status NOT IN ('open', 'processing', 'paid') OR session_id IS NOT NULL", name="begun_has_a_session"
    ),
    CheckConstraint("(status = 'paid') = (payment_intent_id IS NOT NULL)", name="paid_has_a_payment"),
    CheckConstraint("(status = 'failed') = (failure_reason IS NOT NULL)", name="failed_has_a_reason"),
    Index("idx_checkouts_user_created", "user_id", "created_at"),
    Index("idx_checkouts_creating", "lease_until", postgresql_where=text("status = 'creating'")),
    Index("idx_checkouts_unsettled", "expires_at", postgresql_where=text("status IN ('open', 'processing')")),
)

stripe_events = Table(
    "stripe_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    # Stripe's own time of the event.
    Column("created", TIMESTAMP(timezone=True), nullable=False),
    # The raw body as it was signed, sealed.
    Column("payload", LargeBinary, nullable=False),
    Column("status", Text, nullable=False, server_default="received"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    Column("lease_token", Uuid),
    _time("lease_until"),
    _time("received_at"),
    Column("processed_at", TIMESTAMP(timezone=True)),
    CheckConstraint("status IN ('received', 'processed', 'ignored')", name="known_status"),
    CheckConstraint("(status = 'received') = (processed_at IS NULL)", name="settled_has_a_time"),
    CheckConstraint("attempts >= 0", name="attempts_not_negative"),
    Index("idx_stripe_events_due", "lease_until", postgresql_where=text("status = 'received'")),
    Index("idx_stripe_events_received", "received_at"),
)

payments = Table(
    "payments",
    metadata,
    _new_id(),
    Column("user_id", Uuid, nullable=False),
    Column("checkout_id", Uuid, ForeignKey("checkouts.id"), nullable=False),
    Column("payment_intent_id", Text, nullable=False),
    Column("amount_cents", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    _time("created_at"),
    UniqueConstraint("checkout_id", name="payments_checkout_id_key"),
    UniqueConstraint("payment_intent_id", name="payments_payment_intent_id_key"),
    CheckConstraint("amount_cents > 0", name="amount_positive"),
    CheckConstraint("currency ~ '^[a-z]{3}$'", name="currency_is_iso_4217"),
    Index("idx_payments_user_created", "user_id", "created_at"),
)

# Money that came and was not credited: an operator decides. Not a customer's row, hence no user_id.
quarantine = Table(
    "quarantine",
    metadata,
    _new_id(),
    Column("session_id", Text, nullable=False),
    Column("payment_intent_id", Text),
    # The checkout that the session names, when there is one.
    Column("checkout_id", Uuid, ForeignKey("checkouts.id")),
    Column("amount_cents", BigInteger),
    Column("currency", Text),
    Column("reason", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="parked"),
    _time("created_at"),
    UniqueConstraint("session_id", name="quarantine_session_id_key"),
    CheckConstraint("status IN ('parked')", name="known_status"),
    CheckConstraint(
        "reason IN ('amount_mismatch', 'currency_mismatch', 'not_a_payment', 'metadata_mismatch',"
        " 'second_payment', 'unknown_checkout')",
        name="known_reason",
    ),
)
