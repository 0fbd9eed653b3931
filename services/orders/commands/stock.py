"""Stock: reserved, taken, given back, returned, and moved by operators.

Whoever changes it holds its row in product_inventory; rows are locked in product order. Each change of
stock_quantity writes its movement in the same transaction.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.orders import errors
from services.orders.models import product_inventory, stock_movements, stock_reservations
from services.orders.queries.orders import Order
from services.orders.queries.stock import StockMovement, find_movement

RECEIVED, CORRECTED = "received", "corrected"


@dataclass(frozen=True, slots=True)
class OperatorsMovement:
    """Pieces that an operator counted. The id is chosen by whoever asks: the same id moves once."""

    id: UUID
    product_id: UUID
    # Signed, not zero; received pieces are more than none.
    delta: int
    reason: str
    actor: str
    note: str


async def move_stock(connection: AsyncConnection, wanted: OperatorsMovement) -> StockMovement:
    """Receives or corrects stock, never below what is reserved, and audits it; once under the same id."""
    row = await _lock_row(connection, wanted.product_id)
    if row is None:
        raise errors.product_not_found(wanted.product_id)
    if not await _write_movement(connection, wanted):
        return await _same_movement(connection, wanted)
    if row.stock_quantity is None:
        raise errors.stock_unlimited(wanted.product_id)
    if row.stock_quantity + wanted.delta < row.reserved_quantity:
        raise errors.stock_reserved(reserved=row.reserved_quantity, stock=row.stock_quantity)
    await _change_stock(connection, wanted.product_id, stock=wanted.delta, reserved=0)
    await audit_log.append(
        connection,
        actor=wanted.actor,
        action=f"stock.{wanted.reason}",
        subject=str(wanted.product_id),
        reason=wanted.note or wanted.reason,
        details={"movement_id": str(wanted.id), "delta": wanted.delta},
    )
    return await _same_movement(connection, wanted)


async def open_stock(
    connection: AsyncConnection, product_id: UUID, pieces: int | None, *, actor: str, note: str = ""
) -> None:
    """The shelf of a new product. None: unlimited, for good."""
    await connection.execute(insert(product_inventory).values(product_id=product_id, stock_quantity=pieces))
    if pieces:
        await connection.execute(
            insert(stock_movements).values(
                product_id=product_id, delta=pieces, reason=RECEIVED, actor=actor, note=note
            )
        )


async def _lock_row(connection: AsyncConnection, product_id: UUID) -> Row[Any, Any] | None:
    return (
        await connection.execute(
            select(product_inventory.c.stock_quantity, product_inventory.c.reserved_quantity)
            .where(product_inventory.c.product_id == product_id)
            .with_for_update(key_share=True)
        )
    ).one_or_none()


async def _write_movement(connection: AsyncConnection, wanted: OperatorsMovement) -> bool:
    """False when the id is taken."""
    written = pg_insert(stock_movements).values(asdict(wanted)).on_conflict_do_nothing()
    return await connection.scalar(written.returning(stock_movements.c.id)) is not None


async def _same_movement(connection: AsyncConnection, wanted: OperatorsMovement) -> StockMovement:
    """The movement under this id; Conflict when it is another one."""
    found = await find_movement(connection, wanted.id)
    same = OperatorsMovement(found.id, found.product_id, found.delta, found.reason, found.actor, found.note)
    if same != wanted:
        raise errors.stock_movement_mismatch(wanted.id)
    return found


async def reserve_again(connection: AsyncConnection, order: Order) -> bool:
    """Reserves the stock of an order that had given it back; False, with nothing changed, when short."""
    wanted = {line.product_id: line.quantity for line in order.lines}
    rows = (
        await connection.execute(
            select(product_inventory)
            .where(
                product_inventory.c.product_id.in_(wanted), product_inventory.c.stock_quantity.is_not(None)
            )
            .order_by(product_inventory.c.product_id)
            .with_for_update(key_share=True)
        )
    ).all()
    if any(row.stock_quantity - row.reserved_quantity < wanted[row.product_id] for row in rows):
        return False
    for row in rows:
        await _change_stock(connection, row.product_id, reserved=wanted[row.product_id])
        await connection.execute(
            update(stock_reservations)
            .where(
                stock_reservations.c.order_id == order.id,
                stock_reservations.c.product_id == row.product_id,
                stock_reservations.c.status == "released",
            )
            .values(status="held")
        )
    return True


async def lock_stock(connection: AsyncConnection, product_ids: Collection[UUID]) -> None:
    """Locks the rows of these products in product order; nobody changes what is unlimited."""
    await connection.execute(
        select(product_inventory.c.product_id)
        .where(
            product_inventory.c.product_id.in_(product_ids), product_inventory.c.stock_quantity.is_not(None)
        )
        .order_by(product_inventory.c.product_id)
        .with_for_update(key_share=True)
    )


async def return_stock(
    connection: AsyncConnection, order_id: UUID, refund_id: UUID, product_id: UUID, quantity: int
) -> bool:
    """Puts pieces that came back on their shelf, whose row is locked; False when they are not counted."""
    counted = await connection.scalar(
        select(product_inventory.c.stock_quantity.is_not(None)).where(
            product_inventory.c.product_id == product_id
        )
    )
    if not counted:
        return False
    await _change_stock(connection, product_id, stock=quantity, reserved=0)
    await connection.execute(
        insert(stock_movements).values(
            product_id=product_id,
            delta=quantity,
            reason="returned",
            order_id=order_id,
            refund_id=refund_id,
            actor="saga",
        )
    )
    return True


async def release_stock(connection: AsyncConnection, order_id: UUID) -> None:
    """Frees what the order still holds; idempotent."""
    for product_id, quantity in await _held(connection, order_id):
        await _change_stock(connection, product_id, reserved=-quantity)
    await _mark_reservations(connection, order_id, "released")


async def take_stock(connection: AsyncConnection, order_id: UUID) -> None:
    """What the order holds leaves the shelf: it is sold."""
    for product_id, quantity in await _held(connection, order_id):
        await _change_stock(connection, product_id, stock=-quantity, reserved=-quantity)
        await connection.execute(
            insert(stock_movements).values(
                product_id=product_id, delta=-quantity, reason="sold", order_id=order_id, actor="saga"
            )
        )
    await _mark_reservations(connection, order_id, "taken")


async def _held(connection: AsyncConnection, order_id: UUID) -> list[tuple[UUID, int]]:
    rows = await connection.execute(
        select(stock_reservations.c.product_id, stock_reservations.c.quantity)
        .where(stock_reservations.c.order_id == order_id, stock_reservations.c.status == "held")
        .order_by(stock_reservations.c.product_id)
    )
    return [(row.product_id, row.quantity) for row in rows]


async def _change_stock(
    connection: AsyncConnection, product_id: UUID, *, stock: int = 0, reserved: int
) -> None:
    await connection.execute(
        update(product_inventory)
        .where(product_inventory.c.product_id == product_id)
        .values(
            stock_quantity=product_inventory.c.stock_quantity + stock,
            reserved_quantity=product_inventory.c.reserved_quantity + reserved,
            updated_at=func.now(),
        )
    )


async def _mark_reservations(connection: AsyncConnection, order_id: UUID, status: str) -> None:
    await connection.execute(
        update(stock_reservations)
        .where(stock_reservations.c.order_id == order_id, stock_reservations.c.status == "held")
        .values(status=status)
    )
