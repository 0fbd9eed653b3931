"""Each reference by which a parked sale was settled outside stands with its amount, not the last one alone."""

from alembic import op

revision = "0014"
down_revision = "0013a"


def upgrade() -> None:
    op.execute("ALTER TABLE quarantine ADD COLUMN settlements jsonb DEFAULT '{}'::jsonb NOT NULL")
    op.execute(
        "ALTER TABLE quarantine ADD CONSTRAINT settlements_by_reference"
        " CHECK (jsonb_typeof(settlements) = 'object') NOT VALID"
    )
