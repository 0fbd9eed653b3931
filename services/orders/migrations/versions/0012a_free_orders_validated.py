"""The check of 0012, against the rows that were there.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0012a"
down_revision = "0012"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE orders VALIDATE CONSTRAINT completed_by_card_has_its_payment")
