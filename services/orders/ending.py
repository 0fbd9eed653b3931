"""How every saga gives an order up: failed or cancelled, its stock back, its run undone."""

from collections.abc import Mapping
from uuid import UUID

from services.chassis import failpoints, logs
from services.chassis.db import Database
from services.orders.commands import runs, settling
from services.orders.commands.runs import Run
from services.orders.queries.orders import lock_order
from services.orders.rules import Status

log = logs.get(__name__)

CANCELLED_BY_CUSTOMER = "cancelled_by_customer"


async def end_order_of(
    database: Database, run: Run, reason: str, fields: Mapping[str, str]
) -> tuple[UUID, ...]:
    """One transaction; changes nothing when the run is no longer ours or its order has ended. Returns the
    products whose stock it gave back."""
    released: tuple[UUID, ...] = ()
    cancelled = reason == CANCELLED_BY_CUSTOMER
    async with database.worker() as connection:
        if not await runs.is_ours(connection, run):
            return released
        order = await lock_order(connection, run.order_id)
        if order is not None and order.status in (Status.PENDING, Status.PROCESSING):
            await settling.end_order(
                connection,
                order,
                Status.CANCELLED if cancelled else Status.FAILED,
                actor="customer" if cancelled else "saga",
                reason=reason,
                fields=dict(fields),
            )
            released = tuple(line.product_id for line in order.lines)
        await runs.finish(connection, order_id=run.order_id, saga=run.saga, status=runs.UNDONE)
        failpoints.hit("orders.end.writing")
    log.info("order.ended", order_id=str(run.order_id), reason=reason)
    return released
