"""How an order ends: completed (the pivot), failed or cancelled, processing in between.

Each function is one transaction's work under the order's row lock. Rows change in one order everywhere:
cart, stock by product, order. What a status change leaves behind (history, outbox, mail, cart) is written
here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import outbox, tracing
from services.chassis.db import FixedSql
from services.orders import fulfilment
from services.orders.commands import stock
from services.orders.commands.mails import queue_mail
from services.orders.fulfilment import Terms
from services.orders.models import cart_items, carts, order_history, order_items, orders
from services.orders.queries.orders import Order
from services.orders.rules import Status, check_move

COMPLETED = "orders.order.completed"
ENDED = {Status.FAILED: "orders.order.failed", Status.CANCELLED: "orders.order.cancelled"}

# The pivot of the points saga as one statement: nothing happens unless the run still is ours and waits
# for exactly this step. Locks are taken as everywhere: run, cart, stock in product order, order. (The
# order's update adds index entries that an insert of the same key or cart version waits for, and such an
# insert already holds cart and stock.)
_CONFIRM_POINTS_ORDER = f"""
    WITH {fulfilment.LINES},
    run AS (
        UPDATE saga_runs
        SET step = %(next_step)s, attempts = 0, last_error = NULL, updated_at = now(),
            lease_until = now() + %(lease_seconds)s * interval '1 s'
        WHERE order_id = %(order_id)s AND saga = %(saga)s AND lease_token = %(lease_token)s
            AND status = 'running' AND step = %(step)s
        RETURNING order_id),
    cart AS MATERIALIZED (
        SELECT c.user_id FROM run JOIN orders o ON o.id = run.order_id AND o.cart_version IS NOT NULL
            JOIN carts c ON c.user_id = o.user_id
        FOR UPDATE OF c),
    held AS MATERIALIZED (
        SELECT i.product_id, r.quantity
        FROM (SELECT order_id FROM run WHERE (SELECT count(*) FROM cart) >= 0) AS run
            JOIN stock_reservations r ON r.order_id = run.order_id AND r.status = 'held'
            JOIN product_inventory i ON i.product_id = r.product_id
        ORDER BY i.product_id FOR NO KEY UPDATE OF i),
    done AS (
        UPDATE orders o SET status = 'completed', version = o.version + 1, updated_at = now(),
            fulfilled_at = {fulfilment.FULFILLED_AT}
        FROM run WHERE o.id = run.order_id AND o.status = 'pending' AND (SELECT count(*) FROM held) >= 0
        RETURNING o.id, o.user_id, o.email, o.dispute, o.version, o.updated_at, o.fulfilled_at),
    taken AS (
        UPDATE product_inventory i
        SET stock_quantity = i.stock_quantity - held.quantity,
            reserved_quantity = i.reserved_quantity - held.quantity, updated_at = now()
        FROM held, done WHERE i.product_id = held.product_id
        RETURNING i.product_id, done.id AS order_id, held.quantity),
    reservations AS (
        UPDATE stock_reservations r SET status = 'taken'
        FROM taken t WHERE r.order_id = t.order_id AND r.product_id = t.product_id),
    movements AS (
        INSERT INTO stock_movements (product_id, delta, reason, order_id, actor)
        SELECT product_id, -quantity, 'sold', order_id, 'saga' FROM taken),
    history AS (
        INSERT INTO order_history (order_id, user_id, from_status, to_status, actor, reason, trace_id)
        SELECT id, user_id, 'pending', 'completed', 'saga', 'points_reserved', %(trace_id)s FROM done),
    emptied AS (
        UPDATE carts c SET version = c.version + 1, updated_at = now()
        FROM cart, done WHERE c.user_id = cart.user_id),
    bought AS (
        DELETE FROM cart_items c USING cart, done, order_items o
        WHERE c.user_id = cart.user_id AND o.order_id = done.id
            AND c.product_id = o.product_id AND c.quantity <= o.quantity),
    left_over AS (
        UPDATE cart_items c SET quantity = c.quantity - o.quantity FROM cart, done, order_items o
        WHERE c.user_id = cart.user_id AND o.order_id = done.id
            AND c.product_id = o.product_id AND c.quantity > o.quantity),
    mail AS (
        INSERT INTO mails (order_id, kind, user_id, next_attempt_at)
        SELECT id, 'receipt', user_id, now() + %(mail_lease_seconds)s * interval '1 s'
        FROM done WHERE email IS NOT NULL),
    event AS (
        INSERT INTO outbox (subject, payload, traceparent)
        SELECT %(subject)s, %(payload)s, %(traceparent)s FROM done),
    {fulfilment.IN_PIVOT}
    SELECT updated_at, fulfilled_at, version, (SELECT array_agg(type ORDER BY product_id) FROM lines)
    FROM done"""
# The part of a card order's pivot that depends on what was bought.
_FULFIL = f"""
    WITH {fulfilment.LINES},
    done AS (
        UPDATE orders SET fulfilled_at = {fulfilment.FULFILLED_AT}
        WHERE id = %(order_id)s
        RETURNING id, user_id, dispute),
    {fulfilment.IN_PIVOT}
    SELECT FROM done"""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What the pivot of a points order made of it. `types` are its lines' types, in product order."""

    at: datetime
    fulfilled_at: datetime | None
    version: int
    types: Sequence[str]


