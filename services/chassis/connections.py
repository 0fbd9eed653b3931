"""How every connection to Postgres is made, and how one ends that has gone silent.

A peer that is gone without a word is noticed three ways. By the kernel: keepalives for a connection that
waits, `tcp_user_timeout` for one that has sent. By the server: statement and lock timeouts, which a server
that is frozen does not keep, and behind which the kernel still acknowledges. By our own clock: `deadline()`
shuts the socket down, so that whoever waits on it gets psycopg's OperationalError at once. It asks nothing of
the other side: a ROLLBACK would wait on the same dead socket, and a cancellation opens a connection more.

What Postgres writes depends on settings of its own (a date may be 30/11/2026): those that we read are pinned
for each session, whatever the server, the database or the role says.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import psycopg
from pydantic import SecretStr

from services.chassis import logs, metrics
from services.chassis.setting_values import Pooling as Pooling

log = logs.get(__name__)

Row = tuple[Any, ...]
AnyConnection = psycopg.AsyncConnection[Any] | psycopg.Connection[Any]

CONNECT_SECONDS = 3
# Names have to be looked up too, and a URL may name several servers.
_CONNECT_ALL_SECONDS = 10.0

# libpq's words. A server that is gone is noticed after 5 + 3 × 2 s of silence, and 10 s after it was sent
# something.
NETWORK: Mapping[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "client_encoding": "UTF8",
}
# As psycopg reads them, and as our SQL was written.
PINNED: Mapping[str, str] = {
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "search_path": "public",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one login waits for at most. The server keeps the first three; 0 is no limit."""

    lock_ms: int
    statement_ms: int
    idle_in_transaction_ms: int
    # The whole transaction, by our clock.
    deadline_seconds: float

    def settings(self) -> dict[str, str]:
        """The session's settings, as Postgres names them, with what is pinned."""
        return {
            "lock_timeout": f"{self.lock_ms}ms",
            "statement_timeout": f"{self.statement_ms}ms",
            "idle_in_transaction_session_timeout": f"{self.idle_in_transaction_ms}ms",
            **PINNED,
        }


# A request waits 1 s for a lock and 1.5 s for a statement; a worker may take 5 s.
REQUEST = Limits(lock_ms=1000, statement_ms=1500, idle_in_transaction_ms=10_000, deadline_seconds=5)
WORKER = Limits(lock_ms=5000, statement_ms=5000, idle_in_transaction_ms=10_000, deadline_seconds=10)
# Who migrates. A change that waits for a lock makes everybody else wait behind it: rather fail, try again.
OWNER = Limits(lock_ms=5000, statement_ms=0, idle_in_transaction_ms=60_000, deadline_seconds=3600)
# Who looks at all of it, and holds nobody up.
OPERATOR = Limits(lock_ms=5000, statement_ms=600_000, idle_in_transaction_ms=600_000, deadline_seconds=600)
# By the last part of a login's name, `<service>_<login>`.
LIMITS: Mapping[str, Limits] = {"app": REQUEST, "worker": WORKER, "owner": OWNER}


class UnboundSession(psycopg.OperationalError):
    """The pooler's sessions lack settings that we rely on."""


def keywords(limits: Limits, *, name: str, pooling: Pooling = "session") -> dict[str, Any]:
    """For psycopg's `connect(url, **keywords)`; `name` is shown in pg_stat_activity.

    A transaction pooler refuses `options`, or ignores them, and gives the next transaction to a session that
    has not heard of our prepared statements: there the settings are the role's (deploy/postgres), and
    `connect` looks whether they are.
    """
    made: dict[str, Any] = {**NETWORK, "application_name": name}
    if pooling == "transaction":
        return made | {"prepare_threshold": None}
    options = " ".join(f"-c {key}={_escaped(value)}" for key, value in limits.settings().items())
    return made | {"prepare_threshold": 1, "options": options}


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


