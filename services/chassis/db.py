"""One engine per login, and the only places where a transaction opens and commits.

`customer()` is the app login under row-level security: the user's id is set as the transaction's first
statement. `worker()` is the login of consumers, sagas and operator calls. Both yield a SQLAlchemy Core
connection. `customer_sql()` and `worker_sql()` yield psycopg's own connection out of the same pool, for
the few statements of the checkout path, where compiling Core costs more CPU than running the SQL
(`make bench`). Everything commits when the block ends and rolls back when it raises.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, cast
from uuid import UUID

import psycopg
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from services.chassis import connections, metrics
from services.chassis.connections import (
    REQUEST,
    WORKER,
    Limits,
    Pooling,
    Row,
    UnboundSession,
    deadline,
    hang_up,
)

FixedSql = psycopg.AsyncConnection[Row]

# How long a connection is waited for. A worker's step is part of a request that has been accepted (a saga's
# next transaction): one that gives up early is repeated by the caller, and meets itself at work.
_REQUEST_POOL_WAIT_SECONDS = 1.0
_WORKER_POOL_WAIT_SECONDS = 4.0
_RECYCLE_SECONDS = 1800


class _Pool(AsyncAdaptedQueuePool):
    """Counts who waited in vain."""

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except PoolTimeout:
            metrics.POOL_TIMEOUTS.labels(self.logging_name).inc()
            raise


class _Login:
    """One login's engine, and how long its transactions may take."""

    def __init__(
        self,
        url: SecretStr,
        limits: Limits,
        *,
        login: str,
        size: int,
        pool_wait_seconds: float,
        name: str,
        pooling: Pooling,
    ) -> None:
        self.limits = limits
        self.engine = create_async_engine(
            "postgresql+psycopg://",
            # libpq reads the URL, which may name a primary and its standbys: SQLAlchemy knows one host only.
            async_creator=partial(connections.connect, url, limits, name=name, pooling=pooling),
            poolclass=_Pool,
            pool_logging_name=login,
            pool_size=size,
            max_overflow=0,
            pool_timeout=pool_wait_seconds,
            pool_recycle=_RECYCLE_SECONDS,
            # Every block below ends its own transaction: the pool has nothing left to reset.
            pool_reset_on_return=None,
            # Errors are logged, and customers' values are no business of a log.
            hide_parameters=True,
        )
        # Asked of the engine: a pool is replaced when the server was away.
        metrics.watch_pool(login, size=size, in_use=lambda: cast(_Pool, self.engine.pool).checkedout())

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of SQLAlchemy Core."""
        async with self.engine.connect() as connection:
            driver = _driver_of(connection)
            watch = deadline(driver, self.limits.deadline_seconds)
            try:
                with watch:
                    async with connection.begin():
                        with _cancelled_at_once(driver):
                            yield connection
            finally:
                if watch.has_hung_up:
                    await connection.invalidate()

    @asynccontextmanager
    async def begin_sql(self, begin: str, deadline_seconds: float | None = None) -> AsyncIterator[FixedSql]:
        async with self.lease(deadline_seconds) as connection:
            try:
                # psycopg would send its BEGIN in a round trip of its own.
                with _cancelled_at_once(connection):
                    await connection.execute(cast(Any, begin))
                    yield connection
                    await connection.execute("COMMIT")
            except BaseException:
                with suppress(psycopg.Error):
                    await connection.execute("ROLLBACK")
                raise

    @asynccontextmanager
    async def lease(self, deadline_seconds: float | None = None) -> AsyncIterator[FixedSql]:
        """psycopg's own connection out of the pool, in autocommit."""
        pool = self.engine.pool
        lease = await self.engine.raw_connection()
        connection = cast(FixedSql, lease.driver_connection)
        watch = deadline(connection, deadline_seconds or self.limits.deadline_seconds)
        try:
            with watch:
                await connection.set_autocommit(True)
                yield connection
        finally:
            is_dead = connection.closed or watch.has_hung_up
            if is_dead or self.engine.pool is not pool or not _is_idle(connection):
                # A statement that was left in the middle has an answer that nobody else must hear.
                await greenlet_spawn(lease.invalidate)
            else:
                await connection.set_autocommit(False)
                await greenlet_spawn(lease.close)
            if connection.closed and self.engine.pool is pool:
                # The server went away: its siblings in the pool are as dead as this one.
                await self.engine.dispose()


