"""One live subscription of a plan for each user, and one open page that begins one. Of several that live already the
oldest stays: the others are canceled, as one that is paid second is from now on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008a"


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("duplicate_of", sa.Uuid(), nullable=True))
    op.add_column("subscriptions", sa.Column("cancel_due_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column(
        "subscriptions", sa.Column("cancel_tries", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column(
        "checkouts", sa.Column("plan_page", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.execute(
        "ALTER TABLE subscriptions ADD CONSTRAINT subscriptions_duplicate_of_fkey"
        " FOREIGN KEY (duplicate_of) REFERENCES subscriptions (id) NOT VALID"
    )
    op.execute("GRANT INSERT (plan_page) ON checkouts TO payments_app")
