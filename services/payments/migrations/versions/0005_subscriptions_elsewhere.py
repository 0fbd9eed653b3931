"""What becomes of a subscription outside of the shop: when it ends by itself, and whether it was changed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("cancel_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column(
        "subscriptions",
        sa.Column("changed_outside", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
