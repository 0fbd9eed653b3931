"""One engine per login, and the only places where a transaction opens and commits.

`customer()` is the app login under row-level security: the user's id is set as the transaction's first
statement. `worker()` is the login of consumers, sagas and operator calls. Both yield a SQLAlchemy Core
connection. `customer_sql()` and `worker_sql()` yield psycopg's own connection out of the same pool, for
the few statements of the checkout path, where compiling Core costs more CPU than running the SQL
(`make bench`). Everything commits when the block ends and rolls back when it raises.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, cast
from uuid import UUID

import psycopg
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from services.chassis import metrics

Row = tuple[Any, ...]
FixedSql = psycopg.AsyncConnection[Row]

# A request waits 1 s for a lock and 1.5 s for a statement; a worker may take 5 s.
_REQUEST_TIMEOUTS_MS = {"lock_timeout": 1000, "statement_timeout": 1500}
_WORKER_TIMEOUTS_MS = {"lock_timeout": 5000, "statement_timeout": 5000}
_IDLE_IN_TRANSACTION_MS = 10_000
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


def _engine(
    url: SecretStr, *, login: str, size: int, timeouts_ms: dict[str, int], pool_wait_seconds: float, name: str
) -> AsyncEngine:
    options = timeouts_ms | {"idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION_MS}
    connect = partial(
        psycopg.AsyncConnection.connect,
        url.get_secret_value(),
        application_name=name,
        connect_timeout=3,
        prepare_threshold=1,
        options=" ".join(f"-c {option}={value}" for option, value in options.items()),
    )
    engine = create_async_engine(
        "postgresql+psycopg://",
        # libpq reads the URL, which may name a primary and its standbys: SQLAlchemy knows one host only.
        async_creator=connect,
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
    metrics.watch_pool(login, size=size, in_use=lambda: cast(_Pool, engine.pool).checkedout())
    return engine


class Database:
    """A service's own database, through its two run-time logins."""

    def __init__(self, *, app_url: SecretStr, worker_url: SecretStr, pool_size: int, name: str) -> None:
        self._app = _engine(
            app_url,
            login="app",
            size=pool_size,
            timeouts_ms=_REQUEST_TIMEOUTS_MS,
            pool_wait_seconds=_REQUEST_POOL_WAIT_SECONDS,
            name=name,
        )
        self._worker = _engine(
            worker_url,
            login="worker",
            size=max(2, pool_size // 2),
            timeouts_ms=_WORKER_TIMEOUTS_MS,
            pool_wait_seconds=_WORKER_POOL_WAIT_SECONDS,
            name=f"{name}-worker",
        )
        self.worker_url = worker_url

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
        async with _fixed_sql(self._app, begin) as connection:
            yield connection

    @asynccontextmanager
    async def worker_sql(self) -> AsyncIterator[FixedSql]:
        async with _fixed_sql(self._worker, "BEGIN") as connection:
            yield connection

    @asynccontextmanager
    async def worker_statement(self) -> AsyncIterator[FixedSql]:
        """Each statement is a transaction of its own: spares two round trips where one is enough."""
        async with _leased(self._worker) as connection:
            yield connection

    async def dispose(self) -> None:
        await self._app.dispose()
        await self._worker.dispose()


@asynccontextmanager
async def _fixed_sql(engine: AsyncEngine, begin: str) -> AsyncIterator[FixedSql]:
    async with _leased(engine) as connection:
        try:
            # psycopg would send its BEGIN in a round trip of its own.
            await connection.execute(cast(Any, begin))
            yield connection
            await connection.execute("COMMIT")
        except BaseException:
            with suppress(psycopg.Error):
                await connection.execute("ROLLBACK")
            raise


@asynccontextmanager
async def _leased(engine: AsyncEngine) -> AsyncIterator[FixedSql]:
    """psycopg's own connection out of the pool, in autocommit."""
    lease = await engine.raw_connection()
    connection = cast(FixedSql, lease.driver_connection)
    try:
        await connection.set_autocommit(True)
        yield connection
    finally:
        await _give_back(engine, lease, connection)


async def _give_back(engine: AsyncEngine, lease: Any, connection: FixedSql) -> None:
    if connection.closed:
        # The server went away: its siblings in the pool are as dead as this one.
        await greenlet_spawn(lease.invalidate)
        await engine.dispose()
        return
    with suppress(psycopg.Error):
        await connection.set_autocommit(False)
    await greenlet_spawn(lease.close)