async def confirm_points_order(
    connection: FixedSql,
    *,
    event: events_pb2.OrderCompleted,
    order_id: UUID,
    saga: str,
    step: str,
    next_step: str,
    lease_token: UUID,
    lease_seconds: float,
    mail_lease_seconds: float,
    terms: Terms,
) -> Confirmed | None:
    """The pivot: the order is completed and its run moves on. None when the run is no longer ours."""
    parameters: dict[str, Any] = {
        "order_id": order_id,
        "saga": saga,
        "step": step,
        "next_step": next_step,
        "lease_token": lease_token,
        "lease_seconds": lease_seconds,
        "mail_lease_seconds": mail_lease_seconds,
        "subject": COMPLETED,
        "payload": event.SerializeToString(),
        "traceparent": tracing.current(),
        "trace_id": tracing.trace_id(),
        **fulfilment.parameters(terms),
    }
    row = await (await connection.execute(_CONFIRM_POINTS_ORDER, parameters)).fetchone()
    return None if row is None else Confirmed(*row)


async def lock_bought(connection: AsyncConnection, order_id: UUID) -> None:
    """Locks the cart that an order bought and its stock, before the order itself is changed.

    A second click holds cart and stock when its insert waits for whoever changes the order of the same cart:
    that one must not wait for cart or stock any more.
    """
    await connection.execute(
        select(carts.c.user_id)
        .join(orders, orders.c.user_id == carts.c.user_id)
        .where(orders.c.id == order_id, orders.c.cart_version.is_not(None))
        .with_for_update(of=carts)
    )
    lines = await connection.scalars(
        select(order_items.c.product_id).where(order_items.c.order_id == order_id)
    )
    await stock.lock_stock(connection, lines.all())


async def complete_order(connection: AsyncConnection, order: Order, *, reason: str, terms: Terms) -> None:
    """The pivot of a card order: its payment arrived. The caller holds the order's row lock."""
    check_move(order.status, Status.COMPLETED)
    await _empty_bought_cart_lines(connection, order.id)
    await stock.take_stock(connection, order.id)
    await move(connection, order, Status.COMPLETED, actor="stripe", reason=reason)
    await queue_mail(connection, order_id=order.id, user_id=order.user_id, kind="receipt")
    await connection.exec_driver_sql(_FULFIL, {"order_id": order.id, **fulfilment.parameters(terms)})
    await outbox.emit(connection, subject=COMPLETED, event=completed_event(order))


async def start_processing(
    connection: AsyncConnection, order: Order, *, reason: str, failure_reason: str | None = None
) -> Order:
    """The money is on its way, or came late: the order is no longer the customer's to cancel."""
    await move(
        connection, order, Status.PROCESSING, actor="stripe", reason=reason, failure_reason=failure_reason
    )
    return replace(order, status=Status.PROCESSING, failure_reason=failure_reason)


async def keep_session(connection: AsyncConnection, order_id: UUID, *, session_id: str, url: str) -> None:
    """Shows the customer where to pay."""
    await connection.execute(
        update(orders)
        .where(orders.c.id == order_id)
        .values(
            stripe_session_id=session_id,
            stripe_session_url=url,
            version=orders.c.version + 1,
            updated_at=func.now(),
        )
    )


