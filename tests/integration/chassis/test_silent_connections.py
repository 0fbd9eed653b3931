"""What a database that says nothing any more costs: an error soon, and new connections after it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.chassis import connections, db
from services.chassis.db import Database
from tests.integration.chassis.support import rows, write
from tests.support.metrics import value
from tests.support.tcp_proxy import TcpProxy, tcp_proxy

_DEADLINE_SECONDS = 0.5
# What the machine may take beside the deadline.
_SLACK_SECONDS = 3.0


@pytest.fixture
def proxy(url: str) -> Iterator[TcpProxy]:
    port = urlsplit(url).port
    assert port is not None, "the servers listen on TCP"
    with tcp_proxy(port) as running:
        yield running


@pytest.fixture
def through(url: str, proxy: TcpProxy) -> SecretStr:
    parts = urlsplit(url)
    return SecretStr(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{proxy.port}").geturl())


@pytest.fixture
async def distant(through: SecretStr, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """With deadlines that a test can wait for."""
    for limits in ("REQUEST", "WORKER"):
        soon = replace(getattr(db, limits), deadline_seconds=_DEADLINE_SECONDS)
        monkeypatch.setattr(db, limits, soon)
    database = Database(app_url=through, worker_url=through, pool_size=4, name="distant")
    yield database
    await database.dispose()


Use = Callable[[Database], Coroutine[Any, Any, Any]]


async def _core(database: Database) -> Any:
    async with database.worker() as connection:
        return await connection.scalar(text("SELECT 1"))


async def _customer(database: Database) -> Any:
    async with database.customer(uuid4()) as connection:
        return await connection.scalar(text("SELECT 1"))


async def _fixed(database: Database) -> Any:
    async with database.customer_sql(uuid4()) as connection:
        return await (await connection.execute("SELECT 1")).fetchone()


async def _statement(database: Database) -> Any:
    async with database.worker_statement() as connection:
        return await (await connection.execute("SELECT 1")).fetchone()


@pytest.mark.parametrize("use", [_core, _customer, _fixed, _statement])
async def test_a_connection_that_went_silent_costs_one_deadline_and_is_replaced(
    distant: Database, proxy: TcpProxy, use: Use
) -> None:
    # Two stand in the pool, and both go silent.
    await asyncio.gather(use(distant), use(distant))
    proxy.silence()
    before = value("aishop_database_deadlines_total")
    began = time.monotonic()
    with pytest.raises((psycopg.OperationalError, DBAPIError)):
        await use(distant)
    assert time.monotonic() - began < _DEADLINE_SECONDS + _SLACK_SECONDS
    assert value("aishop_database_deadlines_total") == before + 1
    assert await use(distant)


async def _deadline_passed(before: float) -> None:
    async with asyncio.timeout(5):
        while value("aishop_database_deadlines_total") == before:
            await asyncio.sleep(0.01)


async def test_a_connection_that_is_hung_up_behind_its_last_answer_is_nobody_elses(
    distant: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = value("aishop_database_deadlines_total")
    async with distant.worker_statement() as connection:
        await connection.execute("SELECT 1")
        await _deadline_passed(before)
    assert await _statement(distant)
    commit = psycopg.AsyncConnection.commit

    async def late(connection: psycopg.AsyncConnection[Any]) -> None:
        await commit(connection)
        await _deadline_passed(before + 1)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.AsyncConnection, "commit", late)
        assert await _core(distant)
    assert await _core(distant)


@pytest.mark.parametrize("use", [_core, _fixed, _statement])
async def test_whoever_is_cancelled_on_a_silent_connection_ends(
    distant: Database, proxy: TcpProxy, use: Use
) -> None:
    await use(distant)
    proxy.freeze()
    task = asyncio.create_task(use(distant))
    await asyncio.sleep(0)
    began = time.monotonic()
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
        assert time.monotonic() - began < _DEADLINE_SECONDS + _SLACK_SECONDS


async def test_a_transaction_that_ran_out_of_time_wrote_nothing(url: str, distant: Database) -> None:
    note = uuid4().hex
    released = asyncio.Event()
    asyncio.get_running_loop().call_later(_DEADLINE_SECONDS * 2, released.set)

    async def linger() -> None:
        async with distant.worker_sql() as connection:
            await connection.execute("INSERT INTO effects VALUES (%s, %s)", (uuid4(), note))
            await released.wait()

    with pytest.raises(psycopg.OperationalError):
        await linger()
    assert rows(url, "SELECT 1 FROM effects WHERE note = %s", note) == []


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up(
    through: SecretStr, proxy: TcpProxy
) -> None:
    proxy.freeze()
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        await connections.connect(through, connections.WORKER, name="test")
    assert time.monotonic() - began < connections.CONNECT_SECONDS + _SLACK_SECONDS


def test_a_blocking_connection_has_a_deadline_too(through: SecretStr, proxy: TcpProxy) -> None:
    with connections.connect_now(through, connections.WORKER, name="test") as connection:
        connection.execute("SELECT 1")
        proxy.silence()
        with (
            pytest.raises(psycopg.OperationalError),
            connections.deadline(connection, _DEADLINE_SECONDS),
        ):
            connection.execute("SELECT 1")


async def test_the_kernel_watches_every_connection(through: SecretStr, distant: Database) -> None:
    """What it does then is Linux' own: a peer whose packets are dropped cannot be had without privileges."""
    async with distant.worker_statement() as connection:
        options = connection.info.get_parameters()
    wanted = {"keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3"}
    assert wanted | {"tcp_user_timeout": "10000"} == {
        name: options[name] for name in (*wanted, "tcp_user_timeout")
    }


async def test_what_the_database_says_of_dates_and_paths_is_pinned(url: str) -> None:
    name = urlsplit(url).path[1:]
    odd = {
        "datestyle": "'German, DMY'",
        "timezone": "'Asia/Kolkata'",
        "intervalstyle": "'iso_8601'",
        "search_path": "pg_catalog",
    }
    for setting, wrong in odd.items():
        write(url, f"ALTER DATABASE {name} SET {setting} = {wrong}")
    try:
        database = Database(app_url=SecretStr(url), worker_url=SecretStr(url), pool_size=2, name="odd")
        async with database.worker_statement() as connection:
            asked = "SELECT '2026-11-30 10:00+00'::timestamptz::text, '1 day 2 hours'::interval::text"
            said = await (await connection.execute(asked)).fetchone()
            assert said == ("2026-11-30 10:00:00+00", "1 day 02:00:00")
            # psycopg refuses dates that it cannot read, and the path leads to our tables.
            now = await (await connection.execute("SELECT now(), count(*) FROM effects")).fetchone()
            assert now is not None
        await database.dispose()
    finally:
        for setting in odd:
            write(url, f"ALTER DATABASE {name} RESET {setting}")
