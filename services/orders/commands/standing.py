"""What of an order still stands: told by payments, it decides the status `refunded` and every download."""

from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Case, case, func, update
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import logs, outbox
from services.orders import errors
from services.orders.commands import settling
from services.orders.models import download_grants, order_items, orders
from services.orders.queries.orders import Order, lock_order
from services.orders.rules import Method, Status

log = logs.get(__name__)

REFUNDED = "orders.order.refunded"
DISPUTE_LOST, WHOLLY_REFUNDED = "dispute_lost", "refunded"


@dataclass(frozen=True, slots=True)
class PaymentStanding:
    """How much of an order's payment is gone, as payments last saw it at Stripe."""

    version: int
    refunded_cents: int
    # none, open, won or lost.
    dispute: str


async def apply_payment(connection: AsyncConnection, order_id: UUID, told: PaymentStanding) -> None:
    """Takes over what payments says; older versions change nothing."""
    order = await lock_order(connection, order_id)
    if order is None:
        raise errors.order_not_found(order_id)
    if told.version <= order.payment_version:
        return
    refunded_cents = min(told.refunded_cents, order.total_cents)
    await connection.execute(
        update(orders)
        .where(orders.c.id == order_id)
        .values(
            payment_version=told.version,
            refunded_cents=refunded_cents,
            dispute=told.dispute,
            version=orders.c.version + 1,
            updated_at=func.now(),
        )
    )
    now = replace(order, refunded_cents=refunded_cents, dispute=told.dispute)
    after = await settle_standing(connection, now)
    if refunded_cents > order.refunded_cents and after.status is order.status:
        await emit_refunded(connection, after, cents=refunded_cents, is_whole=False, reason="refunded")


async def settle_standing(connection: AsyncConnection, order: Order) -> Order:
    """`refunded` once nothing is left of a paid order, and its downloads as they should be. The caller holds
    the order's lock; an order that is not paid yet is looked at again when it is."""
    reason = _end_of(order)
    if reason is not None and order.status in (Status.COMPLETED, Status.PROCESSING):
        kept = order.failure_reason or (reason if reason == DISPUTE_LOST else None)
        await settling.move(
            connection, order, Status.REFUNDED, actor="stripe", reason=reason, failure_reason=kept
        )
        await emit_refunded(connection, order, cents=order.refunded_cents, is_whole=True, reason=reason)
        log.warning("order.refunded", order_id=str(order.id), reason=reason)
        order = replace(order, status=Status.REFUNDED)
    await settle_downloads(connection, order.id)
    return order


def _end_of(order: Order) -> str | None:
    if order.dispute == "lost":
        return DISPUTE_LOST
    by_card = order.payment_method is Method.STRIPE
    return WHOLLY_REFUNDED if by_card and order.refunded_cents == order.total_cents else None


async def emit_refunded(
    connection: AsyncConnection,
    order: Order,
    *,
    refund_id: UUID | None = None,
    cents: int = 0,
    points: int = 0,
    is_whole: bool,
    reason: str,
) -> None:
    """Tells the world how much of an order went back by now."""
    event = events_pb2.OrderRefunded(
        order_id=str(order.id),
        user_id=str(order.user_id),
        refund_id=str(refund_id or ""),
        refunded_cents=cents,
        refunded_points=points,
        is_whole=is_whole,
        reason=reason,
    )
    await outbox.emit(connection, subject=REFUNDED, event=event)


async def settle_downloads(connection: AsyncConnection, order_id: UUID) -> None:
    """Brings each download grant to what order, line and dispute say: revoked, suspended or active."""
    should: Case[str] = case(
        (
            (orders.c.status == Status.REFUNDED)
            | (order_items.c.refunded_quantity == order_items.c.quantity),
            "revoked",
        ),
        (orders.c.dispute == "open", "suspended"),
        else_="active",
    )
    await connection.execute(
        update(download_grants)
        .where(
            orders.c.id == order_id,
            order_items.c.order_id == orders.c.id,
            download_grants.c.order_id == orders.c.id,
            download_grants.c.product_id == order_items.c.product_id,
            download_grants.c.status != should,
        )
        .values(status=should, updated_at=func.now())
    )