async def touch(connection: AsyncConnection, order_id: UUID) -> None:
    """Something that the customer sees of the order has changed beside its row."""
    await connection.execute(
        update(orders)
        .where(orders.c.id == order_id)
        .values(version=orders.c.version + 1, updated_at=func.now())
    )


async def keep_payment(
    connection: AsyncConnection, order_id: UUID, *, version: int, payment_intent_id: str | None
) -> None:
    """Remembers the newest fact about the checkout and the payment it names."""
    await connection.execute(
        update(orders)
        .where(orders.c.id == order_id)
        .values(
            checkout_version=func.greatest(orders.c.checkout_version, version),
            stripe_payment_intent_id=func.coalesce(payment_intent_id, orders.c.stripe_payment_intent_id),
            updated_at=func.now(),
        )
    )


async def save_paid(connection: AsyncConnection, order: Order, *, paid_cents: int) -> Order:
    """What the customer paid for a card order: its total, less what promotion codes took off."""
    await connection.execute(update(orders).where(orders.c.id == order.id).values(paid_cents=paid_cents))
    return replace(order, paid_cents=paid_cents)


async def end_order(
    connection: AsyncConnection,
    order: Order,
    to: Status,
    *,
    actor: str,
    reason: str,
    fields: dict[str, str] | None = None,
) -> None:
    """Fails or cancels the order and gives its stock back. The caller holds the order's row lock."""
    check_move(order.status, to)
    await stock.release_stock(connection, order.id)
    await move(connection, order, to, actor=actor, reason=reason, failure_fields=fields)
    await outbox.emit(
        connection,
        subject=ENDED[to],
        event=events_pb2.OrderEnded(
            order_id=str(order.id),
            user_id=str(order.user_id),
            payment_method=str(order.payment_method),
            reason=reason,
        ),
    )


def completed_event(order: Order) -> events_pb2.OrderCompleted:
    return events_pb2.OrderCompleted(
        order_id=str(order.id),
        user_id=str(order.user_id),
        payment_method=str(order.payment_method),
        total_cents=order.total_cents,
        total_points=order.total_points,
        currency=order.currency,
    )


async def _empty_bought_cart_lines(connection: AsyncConnection, order_id: UUID) -> None:
    """Takes what was bought out of the cart, when the order bought the cart."""
    owner = await connection.execute(
        update(carts)
        .where(
            orders.c.id == order_id, orders.c.cart_version.is_not(None), carts.c.user_id == orders.c.user_id
        )
        .values(version=carts.c.version + 1, updated_at=func.now())
        .returning(carts.c.user_id)
    )
    user_id = owner.scalar_one_or_none()
    if user_id is None:
        return
    same_line = (
        (cart_items.c.user_id == user_id)
        & (order_items.c.order_id == order_id)
        & (cart_items.c.product_id == order_items.c.product_id)
    )
    await connection.execute(
        delete(cart_items).where(same_line, cart_items.c.quantity <= order_items.c.quantity)
    )
    await connection.execute(
        update(cart_items)
        .where(same_line, cart_items.c.quantity > order_items.c.quantity)
        .values(quantity=cart_items.c.quantity - order_items.c.quantity)
    )


async def move(
    connection: AsyncConnection,
    order: Order,
    to: Status,
    *,
    actor: str,
    reason: str,
    failure_reason: str | None = None,
    failure_fields: dict[str, str] | None = None,
) -> None:
    """Changes the status with its history. What failed or was cancelled keeps the reason as its failure's;
    other states have one only when it is given. The caller holds the order's row lock."""
    check_move(order.status, to)
    failed = to in ENDED
    await connection.execute(
        update(orders)
        .where(orders.c.id == order.id, orders.c.status == order.status)
        .values(
            status=to,
            failure_reason=reason if failed else failure_reason,
            failure_fields=failure_fields,
            version=orders.c.version + 1,
            # The cart is free to be bought by another order.
            **({"cart_version": None} if failed else {}),
            updated_at=func.now(),
        )
    )
    await connection.execute(
        insert(order_history).values(
            order_id=order.id,
            user_id=order.user_id,
            from_status=order.status,
            to_status=to,
            actor=actor,
            reason=reason,
            trace_id=tracing.trace_id(),
        )
    )
