"""What needs no transaction of migration 0003, and can be done again: an index made while customers search.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0003a"
down_revision = "0003"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE order_history VALIDATE CONSTRAINT moves")
        # What an attempt that was broken off has left.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS idx_products_search")
        op.execute(
            "CREATE INDEX CONCURRENTLY idx_products_search ON products"
            " USING gin (casefold(title COLLATE pg_unicode_fast) gin_trgm_ops)"
        )
