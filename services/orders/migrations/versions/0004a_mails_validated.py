"""Looks at the mails that were there before 0004.

Without a transaction around it, so that nobody waits: broken off, it is done again from its beginning.
"""

from alembic import op

revision = "0004a"
down_revision = "0004"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE mails VALIDATE CONSTRAINT handed_once")
