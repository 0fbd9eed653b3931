"""Who leads the relay of one database: a lease in a row, whose token fences what the leader writes.

States of the row `relay`: free (`lease_until` has passed, or the session that renewed it last is gone) →
led. Whoever takes it raises `token`; the leader renews every few seconds and with every mark. A leader that
is frozen, or cut off, loses the lease to a replica that is well, and is told so by the first thing that it
writes: every write of the relay names its token, under the lock of the row. A lease and not a session's
advisory lock: a session lives as long as its connection, frozen or not, and behind a transaction pooler it
is anybody's.

A leader of the release before this one holds an advisory lock instead and knows no lease, so that during a
deploy two may publish. The broker and the inboxes drop copies, and both mark only what was acknowledged.
"""

import os
import socket
import time
from typing import Any
from uuid import uuid4

import psycopg

LEASE_SECONDS = 10.0

_ENSURE = "INSERT INTO relay DEFAULT VALUES ON CONFLICT DO NOTHING"
# A session that is gone led until it died: nobody waits for the rest of its lease. A pid that somebody else
# has by now only costs that rest.
_TAKE = """
    UPDATE relay SET token = token + 1, holder = %(holder)s, backend_pid = pg_backend_pid(),
        lease_until = clock_timestamp() + %(seconds)s * interval '1 second'
    WHERE lease_until < clock_timestamp()
        OR NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = relay.backend_pid)
    RETURNING token"""
# First in a statement that writes as the leader: it takes the row's lock, so that no other becomes leader
# before that write is committed, and finds nothing when another is.
RENEWAL = """
    UPDATE relay SET backend_pid = pg_backend_pid(),
        lease_until = clock_timestamp() + %(seconds)s * interval '1 second'
    WHERE token = %(token)s RETURNING token"""
_END = "UPDATE relay SET lease_until = '-infinity' WHERE token = %(token)s"

Connection = psycopg.AsyncConnection[Any]


class DeposedError(Exception):
    """Another relay leads: nothing that we were about to write was written."""


class Leadership:
    """One candidate's view of the lease."""

    def __init__(self, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._lease_seconds = lease_seconds
        # For people who look at the row: which process it was.
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}"
        self._token: int | None = None
        self._renewed_at = 0.0

    @property
    def is_leader(self) -> bool:
        """As far as this process knows: only a write tells."""
        return self._token is not None and time.monotonic() < self._renewed_at + self._lease_seconds

    @property
    def fence(self) -> dict[str, object]:
        """The parameters of RENEWAL."""
        return {"token": self._token, "seconds": self._lease_seconds}

    async def take(self, connection: Connection) -> bool:
        """Whether we lead from now on."""
        await connection.execute(_ENSURE)
        asked_at = time.monotonic()
        taken = await connection.execute(_TAKE, {"holder": self._holder, "seconds": self._lease_seconds})
        row = await taken.fetchone()
        if row is None:
            return False
        self._token, self._renewed_at = int(str(row[0])), asked_at
        return True

    async def keep(self, connection: Connection) -> None:
        """Renews the lease when a third of it has passed; DeposedError when it is another's."""
        if time.monotonic() > self._renewed_at + self._lease_seconds / 3:
            asked_at = time.monotonic()
            renewed = await connection.execute(RENEWAL.encode(), self.fence)
            self.confirm(await renewed.fetchone() is not None, asked_at=asked_at)

    def confirm(self, is_ours: bool, *, asked_at: float) -> None:
        """Takes the answer to a statement with RENEWAL in it."""
        if not is_ours:
            self._token = None
            raise DeposedError
        self._renewed_at = asked_at

    async def end(self, connection: Connection) -> None:
        """Leaves the lease to whoever asks next."""
        if self._token is not None:
            await connection.execute(_END, self.fence)
        self._token = None
