"""Limits that several processes share through Valkey, and what they do without it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from valkey.asyncio import Valkey

from services.chassis.rates import Rate, RateLimiter, Try
from tests.support.servers import Servers

# Nothing comes back while a test runs.
RATE = Rate(10, 0.01)
Process = Callable[..., RateLimiter]


@pytest.fixture
async def process(servers: Servers) -> AsyncIterator[Process]:
    """What another process of the gateway would have. Patient, as the machine may be busy."""
    async with AsyncExitStack() as stack:

        def start(*, patience_seconds: float = 10.0) -> RateLimiter:
            limiter = RateLimiter(SecretStr(servers.valkey_url), patience_seconds=patience_seconds)
            stack.push_async_callback(limiter.close)
            return limiter

        yield start


@pytest.fixture
async def server(servers: Servers) -> AsyncIterator[Valkey]:
    async with Valkey.from_url(servers.valkey_url) as server:
        yield server


@pytest.fixture
def user() -> Try:
    return Try(f"user:{uuid4()}", RATE)


async def passed(limiter: RateLimiter, *tries: Try, of: int) -> int:
    """How many of so many at once pass."""
    waits = await asyncio.gather(*(limiter.wait_seconds(*tries) for _ in range(of)))
    assert all(wait == 0 or 0 < wait <= 100 for wait in waits)
    return waits.count(0.0)


async def test_processes_share_one_limit(process: Process, user: Try) -> None:
    here, there = process(), process()
    assert await passed(here, user, of=7) == 7
    assert await passed(there, user, of=7) == 3
    assert await passed(here, user, of=7) == 0
    wait_seconds = await process().wait_seconds(user)
    assert 90 < wait_seconds <= 100


async def test_at_the_same_time_they_let_pass_exactly_the_burst(process: Process, user: Try) -> None:
    limiters = [process() for _ in range(4)]
    assert sum(await asyncio.gather(*(passed(limiter, user, of=10) for limiter in limiters))) == RATE.burst


async def test_what_one_bucket_refuses_takes_from_no_other(process: Process, user: Try) -> None:
    narrow = Try(f"checkout:{uuid4()}", Rate(1, 0.01))
    assert await passed(process(), user, narrow, of=1) == 1
    assert await passed(process(), user, narrow, of=5) == 0
    assert await passed(process(), user, of=20) == RATE.burst - 1


async def test_a_bucket_fills_up_again_by_the_servers_clock_and_is_forgotten_when_full(
    process: Process, server: Valkey
) -> None:
    quick = Try(f"user:{uuid4()}", Rate(2, 5))
    assert await passed(process(), quick, of=3) == 2
    assert 0 < await server.pttl(f"aishop:rate:1:{quick.bucket}") <= 400
    wait_seconds = await process().wait_seconds(quick)
    assert 0 < wait_seconds <= 0.2
    # So long it said: then there is one at least, on a slow machine another.
    await asyncio.sleep(wait_seconds)
    assert await passed(process(), quick, of=3) >= 1


async def test_a_script_that_the_server_forgot_and_garbage_in_a_bucket_hinder_nobody(
    process: Process, server: Valkey, user: Try
) -> None:
    limiter = process()
    assert await passed(limiter, user, of=1) == 1
    await server.script_flush()
    await server.set(f"aishop:rate:1:{user.bucket}", "garbage")
    with capture_logs() as logs:
        assert await passed(limiter, user, of=1) == 1
    assert logs == []


async def test_while_valkey_stands_still_each_process_counts_at_once_by_itself(
    process: Process, server: Valkey, user: Try
) -> None:
    limiter = process(patience_seconds=0.05)
    assert await passed(limiter, user, of=3) == 3
    await server.client_pause(1_500)
    began = time.monotonic()
    with capture_logs() as logs:
        assert await passed(limiter, user, of=100) == RATE.burst - 3
        for _ in range(100):
            assert await passed(limiter, Try(f"user:{uuid4()}", RATE), of=1) == 1
    assert time.monotonic() - began < 1
    assert [entry["event"] for entry in logs] == ["rates.away"]
    # Everybody counts together again as soon as it answers.
    later = Try(f"user:{uuid4()}", Rate(1_000_000, 1))
    with capture_logs() as logs:
        async with asyncio.timeout(15):
            while not logs:
                await limiter.wait_seconds(later)
                await asyncio.sleep(0.02)
    assert [entry["event"] for entry in logs] == ["rates.back"]
    assert await server.exists(f"aishop:rate:1:{later.bucket}")


async def test_without_valkey_nobody_waits_and_the_limit_holds(user: Try) -> None:
    # Nothing listens on port 1.
    limiter = RateLimiter(SecretStr("valkey://127.0.0.1:1"))
    assert await passed(limiter, user, of=50) == RATE.burst
    assert await passed(limiter, user, of=50) == 0
    await limiter.close()


async def test_whoever_goes_away_while_asking_takes_nobodys_answer_along(process: Process, user: Try) -> None:
    limiter = process()
    gone = [asyncio.create_task(limiter.wait_seconds(user)) for _ in range(3)]
    stays = asyncio.create_task(limiter.wait_seconds(user))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    assert await stays == 0
    assert {task.cancelled() for task in gone} == {True}
