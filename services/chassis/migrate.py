"""Runs a service's Alembic history against its own database: `python -m services.<name> migrate`."""

import time
from functools import partial
from io import StringIO
from pathlib import Path

import psycopg
from alembic import command, context
from alembic.config import Config
from sqlalchemy import Connection, MetaData, NullPool, create_engine, text

from services.chassis.settings import MigrationSettings, load

# Any number: one lock per database, so that replicas starting together migrate one after the other.
_MIGRATION_LOCK = 4_711
_LOCK_SECONDS = 5
_ASK_AGAIN_SECONDS = 0.2


def upgrade(migrations: Path) -> None:
    """Brings the database to the newest revision; does nothing when it is there already."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    command.upgrade(config, "head")


def sql_of(migrations: Path, *, since: str) -> str:
    """The SQL of every revision after `since`, as it would be executed; no database is asked."""
    written = StringIO()
    config = Config(output_buffer=written)
    config.set_main_option("script_location", str(migrations))
    command.upgrade(config, f"{since}:head", sql=True)
    return written.getvalue()


def run(metadata: MetaData) -> None:
    """What a service's `migrations/env.py` calls."""
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
    else:
        _run_online(metadata)


def _run_online(metadata: MetaData) -> None:
    url = load(MigrationSettings).database_owner_url.get_secret_value()
    engine = create_engine("postgresql+psycopg://", creator=partial(psycopg.connect, url), poolclass=NullPool)
    with engine.connect() as connection:
        _lock(connection)
        # A change that waits for a lock makes everybody else wait behind it: rather fail, and try again.
        connection.execute(text(f"SET lock_timeout = '{_LOCK_SECONDS}s'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            context.run_migrations()


def _lock(connection: Connection) -> None:
    """Asks again and again: an index that is made CONCURRENTLY waits for every statement that runs, and would
    deadlock with one that waits for this lock."""
    asked = text("SELECT pg_try_advisory_lock(:lock)")
    while not connection.scalar(asked, {"lock": _MIGRATION_LOCK}):
        connection.commit()
        time.sleep(_ASK_AGAIN_SECONDS)
