"""The tasks that run beside a process's servers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import wraps
from typing import Any, TypeVar

from services.chassis import logs

log = logs.get(__name__)

_CANCEL_AGAIN_SECONDS = 0.5
_FIRST_PAUSE_SECONDS = 1.0
# A defect shows in the log at once; it need not fill it.
_LONGEST_PAUSE_SECONDS = 30.0
# Whoever went on for so long has got well again.
_WELL_SECONDS = 60.0

_Self = TypeVar("_Self")
Loop = Callable[[_Self], Coroutine[Any, Any, None]]


def going_on(is_outage: Callable[[BaseException], bool]) -> Callable[[Loop[_Self]], Loop[_Self]]:
    """Makes a background loop one that no error ends: it is logged, as a warning when `is_outage` says so,
    and the loop begins again after a pause.

    A loop that fails takes its whole process down otherwise, with all that is served there; and the error
    that does it is that of an error path, which needs what has just failed. What is being done then is in a
    database or at a broker, under a lease that runs out.
    """

    def lasting(loop: Loop[_Self]) -> Loop[_Self]:
        @wraps(loop)
        async def run(self: _Self) -> None:
            clock = asyncio.get_running_loop().time
            pause = _FIRST_PAUSE_SECONDS
            while True:
                began = clock()
                try:
                    return await loop(self)
                except Exception as error:
                    if clock() - began > _WELL_SECONDS:
                        pause = _FIRST_PAUSE_SECONDS
                    if is_outage(error):
                        log.warning("background.interrupted", loop=loop.__qualname__, error=repr(error))
                    else:
                        log.exception("background.failed", loop=loop.__qualname__, pause_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)

        return run

    return lasting


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
