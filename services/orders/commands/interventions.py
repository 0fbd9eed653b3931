"""What an operator does to a saga run: try it again, or turn it around. One transaction each, with its audit
entry; the runner then does the rest."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.orders import errors
from services.orders.commands import runs
from services.orders.commands.runs import Run
from services.orders.queries.orders import lock_order
from services.orders.rules import Status

COMPENSATED = "compensated_by_operator"


@dataclass(frozen=True, slots=True)
class Decision:
    """Which run, by whom, and why."""

    order_id: UUID
    saga: str
    actor: str
    reason: str


async def retry_saga(connection: AsyncConnection, decision: Decision, *, waits_at: Collection[str]) -> None:
    """`waits_at` names the saga's steps that are the customer's turn: retrying one that has not failed would
    take the payment page away. Raises SAGA_NOT_FOUND, SAGA_ENDED, SAGA_WAITS."""
    run = await _lock_open(connection, decision)
    if run.status == runs.RUNNING and run.attempts == 0 and run.step in waits_at:
        raise errors.saga_waits(run.step)
    await runs.retry(connection, run)
    await _note(connection, decision, "saga.retried", run)


async def compensate_saga(
    connection: AsyncConnection, decision: Decision, *, before_pivot: Collection[str]
) -> None:
    """`before_pivot` names the saga's steps that can still be given back. Raises SAGA_NOT_FOUND, SAGA_ENDED,
    SAGA_PAST_PIVOT."""
    run = await _lock_open(connection, decision)
    order = await lock_order(connection, decision.order_id)
    is_before = run.step in before_pivot and run.status != runs.UNDOING
    if not is_before or order is None or order.status is not Status.PENDING:
        raise errors.saga_past_pivot(run.step)
    await runs.take_over_to_undo(connection, run, reason=COMPENSATED, lease_token=uuid4(), lease_seconds=0)
    await _note(connection, decision, "saga.compensated", run)


async def _lock_open(connection: AsyncConnection, decision: Decision) -> Run:
    run = await runs.lock_run(connection, order_id=decision.order_id, saga=decision.saga)
    if run is None:
        raise errors.saga_not_found(decision.order_id)
    if run.status in (runs.DONE, runs.UNDONE):
        raise errors.saga_ended(run.status)
    return run


async def _note(connection: AsyncConnection, decision: Decision, action: str, run: Run) -> None:
    await audit_log.append(
        connection,
        actor=decision.actor,
        action=action,
        subject=str(decision.order_id),
        reason=decision.reason,
        details={"saga": run.saga, "status": run.status, "step": run.step},
    )
