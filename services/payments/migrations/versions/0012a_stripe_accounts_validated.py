"""The checks of 0012, against the rows that were there.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0012a"
down_revision = "0012"

_MADE_AT_STRIPE = ("checkouts", "payments", "refunds", "subscriptions")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for table in _MADE_AT_STRIPE:
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {table}_stripe_account_fkey")
        op.execute("ALTER TABLE checkouts VALIDATE CONSTRAINT unknown_has_ended")
