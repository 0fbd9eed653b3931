"""How much of Stripe one purpose may use, so that it takes nothing from another."""

import asyncio
from types import TracebackType

from services.chassis.rates import LocalBuckets, Rate, Try


class Allowance:
    """`async with` it around each call: so many at once, and so many a second; whoever comes then waits."""

    def __init__(self, at_once: int, rate: Rate) -> None:
        self._places = asyncio.Semaphore(at_once)
        self._rate = rate
        self._buckets = LocalBuckets()

    async def __aenter__(self) -> None:
        await self._places.acquire()
        try:
            while wait_seconds := self._buckets.take([Try("", self._rate)]):
                await asyncio.sleep(wait_seconds)
        except BaseException:
            self._places.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.release()
