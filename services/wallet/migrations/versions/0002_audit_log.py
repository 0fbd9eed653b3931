"""What operators did. Forward only, as the ledger is."""

from alembic import op

from services.chassis.tables import append_only

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TABLE = """
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


def upgrade() -> None:
    for statement in (_TABLE, *append_only("audit_log")):
        op.execute(statement)
    op.execute("GRANT SELECT, INSERT ON audit_log TO wallet_worker")
