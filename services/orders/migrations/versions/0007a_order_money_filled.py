"""The amounts of orders that were there before 0007, and what finds orders by them.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0007a"
down_revision = "0007"

# What went back, disputes that were lost as a whole, and orders whose refund came back before this was known:
# they stayed refunded, and stand on the operators' list now. One that a lost dispute has made refunded was
# promised nothing, even if the bank decided anew since. In portions, each committed, so that no customer waits
# for a row of his; what a release without the columns writes meanwhile has null, and counts by itself.
_BACKFILL = """
    DO $$
    DECLARE
        last uuid := '00000000-0000-0000-0000-000000000000';
        portion uuid[];
    BEGIN
        LOOP
            portion := ARRAY(SELECT id FROM orders WHERE id > last ORDER BY id LIMIT 2000);
            EXIT WHEN cardinality(portion) = 0;
            UPDATE orders
            SET paid_cents = total_cents, lost_cents = CASE dispute WHEN 'lost' THEN total_cents END,
                promised_cents = CASE WHEN status = 'refunded' AND dispute <> 'lost'
                    AND failure_reason IS DISTINCT FROM 'dispute_lost' THEN total_cents
                    ELSE refunded_cents END,
                owed_cents = CASE WHEN status = 'refunded' AND dispute <> 'lost'
                    AND failure_reason IS DISTINCT FROM 'dispute_lost' THEN total_cents - refunded_cents
                    ELSE 0 END
            WHERE id = ANY(portion) AND payment_method = 'stripe' AND status IN ('completed', 'refunded')
                AND paid_cents IS NULL;
            last := portion[cardinality(portion)];
            COMMIT;
        END LOOP;
    END $$"""
_CHECKS = (
    "paid_cents_within_total",
    "disputed_cents_within_total",
    "lost_cents_within_total",
    "promised_cents_within_total",
    "decided_within_total",
    "owed_cents_within_promised",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_BACKFILL)
        op.execute("ALTER TABLE mails VALIDATE CONSTRAINT known_kind")
        for name in _CHECKS:
            op.execute(f"ALTER TABLE orders VALIDATE CONSTRAINT {name}")
        for name, table, columns in (
            ("idx_orders_owed", "orders", "(id) WHERE owed_cents > 0"),
            ("idx_refunds_failed", "refunds", "(finished_at) WHERE status = 'failed'"),
        ):
            # What an attempt that was broken off has left.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {table} {columns}")
