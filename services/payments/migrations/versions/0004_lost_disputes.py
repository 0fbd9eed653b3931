"""What disputes that ended lost took, apart from what open ones hold. The release before leaves the new columns
alone: 0 and null there mean that the dispute's own amount counts, until it is looked at again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_BACKFILL = """
    UPDATE payments SET lost_cents = lost.cents
    FROM (SELECT payment_id, sum(amount_cents) AS cents FROM disputes WHERE status = 'lost' GROUP BY payment_id)
        AS lost
    WHERE lost.payment_id = payments.id
"""


def upgrade() -> None:
    op.add_column("payments", sa.Column("lost_cents", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("disputes", sa.Column("share_cents", sa.BigInteger(), nullable=True))
    op.add_column("disputes", sa.Column("lost_cents", sa.BigInteger(), nullable=True))
    # Not validated: of new columns every row is as it must be.
    op.execute("ALTER TABLE payments ADD CONSTRAINT lost_not_negative CHECK (lost_cents >= 0) NOT VALID")
    op.execute(
        "ALTER TABLE disputes ADD CONSTRAINT lost_within_share CHECK (lost_cents BETWEEN 0 AND share_cents)"
        " NOT VALID"
    )
    op.execute(_BACKFILL)
