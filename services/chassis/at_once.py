"""How much somebody may have under way at once: counted by holder, in this process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class AtOnce:
    """So many for each holder, be it a user, an address or a source."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @contextmanager
    def one(self, holder: str) -> Iterator[bool]:
        """Whether the holder may have one more, until the block ends."""
        is_allowed = self.enter(holder)
        try:
            yield is_allowed
        finally:
            self.leave(holder)

    def enter(self, holder: str) -> bool:
        """Whether the holder may have one more; counted either way, until `leave`."""
        self._held[holder] += 1
        return self._held[holder] <= self._most

    def is_held_by_others(self, holder: str) -> bool:
        """Than the one that asks."""
        return self._held[holder] > 1

    def leave(self, holder: str) -> None:
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]


class InTurn:
    """The same, but one too many waits for its turn for a moment."""

    def __init__(self, most: int, *, waiting: int, patience_seconds: float) -> None:
        self._most = most
        self._at_once = AtOnce(most + waiting)
        self._patience_seconds = patience_seconds
        self._turns: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def one(self, holder: str) -> AsyncIterator[bool]:
        """Whether the holder's turn came in time; it lasts until the block ends."""
        with self._at_once.one(holder) as may_wait:
            if not may_wait:
                yield False
                return
            turn = self._turns.setdefault(holder, asyncio.Semaphore(self._most))
            try:
                async with asyncio.timeout(self._patience_seconds):
                    await turn.acquire()
            except TimeoutError:
                yield False
                return
            try:
                yield True
            finally:
                turn.release()
                if not self._at_once.is_held_by_others(holder):
                    del self._turns[holder]
