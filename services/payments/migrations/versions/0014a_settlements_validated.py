"""The check of 0014, against the rows that were there.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0014a"
down_revision = "0014"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE quarantine VALIDATE CONSTRAINT settlements_by_reference")
