"""Which trace a row belongs to, and a user's holds. The columns are nullable and no part of the ledger's chain:
older rows stay as they are."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("points_transactions", "holds", "grants"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN trace_id text")
    op.execute("CREATE INDEX idx_holds_user_created ON holds (user_id, created_at)")