async def connect(
    url: SecretStr, limits: Limits, *, name: str, pooling: Pooling = "session", autocommit: bool = False
) -> psycopg.AsyncConnection[Row]:
    """Raises psycopg.OperationalError within 10 s."""
    try:
        async with asyncio.timeout(_CONNECT_ALL_SECONDS):
            connection = await psycopg.AsyncConnection.connect(
                url.get_secret_value(), autocommit=autocommit, **keywords(limits, name=name, pooling=pooling)
            )
            if pooling == "transaction":
                await _require_settings(connection, limits)
    except TimeoutError:
        raise psycopg.OperationalError(f"no connection within {_CONNECT_ALL_SECONDS:.0f} s") from None
    return connection


def connect_now(
    url: SecretStr, limits: Limits, *, name: str, pooling: Pooling = "session", autocommit: bool = False
) -> psycopg.Connection[Row]:
    """The same for what runs once and alone."""
    connection = psycopg.connect(
        url.get_secret_value(), autocommit=autocommit, **keywords(limits, name=name, pooling=pooling)
    )
    if pooling == "transaction":
        found = connection.execute(_ASK, (list(limits.settings()),)).fetchall()
        connection.rollback()
        _compare(connection.info.user, dict(found), limits)
    return connection


_ASK = "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS asked (name)"


async def _require_settings(connection: psycopg.AsyncConnection[Row], limits: Limits) -> None:
    with deadline(connection, CONNECT_SECONDS):
        try:
            cursor = await connection.execute(_ASK, (list(limits.settings()),))
            found: dict[str, str] = dict(await cursor.fetchall())
            await connection.rollback()
            _compare(connection.info.user, found, limits)
        except psycopg.Error:
            await connection.close()
            raise


def _compare(role: str, found: Mapping[str, str], limits: Limits) -> None:
    wrong = {
        name: value for name, value in limits.settings().items() if not _is_same(name, found[name], value)
    }
    if wrong:
        mended = "; ".join(f"ALTER ROLE {role} SET {name} = '{value}'" for name, value in wrong.items())
        raise UnboundSession(
            f"DATABASE_POOLING=transaction takes the session's settings from its role: {mended}"
            " (python -m deploy.postgres does so)"
        )


def _is_same(name: str, found: str, wanted: str) -> bool:
    if not name.endswith("_timeout"):
        return found.lower() == wanted.lower()
    return _milliseconds(found) == _milliseconds(wanted)


def _milliseconds(shown: str) -> int:
    """Postgres shows the largest unit that fits."""
    units = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
    number = shown.rstrip("adhimns")
    return int(number) * units[shown.removeprefix(number) or "ms"]


class Deadline:
    """Of a block. For a blocking connection, whose caller has no loop, a thread watches the clock."""

    def __init__(self, connection: AnyConnection, seconds: float) -> None:
        # Then the connection is of no use to anybody, also where it seems sound: its last answer may have
        # come in the same moment.
        self.has_hung_up = False
        self._connection = connection
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | threading.Timer | None = None

    def __enter__(self) -> Self:
        if isinstance(self._connection, psycopg.AsyncConnection):
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._hang_up)
        else:
            self._timer = threading.Timer(self._seconds, self._hang_up)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._timer is not None, "it was entered"
        self._timer.cancel()

    def _hang_up(self) -> None:
        self.has_hung_up = True
        hang_up(self._connection)


def deadline(connection: AnyConnection, seconds: float) -> Deadline:
    """Hangs up when the block takes longer; what it waits for then raises psycopg.OperationalError.

    To be put around all that is said on the connection, ROLLBACK included. Whoever gives the connection back
    to a pool asks `has_hung_up` after the block.
    """
    return Deadline(connection, seconds)


def hang_up(connection: AnyConnection) -> None:
    """Ends both directions here and now. The socket is closed by psycopg, who notices: closed under its
    hands, its number may already be another one's."""
    with suppress(OSError, psycopg.Error):
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
        metrics.DATABASE_DEADLINES.inc()
        log.warning("database.deadline", connection=connection.info.get_parameters().get("application_name"))
