"""Orders are found by the number that mails print."""

from alembic import op

revision = "0008"
down_revision = "0007a"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # What an attempt that was broken off has left.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS idx_orders_number")
        op.execute("CREATE INDEX CONCURRENTLY idx_orders_number ON orders (right(id::text, 12))")
