"""Forgets Idempotency-Keys after 30 days."""

from services.chassis import idempotency, logs
from services.chassis.db import Database
from services.chassis.workers import Worker

log = logs.get(__name__)

_TICK_SECONDS = 3600.0


class Retention:
    """A background task of every service that keeps keys."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.run = Worker("retention", self._forget, tick_seconds=_TICK_SECONDS).run

    async def _forget(self) -> bool:
        async with self._database.worker() as connection:
            forgotten = await idempotency.forget_old(connection)
        if forgotten:
            log.info("retention.keys_forgotten", count=forgotten)
        return False
