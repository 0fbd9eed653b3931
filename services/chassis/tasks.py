"""The tasks that run beside a process's servers."""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any

_CANCEL_AGAIN_SECONDS = 0.5


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Awaits work that must not stop half-way; a cancellation meanwhile is raised when it is done."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


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
