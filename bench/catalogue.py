"""CPU of reading the catalogue, with Valkey and without: whether the cache pays for itself."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

import uvloop

from bench.cpu import cpu_ms
from bench.http import Connection
from deploy.local.ephemeral import RunningStack
from deploy.local.stackfile import StackFile

_MEASURED = ("gateway", "orders", "postgres", "valkey")
_AT_ONCE = 8
_READS = 2000
# So many products share the attention of a day; the others are read once in a while.
_POPULAR = 50


@dataclass(frozen=True)
class Reading:
    """CPU milliseconds, over every process, of one page of twenty and of one product."""

    page_cpu_ms: float
    product_cpu_ms: float


def measure(running: RunningStack, products: list[UUID]) -> tuple[Reading, Reading]:
    """With Valkey, and with Valkey away. RuntimeError when a read is not answered 200."""
    popular = products[:_POPULAR]
    with_cache = _read(running.file, popular)
    running.hold("valkey")
    try:
        return with_cache, _read(running.file, popular)
    finally:
        running.release("valkey")


def _read(stack: StackFile, products: list[UUID]) -> Reading:
    page = _cpu_ms_per_read(stack, lambda: "/api/products")
    product = _cpu_ms_per_read(stack, lambda: f"/api/products/{random.choice(products)}")
    return Reading(page, product)


def _cpu_ms_per_read(stack: StackFile, path: Callable[[], str]) -> float:
    pids = {name: stack.pids[name] for name in _MEASURED}
    uvloop.run(_customers(stack, path, _READS // 10))
    before = cpu_ms(pids)
    uvloop.run(_customers(stack, path, _READS))
    after = cpu_ms(pids)
    return sum(after[name] - before[name] for name in after) / _READS


async def _customers(stack: StackFile, path: Callable[[], str], reads: int) -> None:
    address = urlsplit(stack.gateway_url)

    async def customer(count: int) -> None:
        connection = Connection(address.hostname or "", address.port or 80)
        for _ in range(count):
            answer = await connection.get(path())
            if answer.status != 200:
                raise RuntimeError(f"GET {path()}: {answer.status} {answer.body!r}")
        connection.close()

    await asyncio.gather(*(customer(reads // _AT_ONCE) for _ in range(_AT_ONCE)))
