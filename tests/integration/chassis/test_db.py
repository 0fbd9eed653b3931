"""Transactions at the edges: who one is, what survives, what a lost server does to the pool."""

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.chassis import idempotency
from services.chassis.db import Database
from services.chassis.errors import Conflict, Invalid
from services.chassis.idempotency import Request
from tests.integration.chassis.support import eventually, rows, write
from tests.support.metrics import value

_HANG_UP = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'test-worker' AND datname = current_database()"
)
_USER = "SELECT current_setting('app.user_id', true)"


@pytest.fixture(autouse=True)
def emptied(url: str) -> None:
    write(url, "TRUNCATE effects, idempotency_keys")


async def _effect(connection: Any, note: str) -> None:
    await connection.execute("INSERT INTO effects VALUES (%s, %s)", (uuid4(), note))


async def test_the_user_is_set_for_the_transaction_only(database: Database) -> None:
    user = uuid4()
    for _ in range(8):
        async with database.customer(user) as connection:
            assert await connection.scalar(text(_USER)) == str(user)
        async with database.customer_sql(user) as fixed:
            assert await (await fixed.execute(_USER)).fetchone() == (str(user),)
        async with database.anyone() as connection:
            assert not await connection.scalar(text(_USER))


async def test_a_block_that_raises_leaves_nothing(url: str, database: Database) -> None:
    async def torn() -> None:
        async with database.worker_sql() as connection:
            await _effect(connection, "lost")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await torn()
    async with database.worker_sql() as connection:
        await _effect(connection, "kept")
    async with database.worker_statement() as connection:
        await _effect(connection, "kept at once")
    assert sorted(rows(url, "SELECT note FROM effects")) == [("kept",), ("kept at once",)]


async def test_an_error_does_not_quote_what_was_written(database: Database) -> None:
    """It ends in the log."""
    with pytest.raises(DBAPIError) as failed:
        async with database.worker() as connection:
            await connection.execute(text("SELECT no_such(:email)"), {"email": "ada@example.com"})
    assert "ada@example.com" not in str(failed.value)


async def test_both_kinds_of_transaction_share_one_pool(url: str, database: Database) -> None:
    for number in range(20):
        async with database.worker_sql() as fixed:
            await _effect(fixed, f"fixed {number}")
        async with database.worker() as core:
            await core.execute(
                text("INSERT INTO effects VALUES (:id, :note)"), {"id": uuid4(), "note": f"core {number}"}
            )
    assert rows(url, "SELECT count(*) FROM effects") == [(40,)]
    used = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'test-worker' AND datname = current_database()"
    )

    async def is_one() -> bool:
        return rows(url, used) == [(1,)]

    # Those of the tests before may still be ending.
    await eventually(is_one, "one connection")


async def _fill_pool(database: Database) -> None:
    async with database.worker_sql(), database.worker_sql():
        pass


async def test_the_pool_tells_what_is_in_use_and_who_waited_in_vain(url: str) -> None:
    alone = Database(app_url=SecretStr(url), worker_url=SecretStr(url), pool_size=1, name="alone")
    before = value("aishop_database_pool_timeouts_total", pool="app")
    async with alone.anyone():
        assert value("aishop_database_pool_in_use", pool="app") == 1
        with pytest.raises(PoolTimeout):
            async with alone.anyone():
                pass
    assert value("aishop_database_pool_in_use", pool="app") == 0
    assert value("aishop_database_pool_timeouts_total", pool="app") == before + 1
    await alone.dispose()


async def test_a_server_that_hung_up_costs_one_failure_not_one_per_connection(
    url: str, database: Database
) -> None:
    await _fill_pool(database)
    write(url, _HANG_UP)
    with pytest.raises(psycopg.OperationalError):
        async with database.worker_sql() as connection:
            await connection.execute("SELECT 1")
    async with database.worker_sql() as one, database.worker_sql() as two:
        await _effect(one, "after")
        await _effect(two, "after")
    write(url, _HANG_UP)
    with pytest.raises(DBAPIError):
        async with database.worker() as core:
            await core.execute(text("SELECT 1"))
    async with database.worker() as core, database.worker() as other:
        assert await core.scalar(text("SELECT count(*) FROM effects")) == 2
        assert await other.scalar(text("SELECT 1")) == 1


async def test_a_request_does_not_wait_for_ever_for_a_lock(url: str, database: Database) -> None:
    write(url, "INSERT INTO effects VALUES (%s, 'locked')", uuid4())
    with psycopg.connect(url) as holder:
        holder.execute("SELECT 1 FROM effects FOR UPDATE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            async with database.customer_sql(uuid4()) as connection:
                await connection.execute("SELECT 1 FROM effects FOR UPDATE")


def _request(**other: Any) -> Request:
    fields: dict[str, Any] = {"user_id": uuid4(), "route": "r", "key": "k", "request_hash": b"1"}
    return Request(**(fields | other))


async def test_a_key_stands_for_one_resource_of_one_body(database: Database) -> None:
    request, resource = _request(), uuid4()
    async with database.worker() as connection:
        assert await idempotency.find(connection, request) is None
        assert await idempotency.keep_resource(connection, request, resource_id=resource)
    async with database.worker() as connection:
        assert not await idempotency.keep_resource(connection, request, resource_id=uuid4())
        assert await idempotency.find(connection, request) == resource
        other_body = _request(user_id=request.user_id, request_hash=b"2")
        with pytest.raises(Invalid) as refused:
            await idempotency.find(connection, other_body)
        assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"
        assert await idempotency.find(connection, _request()) is None


async def test_a_rejection_is_heard_again(database: Database) -> None:
    request = _request()
    async with database.worker() as connection:
        error = Conflict("PRICE_CHANGED", "the price changed", points=1)
        assert await idempotency.keep_rejection(connection, request, error=error)
    async with database.worker() as connection:
        with pytest.raises(Conflict) as heard:
            await idempotency.find(connection, request)
    assert (heard.value.reason, heard.value.fields) == ("PRICE_CHANGED", {"points": "1"})


async def test_keys_are_forgotten_after_thirty_days(url: str, database: Database) -> None:
    young, old = _request(), _request()
    async with database.worker() as connection:
        for request in (young, old):
            await idempotency.keep_resource(connection, request, resource_id=uuid4())
    age = "UPDATE idempotency_keys SET created_at = now() - interval '31 days' WHERE user_id = %s"
    write(url, age, old.user_id)
    async with database.worker() as connection:
        assert await idempotency.forget_old(connection) == 1
        assert await idempotency.find(connection, old) is None
        assert await idempotency.find(connection, young) is not None
