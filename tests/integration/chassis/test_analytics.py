"""Counting a range: what is one, one at a time, and what is said when it takes too long."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from protos.wallet.v1 import wallet_pb2
from services.chassis import analytics
from services.chassis.analytics import LONGEST_RANGE, Counting
from services.chassis.db import Database
from services.chassis.errors import Invalid, Overloaded
from tests.integration.chassis.support import eventually, rows

START = datetime(2026, 7, 1, tzinfo=UTC)
_SLOW = "SELECT pg_sleep(60)"


def asked(since: datetime, until: datetime) -> wallet_pb2.GetAnalyticsRequest:
    request = wallet_pb2.GetAnalyticsRequest()
    request.since.FromDatetime(since)
    request.until.FromDatetime(until)
    return request


def test_a_range_ends_after_it_begins_and_within_a_year() -> None:
    for length in (timedelta(microseconds=1), LONGEST_RANGE):
        within = analytics.wanted(asked(START, START + length))
        assert (within.since, within.until) == (START, START + length)
    for length in (timedelta(0), -timedelta(days=1), LONGEST_RANGE + timedelta(microseconds=1)):
        with pytest.raises(Invalid) as refused:
            analytics.wanted(asked(START, START + length))
        assert (refused.value.reason, refused.value.fields) == ("INVALID_FIELD", {"field": "until"})


def test_a_range_out_of_time_is_refused() -> None:
    for seconds in (-1, 2**60):
        request = wallet_pb2.GetAnalyticsRequest(since=Timestamp(seconds=seconds), until=Timestamp(seconds=1))
        with pytest.raises(Invalid) as refused:
            analytics.wanted(request)
        assert refused.value.fields == {"field": "since"}


async def count_slowly(counting: Counting) -> None:
    async with counting.turn() as connection:
        await connection.execute(text(_SLOW))


async def count_at_once(counting: Counting) -> int:
    async with counting.turn() as connection:
        return int((await connection.execute(text("SELECT 1"))).scalar_one())


async def cancel_slow(url: str) -> None:
    """Cancels the running statement, as its timeout does."""

    async def is_cancelled() -> bool:
        query = (
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            " WHERE query = %s AND state = 'active' AND datname = current_database()"
        )
        return bool(rows(url, query, _SLOW))

    await eventually(is_cancelled, "the slow statement runs")


async def test_a_range_that_takes_too_long_is_called_too_large(url: str, database: Database) -> None:
    counting = Counting(database)
    slow = asyncio.create_task(count_slowly(counting))
    await cancel_slow(url)
    with pytest.raises(Invalid) as refused:
        await slow
    assert refused.value.reason == "RANGE_TOO_LARGE"
    # The turn is over.
    assert await count_at_once(counting) == 1


async def test_while_one_range_takes_long_another_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytics, "_PATIENCE_SECONDS", 0.05)
    counting = Counting(database)
    async with counting.turn():
        with pytest.raises(Overloaded) as refused:
            await count_slowly(counting)
        assert refused.value.reason == "OVERLOADED"
        waits = asyncio.create_task(count_at_once(counting))
        await asyncio.sleep(0)
    # Whoever came before patience ended has the next turn.
    assert await waits == 1
