"""Waiting and reading, for the tests of the chassis."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg

from deploy.local.ephemeral import pauses


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, *, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    pause = pauses()
    while not await condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(next(pause))


def rows(url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode(), values).fetchall()


def write(url: str, query: str, *values: object) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(query.encode(), values)
