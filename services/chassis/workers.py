"""Background work: loops that are woken or tick."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from services.chassis import logs, rounds
from services.chassis.outages import is_outage, lasting

# What has no workers takes these two from their own modules, without the database's libraries.
from services.chassis.signals import run_until_signal as run_until_signal
from services.chassis.tasks import background as background

log = logs.get(__name__)

_FAILURE_PAUSE_SECONDS = 1.0


class Worker:
    """Calls `work` whenever it is woken, and every `tick_seconds` anyway.

    After a wake-up it lingers, so that work that comes in bursts is done in batches.
    `work` returns True when there may be more to do at once, and takes `longest_seconds` at most
    (rounds.py). What it raises is logged and tried again at the next tick: the work itself is in the
    database.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[bool]],
        *,
        tick_seconds: float,
        linger_seconds: float = 0.0,
        longest_seconds: float = rounds.LONGEST_SECONDS,
    ) -> None:
        self._name = name
        self._work = work
        self._tick_seconds = tick_seconds
        self._linger_seconds = linger_seconds
        self._longest_seconds = longest_seconds
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def _work_once(self) -> bool:
        with rounds.under_way(self._name, longest_seconds=self._longest_seconds):
            return await self._work()

    @lasting
    async def run(self) -> None:
        while True:
            self._woken.clear()
            try:
                while await self._work_once():
                    pass
            except Exception as error:
                if is_outage(error):
                    log.warning("worker.failed", worker=self._name, error=repr(error))
                else:
                    log.exception("worker.crashed", worker=self._name)
                await asyncio.sleep(_FAILURE_PAUSE_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._tick_seconds)
                await asyncio.sleep(self._linger_seconds)
