"""Orders as their owner sees them, and the named locking reads."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orders.models import order_items, orders, saga_runs
from services.orders.rules import LATE_PAYMENT, Line, Method, Money, Status, is_settled


@dataclass(frozen=True, slots=True)
class Order:
    """An order with its frozen lines. Amounts in minor units, points whole."""

    id: UUID
    user_id: UUID
    status: Status
    payment_method: Method
    total_cents: int
    total_points: int
    currency: str
    failure_reason: str | None
    failure_fields: Mapping[str, str] | None
    # Sealed; None when the customer's token bore none.
    email: bytes | None
    request_hash: bytes
    stripe_session_id: str | None
    stripe_session_url: str | None
    checkout_version: int
    created_at: datetime
    lines: tuple[Line, ...]
    fulfilled_at: datetime | None = None
    tracking_info: Mapping[str, str] | None = None
    refunded_cents: int = 0
    refunded_points: int = 0
    # What the payment's disputes amount to: none, open, won or lost.
    dispute: str = "none"
    payment_version: int = 0
    version: int = 1
    # None: written by a release that did not tell these apart.
    paid_cents: int | None = None
    disputed_cents: int | None = None
    lost_cents: int | None = None
    promised_cents: int = 0
    settled_cents: int = 0
    written_off_cents: int = 0
    owed_cents: int = 0

    @property
    def money(self) -> Money:
        """What became of the payment: of points, or of cents."""
        if self.payment_method is Method.POINTS:
            return Money(
                paid=self.total_points,
                requested=sum(line.refunded_points for line in self.lines),
                refunded=self.refunded_points,
            )
        paid = self.total_cents if self.paid_cents is None else self.paid_cents
        # What is not known counts as the whole.
        disputed = paid if self.disputed_cents is None else self.disputed_cents
        lost = paid if self.lost_cents is None else self.lost_cents
        return Money(
            paid=paid,
            requested=sum(line.refunded_cents for line in self.lines),
            refunded=self.refunded_cents,
            disputed=disputed if self.dispute == "open" else 0,
            lost=0 if self.lost_cents is None and self.dispute != "lost" else lost,
            # Nothing but its money can be given for what came too late.
            promised=paid if self.is_late else self.promised_cents,
            settled=self.settled_cents,
            written_off=self.written_off_cents,
        )

    @property
    def is_late(self) -> bool:
        """Paid when it had ended and its goods were gone."""
        return self.failure_reason == LATE_PAYMENT

    @property
    def is_settled(self) -> bool:
        """Neither a payment nor a refund is under way."""
        return is_settled(
            self.status,
            self.lines,
            refunded_cents=self.refunded_cents,
            refunded_points=self.refunded_points,
        )


_COLUMNS = [orders.c[name] for name in Order.__dataclass_fields__ if name != "lines"]


@dataclass(frozen=True, slots=True)
class FoundOrder:
    id: UUID
    user_id: UUID
    created_at: datetime


async def find_by_number(connection: AsyncConnection, number: str, *, limit: int) -> Sequence[FoundOrder]:
    """The newest first; nothing makes a number unique but chance."""
    query = (
        select(orders.c.id, orders.c.user_id, orders.c.created_at)
        .where(text("right(id::text, 12) = :number"))
        .order_by(orders.c.id.desc())
        .limit(limit)
    )
    rows = await connection.execute(query, {"number": number})
    return [FoundOrder(**row._mapping) for row in rows]


async def find_order(connection: AsyncConnection, order_id: UUID) -> Order | None:
    """The order by id; under the app login only when it is the current user's."""
    rows = (await connection.execute(select(*_COLUMNS).where(orders.c.id == order_id))).all()
    return next(iter(await _with_lines(connection, rows)), None)


async def find_by_key(connection: AsyncConnection, *, user_id: UUID, key: str) -> Order | None:
    """The order that an Idempotency-Key of this user made."""
    query = select(*_COLUMNS).where(orders.c.user_id == user_id, orders.c.idempotency_key == key)
    return next(iter(await _with_lines(connection, (await connection.execute(query)).all())), None)


async def find_order_of_cart(
    connection: AsyncConnection, *, user_id: UUID, cart_version: int
) -> Order | None:
    """The one order that buys, or has bought, this version of the cart."""
    query = select(*_COLUMNS).where(
        orders.c.user_id == user_id,
        orders.c.cart_version == cart_version,
    )
    return next(iter(await _with_lines(connection, (await connection.execute(query)).all())), None)


async def lock_order(connection: AsyncConnection, order_id: UUID) -> Order | None:
    """The order with its row locked: whoever settles it decides under this lock."""
    query = select(*_COLUMNS).where(orders.c.id == order_id).with_for_update(key_share=True)
    return next(iter(await _with_lines(connection, (await connection.execute(query)).all())), None)


async def list_orders(
    connection: AsyncConnection, *, user_id: UUID, limit: int, before: UUID | None
) -> Sequence[Order]:
    """The user's orders, newest first, `limit` of them older than the order `before`."""
    query = (
        select(*_COLUMNS)
        .where(orders.c.user_id == user_id)
        .order_by(orders.c.created_at.desc(), orders.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        last = select(orders.c.created_at, orders.c.id).where(orders.c.id == before).scalar_subquery()
        query = query.where(tuple_(orders.c.created_at, orders.c.id) < last)
    return await _with_lines(connection, (await connection.execute(query)).all())


async def versions_of(connection: AsyncConnection, order_ids: Collection[UUID]) -> Mapping[UUID, int]:
    """How often each of the orders changed so far."""
    rows = await connection.execute(select(orders.c.id, orders.c.version).where(orders.c.id.in_(order_ids)))
    return {row.id: row.version for row in rows}


async def is_driven(connection: AsyncConnection, order_id: UUID) -> bool:
    """Whether someone holds a live lease on a saga of the order."""
    leased = select(saga_runs.c.order_id).where(
        saga_runs.c.order_id == order_id,
        saga_runs.c.status.in_(["running", "undoing"]),
        saga_runs.c.lease_until > func.clock_timestamp(),
    )
    return (await connection.execute(leased.limit(1))).first() is not None


async def _with_lines(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> list[Order]:
    """Adds the lines of all orders with one query."""
    if not rows:
        return []
    lines: dict[UUID, list[Line]] = {row.id: [] for row in rows}
    for item in await connection.execute(
        select(
            order_items.c.order_id,
            order_items.c.product_id,
            order_items.c.title,
            order_items.c.price_cents,
            order_items.c.price_points,
            order_items.c.quantity,
            order_items.c.refunded_quantity,
            order_items.c.refunded_cents,
            order_items.c.refunded_points,
        )
        .where(order_items.c.order_id.in_(list(lines)))
        .order_by(order_items.c.product_id)
    ):
        lines[item.order_id].append(Line(*item[1:]))
    return [
        Order(
            **dict(row._mapping)
            | {"status": Status(row.status), "payment_method": Method(row.payment_method)},
            lines=tuple(lines[row.id]),
        )
        for row in rows
    ]
