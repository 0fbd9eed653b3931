"""Profiles, the ledger, holds, grants and messaging. Forward only: a ledger is never dropped."""

from alembic import op
from sqlalchemy import MetaData

from services.chassis.tables import append_only, messaging_tables, secure_user_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    """
    CREATE TABLE profiles (
        id uuid NOT NULL CONSTRAINT profiles_pkey PRIMARY KEY,
        email bytea,
        email_hmac bytea,
        points bigint NOT NULL DEFAULT 0,
        points_held bigint NOT NULL DEFAULT 0,
        points_debt bigint NOT NULL DEFAULT 0,
        ledger_seq bigint NOT NULL DEFAULT 0,
        ledger_head bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT profiles_held_within_points CHECK (points_held >= 0 AND points_held <= points),
        CONSTRAINT profiles_debt_not_negative CHECK (points_debt >= 0),
        CONSTRAINT profiles_debt_only_when_nothing_is_free CHECK (points_debt = 0 OR points = points_held),
        CONSTRAINT profiles_ledger_seq_not_negative CHECK (ledger_seq >= 0),
        CONSTRAINT profiles_ledger_head_is_sha256 CHECK (octet_length(ledger_head) = 32),
        CONSTRAINT profiles_email_with_its_hmac CHECK ((email IS NULL) = (email_hmac IS NULL))
    )""",
    "CREATE INDEX idx_profiles_email_hmac ON profiles (email_hmac)",
    """
    CREATE TABLE points_transactions (
        id uuid NOT NULL CONSTRAINT points_transactions_pkey PRIMARY KEY,
        user_id uuid NOT NULL CONSTRAINT points_transactions_user_id_fkey REFERENCES profiles (id),
        seq bigint NOT NULL,
        amount bigint NOT NULL,
        type text NOT NULL,
        description text NOT NULL,
        order_id uuid,
        stripe_payment_intent_id text,
        idempotency_key text NOT NULL,
        metadata jsonb NOT NULL DEFAULT '{}'::jsonb,
        balance_after bigint NOT NULL,
        prev_hash bytea NOT NULL,
        hash bytea NOT NULL,
        hash_version smallint NOT NULL,
        processed_at timestamptz NOT NULL DEFAULT now(),
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT points_transactions_idempotency_key_key UNIQUE (idempotency_key),
        CONSTRAINT points_transactions_user_id_seq_key UNIQUE (user_id, seq),
        CONSTRAINT points_transactions_type_is_known
            CHECK (type IN ('purchase', 'spend', 'refund', 'reversal', 'adjustment')),
        CONSTRAINT points_transactions_amount_not_zero CHECK (amount <> 0),
        CONSTRAINT points_transactions_credits_are_positive
            CHECK (type NOT IN ('purchase', 'refund') OR amount > 0),
        CONSTRAINT points_transactions_spends_are_negative CHECK (type <> 'spend' OR amount < 0),
        CONSTRAINT points_transactions_order_is_named
            CHECK (type NOT IN ('spend', 'refund') OR order_id IS NOT NULL),
        CONSTRAINT points_transactions_seq_is_positive CHECK (seq > 0),
        CONSTRAINT points_transactions_hashes_are_sha256
            CHECK (octet_length(prev_hash) = 32 AND octet_length(hash) = 32),
        CONSTRAINT points_transactions_first_has_no_previous
            CHECK ((seq = 1) = (prev_hash = decode(repeat('00', 32), 'hex')))
    )""",
    "CREATE INDEX idx_points_transactions_user_created ON points_transactions (user_id, created_at DESC)",
    """
    CREATE UNIQUE INDEX idx_points_transactions_one_spend ON points_transactions (order_id)
    WHERE type = 'spend'""",
    """
    CREATE TABLE holds (
        id uuid NOT NULL DEFAULT uuidv7() CONSTRAINT holds_pkey PRIMARY KEY,
        user_id uuid NOT NULL CONSTRAINT holds_user_id_fkey REFERENCES profiles (id),
        order_id uuid NOT NULL,
        points bigint NOT NULL,
        refunded_points bigint NOT NULL DEFAULT 0,
        status text NOT NULL,
        due_at timestamptz NOT NULL,
        asked integer NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT holds_order_id_key UNIQUE (order_id),
        CONSTRAINT holds_status_is_known CHECK (status IN ('held', 'captured', 'released')),
        CONSTRAINT holds_points_positive_or_tombstone
            CHECK (points > 0 OR (points = 0 AND status = 'released')),
        CONSTRAINT holds_refunds_within_spend CHECK (refunded_points >= 0 AND refunded_points <= points),
        CONSTRAINT holds_refunds_need_a_capture CHECK (refunded_points = 0 OR status = 'captured'),
        CONSTRAINT holds_asked_not_negative CHECK (asked >= 0)
    )""",
    "CREATE INDEX idx_holds_due ON holds (due_at) WHERE status = 'held'",
    """
    CREATE TABLE grants (
        source_id text NOT NULL CONSTRAINT grants_pkey PRIMARY KEY,
        user_id uuid NOT NULL CONSTRAINT grants_user_id_fkey REFERENCES profiles (id),
        version bigint NOT NULL,
        net_points bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT grants_version_is_positive CHECK (version > 0),
        CONSTRAINT grants_net_not_negative CHECK (net_points >= 0),
        CONSTRAINT grants_source_is_named CHECK (length(source_id) BETWEEN 1 AND 255)
    )""",
)

# The condition is checked without calling the function: an allowed update pays almost nothing.
_HOLDS_RESOLVE_ONCE = (
    """
    CREATE FUNCTION holds_resolve_once() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'a hold resolves once, and stays what it was made for'
            USING ERRCODE = 'restrict_violation';
    END $$""",
    """
    CREATE TRIGGER holds_resolve_once BEFORE UPDATE ON holds FOR EACH ROW
    WHEN (
        (OLD.status <> 'held' AND NEW.status <> OLD.status)
        OR (NEW.id, NEW.user_id, NEW.order_id, NEW.points) <> (OLD.id, OLD.user_id, OLD.order_id, OLD.points)
    )
    EXECUTE FUNCTION holds_resolve_once()""",
)

# A customer's login can move points into a hold and nothing else: no balance, no end of a hold.
_GRANTS = (
    "GRANT SELECT, INSERT (id, email, email_hmac), "
    "UPDATE (email, email_hmac, points_held, updated_at) ON profiles TO wallet_app",
    "GRANT SELECT, INSERT ON points_transactions TO wallet_app",
    "GRANT SELECT, INSERT ON holds TO wallet_app",
    "GRANT SELECT ON grants TO wallet_app",
    "GRANT SELECT, INSERT, UPDATE ON profiles, holds, grants, outbox TO wallet_worker",
    "GRANT SELECT, INSERT ON points_transactions, inbox, dead_letters TO wallet_worker",
)


def upgrade() -> None:
    for statement in (*_TABLES, *append_only("points_transactions"), *_HOLDS_RESOLVE_ONCE):
        op.execute(statement)
    messaging = MetaData()
    messaging_tables(messaging)
    messaging.create_all(op.get_bind())
    for statement in secure_user_table("wallet", "profiles", owner="id"):
        op.execute(statement)
    for table in ("points_transactions", "holds", "grants"):
        for statement in secure_user_table("wallet", table):
            op.execute(statement)
    for statement in _GRANTS:
        op.execute(statement)
