"""Forgets what is kept for 30 days: Idempotency-Keys, and what else a service names."""

from collections.abc import Awaitable, Callable, Mapping

from services.chassis import idempotency, logs
from services.chassis.db import Database, FixedSql
from services.chassis.workers import Worker

log = logs.get(__name__)

_TICK_SECONDS = 3600.0
# One batch in a transaction of its own; how many rows are gone.
Purge = Callable[[FixedSql], Awaitable[int]]


class Retention:
    """A background task of every service that keeps keys."""

    def __init__(self, database: Database, purges: Mapping[str, Purge] | None = None) -> None:
        """`purges` are called again as long as they find something."""
        self._database = database
        self._purges = purges or {}
        self.run = Worker("retention", self._forget, tick_seconds=_TICK_SECONDS).run

    async def _forget(self) -> bool:
        async with self._database.worker() as connection:
            forgotten = await idempotency.forget_old(connection)
        if forgotten:
            log.info("retention.keys_forgotten", count=forgotten)
        return await self._purge()

    async def _purge(self) -> bool:
        found = False
        for name, purge in self._purges.items():
            async with self._database.worker_sql() as connection:
                purged = await purge(connection)
            if purged:
                log.info("retention.purged", what=name, count=purged)
                found = True
        return found