@contextmanager
def _cancelled_at_once(connection: FixedSql) -> Iterator[None]:
    """Whoever is cancelled has asked the server to cancel the statement. One that says nothing to that would
    not answer a ROLLBACK either."""
    try:
        yield
    except asyncio.CancelledError:
        if connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            hang_up(connection)
        raise


def _driver_of(connection: AsyncConnection) -> FixedSql:
    """psycopg's own under SQLAlchemy's; AsyncConnection.get_raw_connection() costs a greenlet."""
    assert connection.sync_connection is not None, "it is open"
    return cast(FixedSql, connection.sync_connection.connection.driver_connection)


def _is_idle(connection: FixedSql) -> bool:
    return connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE


class Database:
    """A service's own database, through its two run-time logins."""

    def __init__(
        self,
        *,
        app_url: SecretStr,
        worker_url: SecretStr,
        pool_size: int,
        name: str,
        pooling: Pooling = "session",
    ) -> None:
        self._app = _Login(
            app_url,
            REQUEST,
            login="app",
            size=pool_size,
            pool_wait_seconds=_REQUEST_POOL_WAIT_SECONDS,
            name=name,
            pooling=pooling,
        )
        self._worker = _Login(
            worker_url,
            WORKER,
            login="worker",
            size=max(2, pool_size // 2),
            pool_wait_seconds=_WORKER_POOL_WAIT_SECONDS,
            name=f"{name}-worker",
            pooling=pooling,
        )
        self.worker_url = worker_url

    async def require_settings(self) -> None:
        """Ends the process where a pooler's sessions lack what bounds them; a server that is away is none of
        its business. To be awaited before anything is served."""
        for login in (self._app, self._worker):
            try:
                async with login.lease():
                    pass
            except UnboundSession as error:
                sys.exit(str(error))
            except (psycopg.OperationalError, PoolTimeout):
                return

    @asynccontextmanager
    async def customer(self, user_id: UUID) -> AsyncIterator[AsyncConnection]:
        async with self._app.begin() as connection:
            await connection.execute(select(func.set_config("app.user_id", str(user_id), True)))
            yield connection

    @asynccontextmanager
    async def anyone(self) -> AsyncIterator[AsyncConnection]:
        """The app login with no user: sees the catalogue and nobody's rows."""
        async with self._app.begin() as connection:
            yield connection

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[AsyncConnection]:
        async with self._worker.begin() as connection:
            yield connection

    @asynccontextmanager
    async def customer_sql(self, user_id: UUID) -> AsyncIterator[FixedSql]:
        # A UUID's text needs no quoting; BEGIN and the setting share one round trip.
        begin = f"BEGIN; SELECT set_config('app.user_id', '{user_id}', true)"
        async with self._app.begin_sql(begin) as connection:
            yield connection

    @asynccontextmanager
    async def worker_sql(self, *, deadline_seconds: float | None = None) -> AsyncIterator[FixedSql]:
        """Whoever raises the transaction's statement timeout gives it a later deadline, too."""
        async with self._worker.begin_sql("BEGIN", deadline_seconds) as connection:
            yield connection

    @asynccontextmanager
    async def worker_statement(self) -> AsyncIterator[FixedSql]:
        """Each statement is a transaction of its own: spares two round trips where one is enough."""
        async with self._worker.lease() as connection:
            yield connection

    async def dispose(self) -> None:
        await self._app.engine.dispose()
        await self._worker.engine.dispose()
