"""Who waits for something to change: one look at the versions of all that is watched, whoever watches.

A look is one query every 200 ms, only while somebody watches, and at once when this process has changed
something itself. A watcher that waits holds an entry in a dictionary: no connection and no transaction.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar
from uuid import UUID

from services.chassis import logs, rounds
from services.chassis.errors import Overloaded, Unavailable
from services.chassis.outages import is_outage, lasting

log = logs.get(__name__)

_LOOK_SECONDS = 0.2
# Changes come in bursts: one look for those of this while.
_GATHER_SECONDS = 0.01
_FAILURE_PAUSE_SECONDS = 1.0


class Followed(Protocol):
    """What can be followed."""

    @property
    def version(self) -> int:
        """Rises with every change that its owner can see."""

    @property
    def is_settled(self) -> bool:
        """Nothing is under way: there is no news to wait for."""


_Followed = TypeVar("_Followed", bound=Followed)
ReadVersions = Callable[[Collection[UUID]], Awaitable[Mapping[UUID, int]]]


class Watch:
    """One watcher of one thing."""

    def __init__(self, id: UUID) -> None:
        self.id = id
        self._is_over = False
        self._newest = 0
        self._woken = asyncio.Event()

    async def rose_past(self, seen: int) -> bool:
        """Waits until the version is higher than that; False when nothing more is to be told."""
        while not self._is_over and self._newest <= seen:
            self._woken.clear()
            await self._woken.wait()
        return not self._is_over

    def tell(self, version: int) -> None:
        self._newest = version
        self._woken.set()

    def end(self) -> None:
        """The time is up, the watcher went away, or we stop."""
        self._is_over = True
        self._woken.set()


class Watchers:
    """All watchers of this process; `run()` is a background task of the service."""

    def __init__(self, read_versions: ReadVersions, *, most: int, longest_seconds: float) -> None:
        self._read_versions = read_versions
        self._most = most
        self._longest_seconds = longest_seconds
        self._watches: dict[UUID, set[Watch]] = {}
        self._count = 0
        self._is_closed = False
        self._somebody = asyncio.Event()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something was changed here: look at once."""
        self._woken.set()

    def close(self) -> None:
        """Ends every watch and takes no more."""
        self._is_closed = True
        for watch in self._all():
            watch.end()

    async def follow(
        self, id: UUID, read: Callable[[], Awaitable[_Followed]], *, after: int, call: Any
    ) -> AsyncGenerator[tuple[_Followed | None, bool], None]:
        """What `read` gives, now and again after each change, and whether it is the last; without it when it
        is no newer than `after`. For a streaming RPC, whose context is `call`. Raises what `read` raises,
        which has to refuse whoever may not see it, and Overloaded."""
        now, seen = await read(), after
        with self._watching(id) as watch:
            call.add_done_callback(lambda _: watch.end())
            # The caller is told that it follows, even when there is no news for minutes.
            await call.send_initial_metadata(())
            while True:
                if now.version > seen or now.is_settled:
                    yield (now if now.version > seen else None), now.is_settled
                seen = now.version
                if now.is_settled or not await watch.rose_past(seen):
                    return
                now = await read()

    @contextmanager
    def _watching(self, id: UUID) -> Iterator[Watch]:
        if self._is_closed:
            raise Unavailable("STOPPING", "this replica stops; ask another one")
        if self._count >= self._most:
            raise Overloaded("OVERLOADED", "too many are following something already")
        watch = Watch(id)
        self._watches.setdefault(id, set()).add(watch)
        self._count += 1
        self._somebody.set()
        time_is_up = asyncio.get_running_loop().call_later(self._longest_seconds, watch.end)
        try:
            yield watch
        finally:
            time_is_up.cancel()
            self._leave(watch)

    def _leave(self, watch: Watch) -> None:
        together = self._watches[watch.id]
        together.remove(watch)
        self._count -= 1
        if not together:
            del self._watches[watch.id]
        if not self._watches:
            self._somebody.clear()

    @lasting
    async def run(self) -> None:
        while True:
            await self._somebody.wait()
            self._woken.clear()
            try:
                with rounds.under_way("watchers"):
                    await self._look()
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("watchers.failed", error=repr(error))
                await asyncio.sleep(_FAILURE_PAUSE_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _LOOK_SECONDS)
                await asyncio.sleep(_GATHER_SECONDS)

    async def _look(self) -> None:
        versions = await self._read_versions(list(self._watches))
        for watch in self._all():
            watch.tell(versions.get(watch.id, 0))

    def _all(self) -> list[Watch]:
        return [watch for together in self._watches.values() for watch in together]
