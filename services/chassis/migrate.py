"""Runs a service's Alembic history against its own database: `python -m services.<name> migrate`."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path

import psycopg
from alembic import command, context
from alembic.config import Config
from sqlalchemy import MetaData, NullPool, create_engine

from services.chassis.connections import OWNER, Row, connect_now
from services.chassis.settings import MigrationSettings, load

# Any number: one lock per database, so that replicas starting together migrate one after the other.
_MIGRATION_LOCK = 4_711
# As long as replicas that start together may have to wait for the first one of them.
_LOCK_SECONDS = 300.0
_HOLDER = """
    SELECT format('pid %%s, %%s from %%s, connected since %%s', pid, application_name,
        coalesce(client_addr::text, 'this machine'), backend_start)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND objid = %s AND granted"""
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
    settings = load(MigrationSettings)
    connect = partial(
        connect_now, settings.database_owner_url, OWNER, name="migrate", pooling=settings.database_pooling
    )
    engine = create_engine("postgresql+psycopg://", creator=connect, poolclass=NullPool)
    with _alone(connect), engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


@contextmanager
def _alone(connect: Callable[[], psycopg.Connection[Row]]) -> Iterator[None]:
    """Holds the lock with a transaction of its own: it ends with the connection, behind a pooler too. It must
    have no snapshot, for which an index made CONCURRENTLY would wait."""
    with connect() as connection:
        _lock(connection)
        # It idles as long as the migrations run. Said last: what has run a SELECT holds its snapshot until it
        # is asked something else.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield


def _lock(connection: psycopg.Connection[Row]) -> None:
    """Asks again and again: an index that is made CONCURRENTLY waits for every statement that runs, and would
    deadlock with one that waits for this lock. Ends the process when it cannot be had."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while not _has_lock(connection):
        if time.monotonic() > deadline:
            holder = connection.execute(_HOLDER, (_MIGRATION_LOCK,)).fetchone()
            sys.exit(f"another migration has held the lock for {_LOCK_SECONDS:.0f} s: {holder}")
        connection.rollback()
        time.sleep(_ASK_AGAIN_SECONDS)


def _has_lock(connection: psycopg.Connection[Row]) -> bool:
    row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_MIGRATION_LOCK,)).fetchone()
    return row is not None and bool(row[0])
