"""Mails are handed to one sender before their text goes out, and then never again by themselves."""

from alembic import op

revision = "0004"
down_revision = "0003a"


def upgrade() -> None:
    # The version before knows no handed_at, and what is due to it is what is due to us.
    op.execute("ALTER TABLE mails ADD COLUMN handed_at timestamptz")
    op.execute(
        "ALTER TABLE mails ADD CONSTRAINT handed_once"
        " CHECK (handed_at IS NULL OR sent_at IS NOT NULL OR next_attempt_at >= '9999-01-01 00:00+00') NOT VALID"
    )
