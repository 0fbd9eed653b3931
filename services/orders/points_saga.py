"""Buying with points.

    place_order      order pending, stock reserved, run at reserve_points          (commands/placing.py)
    reserve_points   wallet holds the points; its record is the pivot: order completed, stock taken,
                     cart emptied, downloads granted, mails and event written, run at capture_points
    capture_points   wallet spends the held points, in batches, after the answer

Crash points: before the pivot the run stands at reserve_points and repeats it; wallet answers with the
same hold. After it the run stands at capture_points, which wallet does once per order. Undoing releases
the hold (a release that overtakes its reserve leaves a tombstone that refuses it), then fails the order.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from services.chassis import failpoints, logs
from services.chassis.db import Database
from services.chassis.errors import Conflict
from services.orders.commands import runs, settling
from services.orders.commands.runs import Run
from services.orders.commands.settling import Confirmed
from services.orders.ending import end_order_of
from services.orders.fulfilment import Terms
from services.orders.queries.orders import Order, find_order
from services.orders.remote import Remote
from services.orders.rules import Status
from services.orders.saga import BatchStep, Saga, Step

log = logs.get(__name__)

PLACE_WITH_POINTS = "place_order_with_points/v1"
RELEASE_HOLD = "release_hold/v1"
RESERVE, CAPTURE = "reserve_points", "capture_points"


class PointsSagas:
    """The saga of a points order, and the one that releases a hold whose order does not exist."""

    def __init__(
        self,
        database: Database,
        remote: Remote,
        *,
        lease_seconds: float,
        mail_lease_seconds: float,
        terms: Terms,
        completed: Callable[[Order, Confirmed], None],
        ended: Callable[[Collection[UUID]], None],
    ) -> None:
        """`completed` and `ended` tell whoever publishes and mails that there is something to do; `ended`
        names the products whose stock came back."""
        self._database = database
        self._remote = remote
        self._lease_seconds = lease_seconds
        self._mail_lease_seconds = mail_lease_seconds
        self._terms = terms
        self._completed = completed
        self._ended = ended

    def table(self) -> tuple[Saga, ...]:
        return (
            Saga(
                PLACE_WITH_POINTS,
                steps=(
                    Step(RESERVE, do=self._reserve, record=self._confirm),
                    BatchStep(CAPTURE, do=self._capture),
                ),
                undo=self._release,
                end=self._end,
                before_pivot=(RESERVE,),
            ),
            Saga(RELEASE_HOLD, steps=(), undo=self._release, end=self._end),
        )

    async def _reserve(self, run: Run) -> Order:
        order = run.order or await self._order(run)
        await self._remote.reserve_points(
            user_id=run.user_id, order_id=run.order_id, points=order.total_points
        )
        return order

    async def _confirm(self, run: Run, order: Order) -> Run | None:
        """The pivot. From here only forward."""
        async with self._database.worker_statement() as connection:
            confirmed = await settling.confirm_points_order(
                connection,
                event=settling.completed_event(order),
                order_id=run.order_id,
                saga=run.saga,
                step=run.step,
                next_step=CAPTURE,
                lease_token=run.lease_token,
                lease_seconds=self._lease_seconds,
                mail_lease_seconds=self._mail_lease_seconds,
                terms=self._terms,
            )
        if confirmed is None:
            return None
        self._completed(order, confirmed)
        order = replace(
            order,
            status=Status.COMPLETED,
            fulfilled_at=confirmed.fulfilled_at,
            version=confirmed.version,
        )
        return replace(run.at(CAPTURE), order=order)

    async def _capture(self, batch: Sequence[Run]) -> None:
        captured = await self._remote.capture_points(batch)
        failpoints.hit("saga.capture_points.called")
        done = [run for run, took in zip(batch, captured, strict=True) if took]
        async with self._database.worker_statement() as connection:
            await runs.finish_many(connection, done, saga=PLACE_WITH_POINTS, step=CAPTURE)
        failpoints.hit("saga.capture_points.recorded")
        for run, took in zip(batch, captured, strict=True):
            if not took:
                await self._park_uncaptured(run)

    async def _park_uncaptured(self, run: Run) -> None:
        """A completed order whose points cannot be spent: nothing that we do can bring this about."""
        log.error("saga.stuck", order_id=str(run.order_id), saga=run.saga, error="HOLD_NOT_CAPTURABLE")
        async with self._database.worker() as connection:
            if await runs.is_ours(connection, run):
                await runs.finish(
                    connection,
                    order_id=run.order_id,
                    saga=run.saga,
                    status=runs.STUCK,
                    error="HOLD_NOT_CAPTURABLE",
                )

    async def _release(self, run: Run) -> bool:
        if await self._remote.release_points(user_id=run.user_id, order_id=run.order_id):
            return True
        raise Conflict("HOLD_CAPTURED", "the points of an order that is being undone were captured")

    async def _end(self, run: Run, reason: str, fields: Mapping[str, str]) -> None:
        self._ended(await end_order_of(self._database, run, reason, fields))

    async def _order(self, run: Run) -> Order:
        async with self._database.worker() as connection:
            order = await find_order(connection, run.order_id)
        assert order is not None, "a run is written in the transaction of its order"
        return order
