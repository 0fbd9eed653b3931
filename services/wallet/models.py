"""wallet's tables, as the migrations leave them. Every invariant has its constraint here."""

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis.audit_log import audit_log_table
from services.chassis.tables import NOW, decided_dead_letters, messaging_tables, relay_table

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)


def _moment(name: str) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=False, server_default=NOW)


def _points(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


profiles = Table(
    "profiles",
    metadata,
    # The user's id, as the token names it.
    Column("id", Uuid, primary_key=True),
    # Sealed for "profiles.email:<id>"; email_hmac finds it.
    Column("email", LargeBinary),
    Column("email_hmac", LargeBinary),
    _points("points"),
    _points("points_held"),
    _points("points_debt"),
    # How many transactions the user has, and the hash of the last one: a cut tail is seen.
    _points("ledger_seq"),
    Column(
        "ledger_head", LargeBinary, nullable=False, server_default=text("decode(repeat('00', 32), 'hex')")
    ),
    _moment("created_at"),
    _moment("updated_at"),
    # So points are never negative either.
    CheckConstraint("points_held >= 0 AND points_held <= points", name="held_within_points"),
    CheckConstraint("points_debt >= 0", name="debt_not_negative"),
    CheckConstraint("points_debt = 0 OR points = points_held", name="debt_only_when_nothing_is_free"),
    CheckConstraint("ledger_seq >= 0", name="ledger_seq_not_negative"),
    CheckConstraint("octet_length(ledger_head) = 32", name="ledger_head_is_sha256"),
    CheckConstraint("(email IS NULL) = (email_hmac IS NULL)", name="email_with_its_hmac"),
    Index("idx_profiles_email_hmac", "email_hmac"),
)

points_transactions = Table(
    "points_transactions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("profiles.id"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    # Positive for credits, negative for debits.
    Column("amount", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("order_id", Uuid),
    Column("stripe_payment_intent_id", Text),
    Column("idempotency_key", Text, nullable=False),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # points - points_debt after this transaction.
    Column("balance_after", BigInteger, nullable=False),
    Column("prev_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("hash_version", SmallInteger, nullable=False),
    _moment("processed_at"),
    _moment("created_at"),
    # To find out more by; not part of what is hashed.
    Column("trace_id", Text),
    UniqueConstraint("idempotency_key", name="points_transactions_idempotency_key_key"),
    UniqueConstraint("user_id", "seq", name="points_transactions_user_id_seq_key"),
    CheckConstraint(
        "type IN ('purchase', 'spend', 'refund', 'reversal', 'adjustment')", name="type_is_known"
    ),
    CheckConstraint("amount <> 0", name="amount_not_zero"),
    CheckConstraint("type NOT IN ('purchase', 'refund') OR amount > 0", name="credits_are_positive"),
    CheckConstraint("type <> 'spend' OR amount < 0", name="spends_are_negative"),
    CheckConstraint("type NOT IN ('spend', 'refund') OR order_id IS NOT NULL", name="order_is_named"),
    CheckConstraint("seq > 0", name="seq_is_positive"),
    CheckConstraint("octet_length(prev_hash) = 32 AND octet_length(hash) = 32", name="hashes_are_sha256"),
    CheckConstraint(
        "(seq = 1) = (prev_hash = decode(repeat('00', 32), 'hex'))", name="first_has_no_previous"
    ),
    Index("idx_points_transactions_user_created", "user_id", text("created_at DESC")),
    # An order is paid once.
    Index(
        "idx_points_transactions_one_spend", "order_id", unique=True, postgresql_where=text("type = 'spend'")
    ),
)

holds = Table(
    "holds",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=text("uuidv7()")),
    Column("user_id", Uuid, ForeignKey("profiles.id"), nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("points", BigInteger, nullable=False),
    _points("refunded_points"),
    Column("status", Text, nullable=False),
    # When wallet asks (again) what became of the order; nothing is released by time.
    Column("due_at", TIMESTAMP(timezone=True), nullable=False),
    Column("asked", Integer, nullable=False, server_default=text("0")),
    Column("trace_id", Text),
    _moment("created_at"),
    _moment("updated_at"),
    UniqueConstraint("order_id", name="holds_order_id_key"),
    CheckConstraint("status IN ('held', 'captured', 'released')", name="status_is_known"),
    # A released hold of 0 points is the tombstone of a release that came first.
    CheckConstraint(
        "points > 0 OR (points = 0 AND status = 'released')", name="points_positive_or_tombstone"
    ),
    CheckConstraint("refunded_points >= 0 AND refunded_points <= points", name="refunds_within_spend"),
    CheckConstraint("refunded_points = 0 OR status = 'captured'", name="refunds_need_a_capture"),
    CheckConstraint("asked >= 0", name="asked_not_negative"),
    Index("idx_holds_user_created", "user_id", "created_at"),
    Index("idx_holds_due", "due_at", postgresql_where=text("status = 'held'")),
)

grants = Table(
    "grants",
    metadata,
    # The checkout or the invoice that gives the points.
    Column("source_id", Text, primary_key=True),
    Column("user_id", Uuid, ForeignKey("profiles.id"), nullable=False),
    # The newest version seen; older ones are void.
    Column("version", BigInteger, nullable=False),
    Column("net_points", BigInteger, nullable=False),
    _moment("created_at"),
    _moment("updated_at"),
    # Of the newest version.
    Column("trace_id", Text),
    CheckConstraint("version > 0", name="version_is_positive"),
    CheckConstraint("net_points >= 0", name="net_not_negative"),
    CheckConstraint("length(source_id) BETWEEN 1 AND 255", name="source_is_named"),
)

messaging_tables(metadata)
relay_table(metadata)
decided_dead_letters(metadata)
audit_log_table(metadata)
