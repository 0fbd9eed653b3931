"""Operators' actions in a real database: in the caller's transaction, in one chain, for good."""

import asyncio
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from services.chassis import audit_log
from services.chassis.audit_log import Entry, Wanted
from services.chassis.db import Database
from tests.integration.chassis.support import eventually, rows, write


def chain(url: str) -> list[Entry]:
    columns = ", ".join(Entry.__dataclass_fields__)
    query = f"SELECT {columns} FROM audit_log ORDER BY seq"
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return [Entry(**row) for row in connection.execute(query.encode())]


async def act(database: Database, subject: str, **details: object) -> None:
    async with database.worker() as connection:
        await audit_log.append(
            connection,
            actor="cli:ada",
            action="test.done",
            subject=subject,
            reason="wärum nicht",
            details=details or None,
        )


@pytest.fixture(autouse=True)
def emptied(url: str) -> None:
    write(url, "DELETE FROM audit_log")


async def test_what_is_read_back_is_what_was_hashed(url: str, database: Database) -> None:
    details = {"points": -7, "ids": ["é", "b"], "nested": {"z": None, "a": 1.5, "big": 10**15}}
    await act(database, "first", **details)
    await act(database, "second")
    first, second = chain(url)
    assert (first.seq, first.actor, first.subject, first.reason) == (1, "cli:ada", "first", "wärum nicht")
    assert (first.details, second.details) == (details, {})
    assert audit_log.broken_at([first, second]) is None


async def test_parallel_actions_make_one_chain(url: str, database: Database) -> None:
    await asyncio.gather(*(act(database, str(number)) for number in range(20)))
    entries = chain(url)
    assert {entry.subject for entry in entries} == {str(number) for number in range(20)}
    assert audit_log.broken_at(entries) is None


async def test_an_entry_falls_with_its_action(url: str, database: Database) -> None:
    async def failing() -> None:
        async with database.worker() as connection:
            await audit_log.append(connection, actor="a", action="b", subject="c", reason="d")
            raise RuntimeError("the action fails")

    await act(database, "first")
    with pytest.raises(RuntimeError, match="the action fails"):
        await failing()
    await act(database, "second")
    assert [(entry.seq, entry.subject) for entry in chain(url)] == [(1, "first"), (2, "second")]
    assert audit_log.broken_at(chain(url)) is None


async def test_the_next_entry_waits_for_the_end_of_the_action(url: str, database: Database) -> None:
    async with database.worker() as connection:
        await audit_log.append(connection, actor="a", action="b", subject="first", reason="d")
        other = asyncio.create_task(act(database, "second"))
        await eventually(lambda: _somebody_waits(url), "the second action waits")
        assert not other.done()
    await other
    assert [entry.subject for entry in chain(url)] == ["first", "second"]
    assert audit_log.broken_at(chain(url)) is None


async def test_the_log_is_read_backwards_by_seq_actor_and_subject(url: str, database: Database) -> None:
    for subject in ("a", "b", "a"):
        await act(database, subject, points=1)
    async with database.worker() as connection:
        await audit_log.append(connection, actor="cli:bob", action="test.done", subject="a", reason="d")

    async def read(**wanted: Any) -> list[Entry]:
        of = replace(Wanted(before_seq=0, limit=10, actor="", subject=""), **wanted)
        async with database.worker() as connection:
            return list(await audit_log.read(connection, of))

    assert await read() == chain(url)[::-1]
    for wanted, seqs in (
        ({"limit": 2}, [4, 3]),
        ({"before_seq": 3, "limit": 1}, [2]),
        ({"before_seq": 1}, []),
        ({"actor": "cli:ada"}, [3, 2, 1]),
        ({"subject": "a"}, [4, 3, 1]),
        ({"subject": "a", "actor": "cli:ada", "before_seq": 3}, [1]),
        ({"actor": "cli:a%"}, []),
    ):
        assert [entry.seq for entry in await read(**wanted)] == seqs, wanted


async def _somebody_waits(url: str) -> bool:
    return bool(
        rows(
            url,
            "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database "
            "WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()",
        )
    )
