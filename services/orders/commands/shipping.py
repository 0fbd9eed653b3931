"""Sending the physical lines of an order: what an operator says was sent, once; and whether any are left."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Exists, Select, case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log, tracing
from services.orders import errors
from services.orders.commands.mails import queue_mail
from services.orders.fulfilment import PHYSICAL
from services.orders.models import order_history, order_items, orders, products
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
    if not await connection.scalar(select(_waits_for_shipment(order_id))):
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
    await connection.execute(
        insert(order_history).values(
            order_id=order_id,
            user_id=order.user_id,
            from_status=order.status,
            to_status=order.status,
            actor=shipment.actor,
            reason="shipped",
            trace_id=tracing.trace_id(),
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


async def settle_fulfilment(connection: AsyncConnection, order_id: UUID) -> None:
    """Fulfils an order whose goods were all given back, and waits for them again when that failed. What was
    shipped stays fulfilled. The caller holds the order's lock."""
    waits = _waits_for_shipment(order_id)
    await connection.execute(
        update(orders)
        .where(
            orders.c.id == order_id,
            orders.c.status == Status.COMPLETED,
            orders.c.tracking_info.is_(None),
            _left_of(order_id).exists(),
            orders.c.fulfilled_at.is_(None) != waits,
        )
        .values(
            fulfilled_at=case((waits, None), else_=func.now()),
            version=orders.c.version + 1,
            updated_at=func.now(),
        )
    )


def _left_of(order_id: UUID) -> Select[tuple[UUID]]:
    """The order's lines that were not wholly given back."""
    return select(order_items.c.product_id).where(
        order_items.c.order_id == order_id, order_items.c.refunded_quantity < order_items.c.quantity
    )


def _waits_for_shipment(order_id: UUID) -> Exists:
    goods = products.c.type == PHYSICAL.product_type
    return _left_of(order_id).join(products, products.c.id == order_items.c.product_id).where(goods).exists()
