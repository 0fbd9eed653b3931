"""Whether the background work of this process still gets anywhere.

A loop tells when a round begins; its end is told by the block's end, whether it did its work or raised: a
database that is away makes rounds fail, and a restart would not bring it back. A round that does not end at
all is another matter: nothing but a restart will end it. Health asks `overdue()` (grpc_server.py), so that
such a process gets no more calls, and that whoever looks after it starts it again.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

# Every wait in a round has a deadline, and these are seconds.
LONGEST_SECONDS = 60.0

# Name and latest end, by round. One process has one loop, and no two loops.
_under_way: dict[object, tuple[str, float]] = {}


@contextmanager
def under_way(name: str, *, longest_seconds: float = LONGEST_SECONDS) -> Iterator[None]:
    """One round of the work `name`, which takes so long at most."""
    key = object()
    _under_way[key] = (name, time.monotonic() + longest_seconds)
    try:
        yield
    finally:
        del _under_way[key]


def overdue() -> set[str]:
    """The names of the work whose round should have ended."""
    now = time.monotonic()
    return {name for name, latest in _under_way.values() if latest < now}
