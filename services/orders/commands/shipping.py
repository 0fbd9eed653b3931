"""Sending the physical lines of an order: what an operator says was sent, once."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.orders import errors
from services.orders.commands.mails import queue_mail
from services.orders.fulfilment import PHYSICAL
from services.orders.models import order_items, orders, products
from services.orders.queries.orders import Order, find_order, lock_order
from services.orders.rules import Status


@dataclass(frozen=True, slots=True)
class Shipment:
    """What was sent and how it is followed; `url` may be empty."""

    carrier: str
    number: str
    url: str
    actor: str
    reason: str

    def tracking_info(self) -> dict[str, str]:
        link = {"url": self.url} if self.url else {}
        return {"carrier": self.carrier, "number": self.number, **link}


async def ship_order(connection: AsyncConnection, order_id: UUID, shipment: Shipment) -> Order:
    """Fulfils the order with its mail and its audit entry; the same shipment told again changes nothing."""
    order = await lock_order(connection, order_id)
    if order is None:
        raise errors.order_not_found(order_id)
    tracking_info = shipment.tracking_info()
    if order.tracking_info == tracking_info:
        return order
    if order.status is not Status.COMPLETED or order.fulfilled_at is not None:
        raise errors.nothing_to_ship(order_id)
    if not await _is_waiting_for_shipment(connection, order_id):
        raise errors.nothing_to_ship(order_id)
    await connection.execute(
        update(orders)
        .where(orders.c.id == order_id)
        .values(
            tracking_info=tracking_info,
            fulfilled_at=func.now(),
            version=orders.c.version + 1,
            updated_at=func.now(),
        )
    )
    await queue_mail(connection, order_id=order_id, user_id=order.user_id, kind="shipped")
    await audit_log.append(
        connection,
        actor=shipment.actor,
        action="order.shipped",
        subject=str(order_id),
        reason=shipment.reason,
        details=tracking_info,
    )
    shipped = await find_order(connection, order_id)
    assert shipped is not None, "orders are never deleted"
    return shipped


async def _is_waiting_for_shipment(connection: AsyncConnection, order_id: UUID) -> bool:
    """Whether a physical line is left that was not given back."""
    line = (
        select(order_items.c.product_id)
        .join(products, products.c.id == order_items.c.product_id)
        .where(
            order_items.c.order_id == order_id,
            products.c.type == PHYSICAL.product_type,
            order_items.c.refunded_quantity < order_items.c.quantity,
        )
    )
    return (await connection.execute(line.limit(1))).first() is not None
