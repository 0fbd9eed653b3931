"""Of several live subscriptions of a plan the oldest stays; then the indexes of 0009.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0009a"
down_revision = "0009"

_LIVE = "status IN ('trialing', 'active', 'past_due', 'paused') AND NOT cancel_at_period_end"
_MARK_SECONDS = f"""
    UPDATE subscriptions SET duplicate_of = live.oldest, cancel_due_at = now()
    FROM (SELECT id, first_value(id) OVER (PARTITION BY user_id, plan_id ORDER BY created_at, id) AS oldest
        FROM subscriptions WHERE {_LIVE}) live
    WHERE live.id = subscriptions.id AND live.oldest <> live.id
"""
_INDEXES = (
    (
        "idx_subscriptions_one_live",
        "UNIQUE INDEX",
        f"subscriptions (user_id, plan_id) WHERE {_LIVE} AND duplicate_of IS NULL",
    ),
    (
        "idx_subscriptions_cancel_due",
        "INDEX",
        "subscriptions (cancel_due_at) WHERE cancel_due_at IS NOT NULL",
    ),
    # Pages that the release before opened are none of these: it opens one for each request.
    (
        "idx_checkouts_one_page",
        "UNIQUE INDEX",
        "checkouts (user_id, plan_id) WHERE plan_page AND status IN ('creating', 'open')",
    ),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(_MARK_SECONDS)
        op.execute("ALTER TABLE subscriptions VALIDATE CONSTRAINT subscriptions_duplicate_of_fkey")
        for name, kind, of in _INDEXES:
            # What an attempt that was broken off has left.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE {kind} CONCURRENTLY {name} ON {of}")
