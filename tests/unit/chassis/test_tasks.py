"""What must not stop half-way."""

import asyncio

import pytest

from services.chassis.tasks import to_the_end


async def test_whoever_is_cancelled_again_and_again_ends_when_the_work_is_done() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def work() -> None:
        begun.set()
        await may_end.wait()
        done.append("work")

    async def waiter() -> None:
        await to_the_end(work(), patience_seconds=20)
        done.append("waiter goes on")

    task = asyncio.create_task(waiter())
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work"]


async def test_what_the_work_raises_is_raised() -> None:
    async def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await to_the_end(work(), patience_seconds=20)


async def test_patience_ends() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(to_the_end(work(), patience_seconds=0.05))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        await ended.wait()
