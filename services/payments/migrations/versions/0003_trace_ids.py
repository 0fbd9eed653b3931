"""The trace that checkouts and refunds were asked for in, and under which an event was handled."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("checkouts", sa.Column("traceparent", sa.Text(), nullable=True))
    op.add_column("refunds", sa.Column("traceparent", sa.Text(), nullable=True))
    op.add_column("stripe_events", sa.Column("trace_id", sa.Text(), nullable=True))
    op.execute("GRANT INSERT (traceparent) ON checkouts TO payments_app")
