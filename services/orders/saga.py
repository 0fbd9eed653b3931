"""The durable saga runner: steps by name, one record per step, leases, undo.

A run in `saga_runs` moves so; each arrow is one transaction, guarded by the token of the run's lease:

    running(step) ──done, recorded──▶ running(next step) ──▶ done
         │ refused: nothing to undo ──▶ undone (order failed)
         │ outcome unknown, budget spent, cancelled, or its hold overdue
         ▼
      undoing ──given back──▶ undone (order failed or cancelled)
    stuck: an answer that must not be, or none for days: an operator decides

A step is a call over the network (`do`), outside any transaction, and the local transaction that records
it (`record`), which does the step's local work, too, and moves the run on. A crash before the record
repeats the call under the same command id; a crash after it goes on with the next step. Whoever places an
order drives its run at once under a lease of 10 s; the runner resumes a run only when its lease expired or
was given back. A lost lease is noticed by the record: it writes nothing, and the loser leaves the run alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from services.chassis import failpoints, logs, rounds, tracing
from services.chassis.backoff import Phase, Schedule
from services.chassis.db import Database
from services.chassis.errors import DomainError, Unavailable
from services.chassis.outages import is_outage, lasting
from services.chassis.workers import Worker
from services.orders.commands import runs
from services.orders.commands.runs import Run

log = logs.get(__name__)

_TICK_SECONDS = 1.0
_AT_ONCE = 16
# Half a second to ten for four minutes, then half a minute to an hour for three days; then the run is stuck
# and an operator decides: it holds points, stock or money of somebody.
RETRIES = Schedule(
    fast_tries=30,
    fast_first_seconds=0.5,
    fast_longest_seconds=10.0,
    slow_tries=80,
    slow_first_seconds=30.0,
    slow_longest_seconds=3600.0,
)
# A minute and a half: then an unknown outcome is undone.
_MAX_ATTEMPTS = 12
_ALERT_AFTER = 12
_BATCH = 100
_BATCH_WAIT_SECONDS = 0.02
_BATCH_QUEUE = 2000


@dataclass(frozen=True)
class Step:
    """`record` returns the run at its next step, or None when there is nothing more to do now."""

    name: str
    do: Callable[[Run], Awaitable[Any]]
    record: Callable[[Run, Any], Awaitable[Run | None]]


@dataclass(frozen=True)
class BatchStep:
    """A step that nobody waits for, done for up to 100 runs at once. `do` records what it did."""

    name: str
    do: Callable[[Sequence[Run]], Awaitable[None]]


@dataclass(frozen=True)
class Saga:
    """`undo` gives back what unrecorded or recorded steps may have done; False: too late, it went on. A saga
    without it only goes forward: an unknown outcome is tried again as RETRIES says.
    `end` says what a refusal means: it fails or cancels the order with the run's reason, say."""

    name: str
    steps: tuple[Step | BatchStep, ...]
    undo: Callable[[Run], Awaitable[bool]] | None
    end: Callable[[Run, str, Mapping[str, str]], Awaitable[None]]
    # The steps at which an operator may still turn a run around.
    before_pivot: tuple[str, ...] = ()
    # The steps at which a run waits for the customer: what it does there ends the waiting.
    waits_at: tuple[str, ...] = ()

    def step(self, name: str) -> Step | BatchStep:
        """Raises KeyError for a name that this version of the saga does not know."""
        return {step.name: step for step in self.steps}[name]


