"""A mail that the mail server will never take ends, until an operator decides."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # To the version before it is due at no time: that claims by next_attempt_at alone.
    op.execute("ALTER TABLE mails ADD COLUMN refused_at timestamptz")
    op.execute(
        "ALTER TABLE mails ADD CONSTRAINT refused_ended CHECK (refused_at IS NULL"
        " OR (sent_at IS NULL AND handed_at IS NULL AND next_attempt_at >= '9999-01-01 00:00+00')) NOT VALID"
    )
