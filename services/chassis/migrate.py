"""Runs a service's Alembic history against its own database: `python -m services.<name> migrate`."""

from pathlib import Path

from alembic import command, context
from alembic.config import Config
from sqlalchemy import MetaData, NullPool, create_engine, text

from services.chassis.settings import MigrationSettings

# Any number: one lock per database, so that replicas starting together migrate one after the other.
_MIGRATION_LOCK = 4_711


def upgrade(migrations: Path) -> None:
    """Brings the database to the newest revision; does nothing when it is there already."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    command.upgrade(config, "head")


def run_online(metadata: MetaData) -> None:
    """What a service's `migrations/env.py` calls."""
    url = MigrationSettings().database_owner_url.get_secret_value()
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            context.run_migrations()
