"""How much somebody may have under way at once: counted by holder, in this process."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


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

    def leave(self, holder: str) -> None:
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]
