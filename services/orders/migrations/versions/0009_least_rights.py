"""The customers' login may do what it does: place orders, whose sagas begin at their first step. What it does
is no fact that others are told of, in no release."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_FIRST_STEPS = """
    ('place_order_with_points/v1', 'reserve_points'), ('place_order_with_card/v1', 'open_checkout')"""


def upgrade() -> None:
    op.execute("REVOKE INSERT ON outbox FROM orders_app")
    op.execute(
        "CREATE POLICY customer_places ON orders AS RESTRICTIVE FOR INSERT TO orders_app"
        " WITH CHECK (status IN ('pending', 'failed'))"
    )
    op.execute(
        "CREATE POLICY customer_begins ON saga_runs AS RESTRICTIVE FOR INSERT TO orders_app"
        f" WITH CHECK (status = 'running' AND (saga, step) IN ({_FIRST_STEPS}))"
    )
