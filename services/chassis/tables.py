"""The tables that every service's database has, and the SQL that secures its tables.

Migrations call the functions below; `models.py` of each service adds the same tables to its metadata
with `messaging_tables`, and a test compares the two.
"""

from collections.abc import Iterable

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
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
from sqlalchemy.schema import conv

NOW = func.now()


def messaging_tables(metadata: MetaData) -> None:
    """Adds outbox, inbox and dead_letters."""
    Table(
        "outbox",
        metadata,
        Column("id", Uuid, primary_key=True, server_default=text("uuidv7()")),
        Column("subject", Text, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("traceparent", Text),
        Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
        Column("sent_at", TIMESTAMP(timezone=True)),
        # The relay reads this index only; it is as small as the backlog.
        Index("idx_outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),
    )
    Table(
        "inbox",
        metadata,
        Column("consumer", Text, nullable=False),
        Column("message_id", Uuid, nullable=False),
        Column("received_at", TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
        PrimaryKeyConstraint("consumer", "message_id"),
    )
    Table(
        "dead_letters",
        metadata,
        Column("id", Uuid, primary_key=True, server_default=text("uuidv7()")),
        Column("consumer", Text, nullable=False),
        Column("message_id", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("headers", JSONB, nullable=False),
        Column("error", Text, nullable=False),
        Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
        UniqueConstraint("consumer", "message_id", name="dead_letters_consumer_message_id_key"),
    )


def decided_dead_letters(metadata: MetaData) -> None:
    """Adds what an operator decided about a dead letter (dead_letters.py); the letter stays, as evidence."""
    letters = metadata.tables["dead_letters"]
    letters.append_column(Column("decision", Text))
    letters.append_column(Column("decided_at", TIMESTAMP(timezone=True)))
    letters.append_constraint(
        CheckConstraint(
            "coalesce(decision, 'dropped') IN ('redelivered', 'dropped')"
            " AND (decision IS NULL) = (decided_at IS NULL)",
            name=conv("dead_letters_decision"),
        )
    )


def relay_table(metadata: MetaData) -> None:
    """Adds relay, of one row: who publishes the outbox (leadership.py), into which stream (refill.py)."""
    Table(
        "relay",
        metadata,
        Column("singleton", Boolean, primary_key=True, server_default=text("true")),
        Column("token", BigInteger, nullable=False, server_default=text("0")),
        Column("lease_until", TIMESTAMP(timezone=True), nullable=False, server_default=text("'-infinity'")),
        Column("holder", Text),
        Column("backend_pid", Integer),
        Column("stream_created_at", TIMESTAMP(timezone=True)),
        Column("stream_lost_at", TIMESTAMP(timezone=True)),
        # While a lost stream is filled: facts up to the first went out again, those up to the second will.
        Column("refill_after", Uuid),
        Column("refill_until", Uuid),
        CheckConstraint("singleton", name=conv("relay_is_one_row")),
        CheckConstraint("num_nulls(refill_after, refill_until) <> 1", name=conv("relay_refill_has_two_ends")),
    )


def idempotency_table(metadata: MetaData) -> None:
    """Adds idempotency_keys: what a key of a user and route stands for, or why it was rejected."""
    Table(
        "idempotency_keys",
        metadata,
        Column("user_id", Uuid, nullable=False),
        Column("route", Text, nullable=False),
        Column("key", Text, nullable=False),
        Column("request_hash", LargeBinary, nullable=False),
        Column("resource_id", Uuid),
        Column("rejection", JSONB),
        Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
        PrimaryKeyConstraint("user_id", "route", "key"),
        CheckConstraint("num_nonnulls(resource_id, rejection) = 1", name="one_outcome"),
        Index("idx_idempotency_keys_created_at", "created_at"),
    )


def secure_user_table(service: str, table: str, *, owner: str = "user_id") -> Iterable[str]:
    """Row-level security by the column `owner`: the app login sees the current user's rows only."""
    yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
    # A pooled connection keeps '' after a transaction-local set_config, hence the NULLIF.
    mine = f"{owner} = nullif(current_setting('app.user_id', true), '')::uuid"
    yield (f"CREATE POLICY customer ON {table} TO {service}_app USING ({mine}) WITH CHECK ({mine})")
    yield f"CREATE POLICY worker ON {table} TO {service}_worker USING (true) WITH CHECK (true)"
    yield f"CREATE POLICY migration ON {table} TO {service}_owner USING (true) WITH CHECK (true)"


def append_only(table: str) -> Iterable[str]:
    """Makes UPDATE, DELETE and TRUNCATE of a table fail for every role, the owner's included."""
    yield f"""
        CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '{table} is append-only' USING ERRCODE = 'restrict_violation';
        END $$"""
    yield f"""
        CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"""
