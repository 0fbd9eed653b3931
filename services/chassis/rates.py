"""How often somebody may do something: a bucket of so many tries that fills up again at so many a second.

A bucket is one number, the moment at which it will be full again (GCRA). Each process keeps its own; where
there is a Valkey, all processes share one more, and a try needs both. What this process refuses by itself is
not asked about: others can only have used up more.

Valkey is asked by one script for everybody who asked in the meantime, one call at a time: measured, 14 µs of
CPU here and 5 µs there for each try when 32 come at once, 116 and 44 µs for a single one. (The library
`limits` takes 63 to 92 and 20 to 32 µs for a fixed window, which lets twice its number pass at the turn.)
It is never waited for: what it does not answer in a twentieth of a second this process decides alone, and for
a second it is not asked again. A bucket that Valkey evicts is full.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, SecretStr
from pydantic_settings import NoDecode
from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from services.chassis.breaker import Breaker

_RATE = re.compile(r"([0-9]{1,7})\s*,\s*([0-9]{1,7}(?:\.[0-9]{1,3})?)/s")
_OFF = "off"
_PREFIX = "aishop:rate:1:"
_PATIENCE_SECONDS = 0.05
# So many of this process's own buckets; whoever was not here for the longest time is forgotten first.
_MOST_BUCKETS = 100_000
_US = 1_000_000

# For each try: how many buckets, then interval and capacity of each in microseconds. Answers how long each
# has to wait; who has to wait has used nothing. By the server's clock: those of the processes differ.
_TAKE = """
local time = server.call('TIME')
local now = time[1] * 1000000 + time[2]
local waits, key, at = {}, 0, 1
while at <= #ARGV do
  local count, wait, full_at = tonumber(ARGV[at]), 0, {}
  for i = 1, count do
    local interval, capacity = tonumber(ARGV[at + 2 * i - 1]), tonumber(ARGV[at + 2 * i])
    full_at[i] = math.max(tonumber(server.call('GET', KEYS[key + i]) or 0) or 0, now) + interval
    wait = math.max(wait, full_at[i] - now - capacity)
  end
  if wait == 0 then
    for i = 1, count do
      local milliseconds = math.ceil((full_at[i] - now) / 1000)
      server.call('SET', KEYS[key + i], string.format('%.0f', full_at[i]), 'PX', milliseconds)
    end
  end
  waits[#waits + 1] = wait
  key, at = key + count, at + 1 + 2 * count
end
return waits
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` tries at once, and `per_second` of them after that."""

    burst: int
    per_second: float

    @property
    def interval_us(self) -> int:
        return max(1, round(_US / self.per_second))

    @property
    def capacity_us(self) -> int:
        return self.burst * self.interval_us


def _read(value: object) -> object:
    """ValueError for text that is no rate."""
    if not isinstance(value, str):
        return value
    if value == _OFF:
        return None
    found = _RATE.fullmatch(value.strip())
    if found is None or not int(found[1]) or not float(found[2]):
        raise ValueError("expected '<at once>, <a second>/s', such as '300, 50/s', or 'off'")
    return Rate(int(found[1]), float(found[2]))


# A setting: `300, 50/s`; `off` for no limit.
RateSetting = Annotated[Rate | None, NoDecode, BeforeValidator(_read)]


class Try(NamedTuple):
    """One token of the bucket of that name."""

    bucket: str
    rate: Rate


def _now_us() -> int:
    return time.monotonic_ns() // 1000


class LocalBuckets:
    """Those of this process."""

    def __init__(self, *, most: int = _MOST_BUCKETS, now_us: Callable[[], int] = _now_us) -> None:
        self._full_at: OrderedDict[str, int] = OrderedDict()
        self._most = most
        self._now_us = now_us

    def take(self, tries: Sequence[Try]) -> float:
        """0 when every bucket has a token, which are taken then; else the seconds until they do."""
        now = self._now_us()
        full_at = {
            bucket: max(self._full_at.get(bucket, 0), now) + rate.interval_us for bucket, rate in tries
        }
        wait = max((full_at[bucket] - now - rate.capacity_us for bucket, rate in tries), default=0)
        if wait > 0:
            return wait / _US
        for bucket, moment in full_at.items():
            self._full_at[bucket] = moment
            self._full_at.move_to_end(bucket)
        while len(self._full_at) > self._most:
            self._full_at.popitem(last=False)
        return 0.0


class RateLimiter:
    """This process's buckets and, with a URL, the ones that all share."""

    def __init__(self, url: SecretStr | None = None, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._local = LocalBuckets()
        self._shared = _SharedBuckets(url, patience_seconds) if url else None

    async def wait_seconds(self, *tries: Try) -> float:
        """0: it may be done now. Else how long to wait before trying again."""
        if not tries:
            return 0.0
        wait = self._local.take(tries)
        if wait or self._shared is None:
            return wait
        return await self._shared.take(tries)

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()


class _Batch:
    """Those who ask together, and what they all wait for."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Try]] = []
        self.answers: asyncio.Task[list[float]]


class _SharedBuckets:
    def __init__(self, url: SecretStr, patience_seconds: float) -> None:
        self._client = Valkey.from_url(url.get_secret_value(), lib_name=None, lib_version=None)
        self._script = self._client.register_script(_TAKE)
        self._patience_seconds = patience_seconds
        self._breaker = Breaker("rates", does="answer")
        self._turn = asyncio.Lock()
        self._next: _Batch | None = None

    async def take(self, tries: Sequence[Try]) -> float:
        """Like LocalBuckets.take; 0 also when there is no answer to be had."""
        batch = self._next
        if batch is None:
            if not self._breaker.lets_through():
                return 0.0
            batch = self._next = _Batch()
            batch.answers = asyncio.create_task(self._ask(batch))
        place = len(batch.asked)
        batch.asked.append(tries)
        # Whoever goes away leaves the others their answer.
        return (await asyncio.shield(batch.answers))[place]

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, batch: _Batch) -> list[float]:
        async with self._turn:
            self._next = None
            keys = [_PREFIX + bucket for tries in batch.asked for bucket, _ in tries]
            try:
                async with asyncio.timeout(self._patience_seconds):
                    waits = await self._script(keys, _arguments(batch.asked))
            except (ValkeyError, OSError, TimeoutError) as error:
                self._breaker.failed(error)
                return [0.0] * len(batch.asked)
        self._breaker.worked()
        return [wait / _US for wait in waits]


def _arguments(asked: Sequence[Sequence[Try]]) -> list[int]:
    """As _TAKE wants them."""
    arguments: list[int] = []
    for tries in asked:
        arguments.append(len(tries))
        for _, rate in tries:
            arguments += (rate.interval_us, rate.capacity_us)
    return arguments
