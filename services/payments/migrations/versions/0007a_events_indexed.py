"""Looks at the events that were there before 0007, and makes what finds them.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0007a"
down_revision = "0007"

_INDEXES = {
    "idx_stripe_events_unsettled": "((status = 'failed'), lease_until) WHERE status IN ('received', 'failed')",
    "idx_stripe_events_set_aside": "(set_aside_at) WHERE status = 'set_aside'",
}
_CHECKS = (
    "known_status",
    "settled_has_a_time",
    "failed_has_a_time",
    "set_aside_says_who_and_why",
    "operators_acknowledge",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name in _CHECKS:
            op.execute(f"ALTER TABLE stripe_events VALIDATE CONSTRAINT {name}")
        for name, what in _INDEXES.items():
            # What an attempt that was broken off has left.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON stripe_events {what}")
        # The version before finds what it looks for in the new one.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS idx_stripe_events_due")
