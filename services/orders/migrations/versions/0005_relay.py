"""Who publishes the outbox, by a lease, and into which stream. A relay of the release before knows neither, and
goes on beside it."""

from alembic import op
from sqlalchemy import MetaData

from services.chassis.tables import relay_table

revision = "0005"
down_revision = "0004a"
branch_labels = None
depends_on = None


def upgrade() -> None:
    metadata = MetaData()
    relay_table(metadata)
    metadata.create_all(op.get_bind())
    op.execute("GRANT SELECT, INSERT, UPDATE ON relay TO orders_worker")
