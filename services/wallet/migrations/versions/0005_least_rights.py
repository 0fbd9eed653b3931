"""The customers' login may do what it does: read the ledger, and make holds that are held. It never wrote the
ledger, in no release."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("REVOKE INSERT ON points_transactions FROM wallet_app")
    op.execute(
        "CREATE POLICY customer_holds ON holds AS RESTRICTIVE FOR INSERT TO wallet_app"
        " WITH CHECK (status = 'held' AND refunded_points = 0)"
    )
