"""Comparisons that go through Stripe's objects by when they were made: how far each sweep came, and whether it looks
at what may have changed since.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009a"


def upgrade() -> None:
    op.add_column(
        "reconciliations",
        sa.Column("second_look", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column(
        "reconciliations",
        sa.Column("swept", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
