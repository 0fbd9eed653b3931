"""Refunds of orders, and the locking reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orders.models import orders, refund_items, refunds
from services.orders.refund_rules import RefundLine, RefundStatus

# A hundred lines each, they have to fit into one message.
_MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Refund:
    """Points or money on their way back; one of the amounts is 0."""

    id: UUID
    order_id: UUID
    user_id: UUID
    status: RefundStatus
    amount_cents: int
    amount_points: int
    return_stock: bool
    actor: str
    reason: str
    request_hash: bytes
    failure_reason: str | None
    version: int
    created_at: datetime
    finished_at: datetime | None
    lines: tuple[RefundLine, ...]


@dataclass(frozen=True, slots=True)
class Debt:
    """An order of which its customer is owed money."""

    order_id: UUID
    user_id: UUID
    owed_cents: int
    promised_cents: int
    currency: str
    created_at: datetime
    updated_at: datetime


async def list_debts(connection: AsyncConnection, *, limit: int, after: UUID | None) -> Sequence[Debt]:
    """Those of the oldest orders first, `limit` of them behind the order `after`."""
    names = [name for name in Debt.__dataclass_fields__ if name != "order_id"]
    query = select(orders.c.id.label("order_id"), *(orders.c[name] for name in names))
    query = query.where(orders.c.owed_cents > 0)
    if after is not None:
        query = query.where(orders.c.id > after)
    rows = await connection.execute(query.order_by(orders.c.id).limit(limit))
    return [Debt(**row._mapping) for row in rows]


_COLUMNS = [refunds.c[name] for name in Refund.__dataclass_fields__ if name != "lines"]


async def find_refund(connection: AsyncConnection, refund_id: UUID) -> Refund | None:
    query = select(*_COLUMNS).where(refunds.c.id == refund_id)
    return next(iter(await _with_lines(connection, (await connection.execute(query)).all())), None)


async def lock_refund(connection: AsyncConnection, refund_id: UUID) -> Refund | None:
    """The refund with its row locked; its order and the stock of its lines are locked before it."""
    query = select(*_COLUMNS).where(refunds.c.id == refund_id).with_for_update(key_share=True)
    return next(iter(await _with_lines(connection, (await connection.execute(query)).all())), None)


async def next_requested(connection: AsyncConnection, order_id: UUID) -> Refund | None:
    """The order's oldest refund that nobody has carried out yet."""
    query = (
        select(*_COLUMNS)
        .where(refunds.c.order_id == order_id, refunds.c.status == RefundStatus.REQUESTED)
        .order_by(refunds.c.created_at, refunds.c.id)
        .limit(1)
    )
    return next(iter(await _with_lines(connection, (await connection.execute(query)).all())), None)


async def list_refunds(connection: AsyncConnection, order_id: UUID) -> Sequence[Refund]:
    """The order's refunds, the oldest first; the newest of very many."""
    query = (
        select(*_COLUMNS)
        .where(refunds.c.order_id == order_id)
        .order_by(refunds.c.created_at.desc(), refunds.c.id.desc())
        .limit(_MOST_SHOWN)
    )
    return (await _with_lines(connection, (await connection.execute(query)).all()))[::-1]


async def _with_lines(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[Refund]:
    if not rows:
        return []
    lines: dict[UUID, list[RefundLine]] = {row.id: [] for row in rows}
    for item in await connection.execute(
        select(
            refund_items.c.refund_id,
            refund_items.c.product_id,
            refund_items.c.quantity,
            refund_items.c.cents,
            refund_items.c.points,
        )
        .where(refund_items.c.refund_id.in_(list(lines)))
        .order_by(refund_items.c.product_id)
    ):
        lines[item.refund_id].append(RefundLine(*item[1:]))
    return [
        Refund(
            **dict(row._mapping) | {"status": RefundStatus(row.status)},
            lines=tuple(lines[row.id]),
        )
        for row in rows
    ]
