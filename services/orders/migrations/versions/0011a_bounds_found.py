"""What finds an order that one customer holds unpaid, or that bought nothing.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0011a"
down_revision = "0011"

_UNBOUGHT = "failure_reason IN ('out_of_stock', 'insufficient_points')"
_INDEXES = {
    "idx_orders_open_by_card": "(user_id) WHERE status = 'pending' AND payment_method = 'stripe'",
    "idx_orders_unbought_user": f"(user_id, created_at) WHERE {_UNBOUGHT}",
    "idx_orders_unbought": f"(created_at) WHERE {_UNBOUGHT}",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, columns in _INDEXES.items():
            # What an attempt that was broken off has left.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON orders {columns}")