class Runner:
    """Drives runs: those of the requests of this process, and those that somebody left behind."""

    def __init__(self, database: Database, sagas: Sequence[Saga], *, lease_seconds: float) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._sagas = {saga.name: saga for saga in sagas}
        self._batches: asyncio.Queue[Run] = asyncio.Queue(_BATCH_QUEUE)
        self._worker = Worker("saga_runner", self._resume, tick_seconds=_TICK_SECONDS)

    def wake(self) -> None:
        self._worker.wake()

    @lasting
    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._worker.run())
            group.create_task(self._run_batches())

    async def drive(self, run: Run | None) -> Run | None:
        """Advances a run that the caller has leased, until it ends, waits, or only a batch is left.

        Returns the run at the batch step it was handed to, else None: then the database tells.
        """
        while run is not None:
            saga = self._sagas[run.saga]
            if run.status == runs.UNDOING:
                await self._undo(saga, run)
                return None
            step = saga.step(run.step)
            if isinstance(step, BatchStep):
                # A full queue loses nothing: the runner takes the run when its lease has expired.
                with suppress(asyncio.QueueFull):
                    self._batches.put_nowait(run)
                return run
            run = await self._advance(saga, step, run)
        return None

    async def _advance(self, saga: Saga, step: Step, run: Run) -> Run | None:
        failpoints.hit(f"saga.{step.name}.calling")
        try:
            with tracing.within(step.name, attributes={"aishop.saga": saga.name}):
                result = await step.do(run)
        except Unavailable as error:
            return await self._again(saga, run, step.name, error)
        except DomainError as error:
            log.info("saga.refused", order_id=str(run.order_id), step=step.name, reason=error.reason)
            await saga.end(run, error.reason.lower(), error.fields)
            failpoints.hit(f"saga.{step.name}.refused")
            return None
        failpoints.hit(f"saga.{step.name}.called")
        following = await step.record(run, result)
        failpoints.hit(f"saga.{step.name}.recorded")
        return following

    async def _undo(self, saga: Saga, run: Run) -> None:
        assert saga.undo is not None, "nobody turns a run around that only goes forward"
        failpoints.hit("saga.undo.calling")
        try:
            undone = await saga.undo(run)
        except Unavailable as error:
            await self._wait(run, run.step, error)
            return
        except DomainError as error:
            await self._park(run, error)
            return
        failpoints.hit("saga.undo.called")
        if undone:
            await saga.end(run, run.undo_reason or "undone", {})
        failpoints.hit("saga.undo.recorded")

    async def _again(self, saga: Saga, run: Run, step: str, error: Unavailable) -> Run | None:
        """The outcome is unknown: the same call again later, or undo when the budget is spent."""
        if saga.undo is None or run.attempts < _MAX_ATTEMPTS:
            await self._wait(run, step, error)
            return None
        async with self._database.worker() as connection:
            return await runs.start_undo(connection, run, reason=f"{step}_unavailable", error=error.reason)

    async def _wait(self, run: Run, step: str, error: DomainError) -> None:
        """The same call again later; after days without an answer an operator decides when."""
        pause = RETRIES.pause_after(run.attempts + 1)
        if pause.phase is Phase.SPENT:
            await self._park(run, error)
            return
        report = log.error if run.attempts > _ALERT_AFTER else log.warning
        report("saga.waits", order_id=str(run.order_id), step=step, error=error.reason, seconds=pause.seconds)
        async with self._database.worker() as connection:
            await runs.wait_at(connection, run, step=step, seconds=pause.seconds, error=error.reason)

    async def _park(self, run: Run, error: DomainError) -> None:
        tracing.fail(error.reason)
        log.error("saga.stuck", order_id=str(run.order_id), saga=run.saga, error=error.reason)
        async with self._database.worker() as connection:
            if await runs.is_ours(connection, run):
                await runs.finish(
                    connection,
                    order_id=run.order_id,
                    saga=run.saga,
                    status=runs.STUCK,
                    error=error.reason,
                )

    async def _resume(self) -> bool:
        async with self._database.worker() as connection:
            claimed = await runs.claim_due(
                connection, lease_token=uuid4(), lease_seconds=self._lease_seconds, limit=_AT_ONCE
            )
        async with asyncio.TaskGroup() as group:
            for run in claimed:
                group.create_task(self._drive_claimed(run))
        return len(claimed) == _AT_ONCE

    async def _drive_claimed(self, run: Run) -> None:
        """One failing run must not take its neighbours down: it is resumed when its lease expires."""
        with tracing.continued(run.traceparent, f"resume {run.saga}", attributes={"aishop.saga": run.saga}):
            try:
                await self._drive_or_park(run)
            except Exception as error:
                tracing.fail(type(error).__name__)
                if is_outage(error):
                    log.warning("saga.left", order_id=str(run.order_id), step=run.step, error=repr(error))
                else:
                    log.exception("saga.crashed", order_id=str(run.order_id), step=run.step)

    async def _drive_or_park(self, run: Run) -> None:
        try:
            await self.drive(run)
        except Unavailable:
            raise
        except DomainError as error:
            await self._park(run, error)

    @lasting
    async def _run_batches(self) -> None:
        while True:
            batch = [await self._batches.get()]
            await asyncio.sleep(_BATCH_WAIT_SECONDS)
            while len(batch) < _BATCH and not self._batches.empty():
                batch.append(self._batches.get_nowait())
            for (saga, name), same in _by_step(batch).items():
                await self._do_batch(self._sagas[saga].step(name), same)

    async def _do_batch(self, step: Step | BatchStep, batch: Sequence[Run]) -> None:
        assert isinstance(step, BatchStep)
        causes = [run.traceparent for run in batch]
        told: tracing.Attributes = {"aishop.saga": batch[0].saga, "aishop.runs": len(batch)}
        name = f"batch {step.name}"
        with rounds.under_way(step.name), tracing.continued(None, name, attributes=told, causes=causes):
            await self._do_batch_traced(step, batch)

    async def _do_batch_traced(self, step: BatchStep, batch: Sequence[Run]) -> None:
        """What fails here, waiting too, leaves the runs to the runner, which takes them up when their leases
        have run out."""
        try:
            await self._do_or_wait(step, batch)
        except Exception as error:
            tracing.fail(type(error).__name__)
            if is_outage(error):
                log.warning("saga.batch_left", step=step.name, runs=len(batch), error=repr(error))
            else:
                log.exception("saga.batch_crashed", step=step.name, runs=len(batch))

    async def _do_or_wait(self, step: BatchStep, batch: Sequence[Run]) -> None:
        try:
            await step.do(batch)
        except Unavailable as error:
            for run in batch:
                await self._wait(run, step.name, error)


def _by_step(batch: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in batch:
        grouped.setdefault((run.saga, run.step), []).append(run)
    return grouped
