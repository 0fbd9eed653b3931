"""What moved the stock of products."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orders.models import stock_movements


@dataclass(frozen=True, slots=True)
class StockMovement:
    """So many pieces came (delta > 0) or went, for a reason."""

    id: UUID
    product_id: UUID
    delta: int
    reason: str
    # None unless an order was sold or came back.
    order_id: UUID | None
    actor: str
    note: str
    created_at: datetime


_COLUMNS = [stock_movements.c[name] for name in StockMovement.__dataclass_fields__]


async def find_movement(connection: AsyncConnection, movement_id: UUID) -> StockMovement:
    """A movement that exists: it is append-only."""
    row = (await connection.execute(select(*_COLUMNS).where(stock_movements.c.id == movement_id))).one()
    return StockMovement(**row._mapping)


async def list_movements(
    connection: AsyncConnection, product_id: UUID, *, limit: int, before: tuple[datetime, UUID] | None
) -> Sequence[StockMovement]:
    """The newest movements of a product, `limit` of them before that time and id.

    Ids do not sort by time: an operator's movement has one that was made of the request's key.
    """
    order = (stock_movements.c.created_at, stock_movements.c.id)
    query = select(*_COLUMNS).where(stock_movements.c.product_id == product_id)
    if before is not None:
        query = query.where(tuple_(*order) < before)
    rows = await connection.execute(query.order_by(*(column.desc() for column in order)).limit(limit))
    return [StockMovement(**row._mapping) for row in rows]
