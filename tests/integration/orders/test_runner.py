"""The runner when its database is away, and how often it tries what does not work."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg import errors as pg
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from protos.payments.v1 import payments_pb2
from services.chassis.backoff import Phase
from services.chassis.db import Database
from services.chassis.errors import Unavailable
from services.chassis.tasks import background
from services.orders.card_saga import CardSaga
from services.orders.commands import runs
from services.orders.commands.runs import Run
from services.orders.points_saga import CAPTURE, PLACE_WITH_POINTS
from services.orders.saga import RETRIES, BatchStep, Runner, Saga
from tests.integration.orders.test_runs import claim, placed


class Away(Database):
    """A database that can be away: every transaction of a worker fails as while Postgres restarts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.is_away = False
        self.refused = asyncio.Event()

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[AsyncConnection]:
        if self.is_away:
            self.refused.set()
            raise OperationalError("BEGIN", {}, pg.AdminShutdown("terminating connection"))
        async with self._database.worker() as connection:
            yield connection


async def no_undo(_: Run) -> bool:
    raise Unavailable("WALLET_AWAY", "no answer")


async def no_end(_run: Run, _reason: str, _fields: Mapping[str, str]) -> None:
    raise AssertionError("nothing ends here")


def saga(do: Callable[[Sequence[Run]], Awaitable[None]]) -> Saga:
    return Saga(PLACE_WITH_POINTS, steps=(BatchStep(CAPTURE, do=do),), undo=no_undo, end=no_end)


async def leased_run(database: Database, step: str = CAPTURE) -> Run:
    placement = await placed(database, lease_seconds=0)
    run = await claim(database, placement)
    assert run is not None
    return run.at(step)


async def test_a_database_that_is_away_during_a_batch_of_captures_ends_nothing(database: Database) -> None:
    away = Away(database)
    captured: asyncio.Queue[Sequence[Run]] = asyncio.Queue()

    async def capture(batch: Sequence[Run]) -> None:
        if first in batch:
            away.is_away = True
            raise Unavailable("WALLET_AWAY", "no answer")
        captured.put_nowait(batch)

    runner = Runner(away, [saga(capture)], lease_seconds=10)
    first, second = await leased_run(database), await leased_run(database)
    with capture_logs() as logged:
        async with background(runner.run()), asyncio.timeout(20):
            await runner.drive(first)
            await away.refused.wait()
            away.is_away = False
            await runner.drive(second)
            assert second in await captured.get()
    assert [line for line in logged if line["log_level"] == "error"] == []


@pytest.mark.parametrize("failure", [pg.LockNotAvailable("lock timeout"), pg.AdminShutdown("restarting")])
async def test_what_a_database_says_meanwhile_is_a_warning(
    database: Database, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lock timeouts and restarts: nothing crashed, the run is taken up again."""
    run = replace(await leased_run(database), status=runs.UNDOING)

    async def claim_due(*_: object, **__: object) -> list[Run]:
        return [run]

    async def undo(_: Run) -> bool:
        raise OperationalError("UPDATE", {}, failure)

    monkeypatch.setattr(runs, "claim_due", claim_due)
    undoing = Saga(PLACE_WITH_POINTS, steps=(), undo=undo, end=no_end)
    runner = Runner(database, [undoing], lease_seconds=10)
    with capture_logs() as logged:
        await runner._resume()
    assert [(line["event"], line["log_level"]) for line in logged] == [("saga.left", "warning")]


async def row(database: Database, run: Run) -> runs.Run:
    async with database.worker() as connection:
        found = await runs.lock_run(connection, order_id=run.order_id, saga=run.saga)
    assert found is not None
    return found


async def test_what_cannot_be_undone_is_tried_fast_then_slowly_then_never(
    database: Database,
) -> None:
    run = await leased_run(database)
    async with database.worker() as connection:
        undoing = await runs.start_undo(connection, run, reason="cancelled_by_customer", error="x")
    assert undoing is not None
    runner = Runner(database, [saga(no_end)], lease_seconds=10)  # type: ignore[arg-type]
    pauses: list[Phase] = []
    for attempts in (0, RETRIES.fast_tries - 1, RETRIES.fast_tries + RETRIES.slow_tries - 2):
        at = replace(undoing, attempts=attempts)
        await _give(database, at)
        await runner.drive(at)
        after = await row(database, run)
        assert (after.status, after.attempts) == (runs.UNDOING, attempts + 1)
        pauses.append(RETRIES.pause_after(attempts + 1).phase)
    assert pauses == [Phase.FAST, Phase.SLOW, Phase.SLOW]
    last = replace(undoing, attempts=RETRIES.fast_tries + RETRIES.slow_tries - 1)
    await _give(database, last)
    with capture_logs() as logged:
        await runner.drive(last)
    assert (await row(database, run)).status == runs.STUCK
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["saga.stuck"]
    # The operator's word brings it back to undoing, from the beginning of the schedule.
    async with database.worker() as connection:
        stuck = await runs.lock_run(connection, order_id=run.order_id, saga=run.saga)
        assert stuck is not None
        await runs.retry(connection, stuck)
    again = await row(database, run)
    assert (again.status, again.attempts) == (runs.UNDOING, 0)


async def _give(database: Database, run: Run) -> None:
    """The lease, once more."""
    async with database.worker() as connection:
        await connection.exec_driver_sql(
            "UPDATE saga_runs SET lease_token = %s, lease_until = now() + interval '1 min'"
            " WHERE order_id = %s AND saga = %s",
            (run.lease_token, run.order_id, run.saga),
        )


async def test_a_session_ends_by_the_databases_clock(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the process thinks the time is."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Ahead":
            return cls.fromtimestamp(datetime.now(UTC).timestamp() + 7200, UTC)

    monkeypatch.setattr("services.orders.card_saga.datetime", Ahead, raising=False)
    run = await leased_run(database)
    ends_at = Timestamp()
    ends_at.FromDatetime(datetime.now(UTC) + timedelta(minutes=45))
    cards = CardSaga.__new__(CardSaga)
    cards._database = database
    await cards._keep_session(run, payments_pb2.Checkout(session_id="cs_1", url="u", expires_at=ends_at))
    async with database.worker() as connection:
        [left] = await connection.exec_driver_sql(
            "SELECT extract(epoch FROM next_attempt_at - now()) FROM saga_runs WHERE order_id = %s",
            (run.order_id,),
        )
    assert 45 * 60 < left[0] <= 46 * 60
