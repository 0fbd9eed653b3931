"""The tasks that run beside a process's servers."""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

_CANCEL_AGAIN_SECONDS = 0.5


async def to_the_end(work: Coroutine[Any, Any, None], *, patience_seconds: float) -> None:
    """Awaits work that should not stop half-way: cancelled meanwhile, it goes on for so long at most, and the
    cancellation is raised then."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await _end_within(task, patience_seconds)
        raise
    task.result()


async def _end_within(task: asyncio.Future[None], seconds: float) -> None:
    """However often whoever waits is cancelled again."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not task.done() and (left := deadline - asyncio.get_running_loop().time()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task], timeout=left)
    if not task.cancel() and not task.cancelled():
        # Looked at, or asyncio complains that nobody did; what it says no longer matters.
        task.exception()


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs the coroutines beside the block and cancels them at its end.

    One that ends by itself is a defect: the whole block fails with it, and the supervisor restarts us.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in work]
        try:
            yield
        finally:
            await _cancel(tasks)


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancels again what swallowed its cancellation: wait_for does so until Python 3.12, nats-py uses it."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
