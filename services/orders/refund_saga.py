"""Giving points or money back: one run for each order carries out its refunds, the oldest first.

    give_back   wallet.RefundOrderPoints or payments.CreateRefund under the refund's id; the record settles
                the refund (commands/refunds.py) and gives the lease back; the run ends when none is left

It only goes forward. An unknown outcome is tried again under the same id, for days, with an alert after a
dozen tries; so is a points order whose points are still to be captured. A refusal fails the refund, not the
run.

Crash points: an unrecorded call is repeated, and wallet and payments know the refund's id; a run that ended
while a refund was being asked for is begun again by the transaction that asks (runs.begin_or_resume), which
meets the end at the run's row lock.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.payments.v1 import payments_pb2
from services.chassis import failpoints, logs
from services.chassis.db import Database
from services.orders import errors
from services.orders.commands import refunds, runs
from services.orders.commands.runs import Run
from services.orders.points_saga import PLACE_WITH_POINTS
from services.orders.queries.refunds import Refund, next_requested
from services.orders.refund_rules import RefundStatus
from services.orders.remote import Remote
from services.orders.saga import Saga, Step

log = logs.get(__name__)

REFUND_ORDER = "refund_order/v1"
GIVE_BACK = "give_back"

_STATUSES: Mapping[int, RefundStatus] = {
    # Written down at payments, which goes on by itself and tells when it is done.
    payments_pb2.REFUND_STATUS_CREATING: RefundStatus.PENDING,
    payments_pb2.REFUND_STATUS_PENDING: RefundStatus.PENDING,
    payments_pb2.REFUND_STATUS_SUCCEEDED: RefundStatus.SUCCEEDED,
    payments_pb2.REFUND_STATUS_FAILED: RefundStatus.FAILED,
    payments_pb2.REFUND_STATUS_CANCELED: RefundStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class Given:
    """What wallet or payments answered about a refund."""

    refund_id: UUID
    status: RefundStatus
    failure_reason: str | None = None


async def begin(connection: AsyncConnection, *, order_id: UUID, user_id: UUID) -> None:
    """Makes sure that the order's refunds are carried out; before the order is locked."""
    await runs.begin_or_resume(
        connection, order_id=order_id, user_id=user_id, saga=REFUND_ORDER, step=GIVE_BACK
    )


class RefundSaga:
    """The saga that gives back."""

    def __init__(self, database: Database, remote: Remote, *, after_commit: Callable[[], None]) -> None:
        """`after_commit` wakes whoever publishes, mails and runs sagas."""
        self._database = database
        self._remote = remote
        self._after_commit = after_commit

    def table(self) -> tuple[Saga, ...]:
        step = Step(GIVE_BACK, do=self._give_back, record=self._settle)
        return (Saga(REFUND_ORDER, steps=(step,), undo=None, end=self._refuse),)

    async def _give_back(self, run: Run) -> Given | None:
        async with self._database.worker() as connection:
            refund = await next_requested(connection, run.order_id)
            if refund is not None and refund.amount_points:
                await _check_captured(connection, run.order_id)
        if refund is None:
            return None
        if refund.amount_cents:
            return await self._give_money(refund)
        await self._remote.refund_points(
            user_id=refund.user_id,
            order_id=refund.order_id,
            refund_id=refund.id,
            points=refund.amount_points,
            reason=refund.reason,
        )
        return Given(refund.id, RefundStatus.SUCCEEDED)

    async def _give_money(self, refund: Refund) -> Given:
        answer = await self._remote.refund_money(
            order_id=refund.order_id,
            refund_id=refund.id,
            amount_cents=refund.amount_cents,
            reason=refund.reason,
        )
        return Given(refund.id, _STATUSES[answer.status], answer.failure_reason or None)

    async def _settle(self, run: Run, given: Given | None) -> None:
        async with self._database.worker() as connection:
            if not await runs.is_ours(connection, run):
                return
            if given is not None:
                await refunds.settle_refund(
                    connection, given.refund_id, given.status, failure_reason=given.failure_reason
                )
            await self._go_on(connection, run)
            failpoints.hit("orders.refund.writing")
        self._after_commit()

    async def _refuse(self, run: Run, reason: str, _fields: Mapping[str, str]) -> None:
        """Refused for good: the refund has failed, the run goes on with the next one."""
        async with self._database.worker() as connection:
            if not await runs.is_ours(connection, run):
                return
            refund = await next_requested(connection, run.order_id)
            if refund is not None:
                await refunds.settle_refund(connection, refund.id, RefundStatus.FAILED, failure_reason=reason)
            await self._go_on(connection, run)
        self._after_commit()

    async def _go_on(self, connection: AsyncConnection, run: Run) -> None:
        """The next refund gets a lease of its own; without one the run is done. The run is locked."""
        if await next_requested(connection, run.order_id) is None:
            await runs.finish(connection, order_id=run.order_id, saga=run.saga, status=runs.DONE)
        else:
            await runs.sleep(connection, run, step=GIVE_BACK, seconds=0)


async def _check_captured(connection: AsyncConnection, order_id: UUID) -> None:
    """Points can only be given back once they are spent."""
    status = await runs.find_status(connection, order_id=order_id, saga=PLACE_WITH_POINTS)
    if status != runs.DONE:
        raise errors.points_not_captured_yet(order_id)
