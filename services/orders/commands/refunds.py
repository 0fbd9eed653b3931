"""Refunds: asked for by an operator, or written for a payment that came too late; then settled by what wallet
and payments say.

Each function is one transaction's work. Rows are locked in one order everywhere: saga run, stock by product,
order, refund, download grants.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import func, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import logs, tracing
from services.chassis.errors import Rejected
from services.chassis.ids import uuid7
from services.orders import errors
from services.orders.commands import catalog, settling, standing, stock
from services.orders.commands.mails import queue_mail
from services.orders.mails.mail import REFUND, RETURNED
from services.orders.models import order_items, orders, refund_items, refunds
from services.orders.queries.orders import Order, find_order, lock_order
from services.orders.queries.refunds import Refund, find_refund, lock_refund
from services.orders.refund_rules import RefundLine, RefundStatus, moves, take_back
from services.orders.rules import LATE_PAYMENT, Money, Status

log = logs.get(__name__)

_SAGA = "saga"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked to be given back. No pieces: all that is left of the order."""

    refund_id: UUID
    pieces: Mapping[UUID, int]
    return_stock: bool
    actor: str
    reason: str
    request_hash: bytes


async def request_refund(connection: AsyncConnection, order_id: UUID, wanted: Wanted) -> tuple[Refund, bool]:
    """Writes a refund down, and whether it is new; the same id gives the same refund.

    Raises ORDER_NOT_FOUND, REFUND_MISMATCH, NOT_REFUNDABLE, ORDER_DISPUTED, NOT_IN_ORDER,
    REFUND_EXCEEDS_ORDER.
    """
    order = await lock_order(connection, order_id)
    if order is None:
        raise errors.order_not_found(order_id)
    known = await find_refund(connection, wanted.refund_id)
    if known is not None:
        if (known.order_id, known.request_hash) != (order_id, wanted.request_hash):
            raise errors.refund_mismatch(wanted.refund_id)
        return known, False
    lines = _refundable_lines(order, wanted.pieces)
    return await _write(connection, order, wanted, lines), True


def _refundable_lines(order: Order, pieces: Mapping[UUID, int]) -> Sequence[RefundLine]:
    is_late = order.status is Status.PROCESSING and order.is_late
    if order.status not in (Status.COMPLETED, Status.REFUNDED) and not is_late:
        raise errors.not_refundable(order.id, order.status)
    money = order.money
    if money.paid == 0:
        # Promotion codes paid for it.
        raise errors.not_refundable(order.id, order.status)
    try:
        return take_back(
            order.lines,
            order.payment_method,
            paid=money.paid,
            refundable=money.refundable,
            wanted=pieces,
        )
    except Rejected as error:
        if _fits_without_dispute(order, money, pieces):
            raise errors.order_disputed(order.id) from error
        raise


def _fits_without_dispute(order: Order, money: Money, pieces: Mapping[UUID, int]) -> bool:
    """Whether it is an open dispute alone that stands in the way."""
    if not money.disputed:
        return False
    with suppress(Rejected):
        method = order.payment_method
        return bool(take_back(order.lines, method, paid=money.paid, refundable=money.left, wanted=pieces))
    return False


async def refund_late_payment(connection: AsyncConnection, order: Order) -> Refund:
    """The whole order: it was paid after its end, and its goods are gone. The caller holds its lock."""
    wanted = Wanted(
        refund_id=uuid7(), pieces={}, return_stock=False, actor=_SAGA, reason=LATE_PAYMENT, request_hash=b""
    )
    money = order.money
    lines = take_back(
        order.lines, order.payment_method, paid=money.paid, refundable=money.refundable, wanted={}
    )
    log.warning("order.late_payment_refunded", order_id=str(order.id), refund_id=str(wanted.refund_id))
    return await _write(connection, order, wanted, lines)


async def _write(
    connection: AsyncConnection, order: Order, wanted: Wanted, lines: Sequence[RefundLine]
) -> Refund:
    await connection.execute(
        insert(refunds).values(
            id=wanted.refund_id,
            order_id=order.id,
            user_id=order.user_id,
            amount_cents=sum(line.cents for line in lines),
            amount_points=sum(line.points for line in lines),
            return_stock=wanted.return_stock,
            actor=wanted.actor,
            reason=wanted.reason,
            request_hash=wanted.request_hash,
            trace_id=tracing.trace_id(),
        )
    )
    for line in lines:
        await connection.execute(
            insert(refund_items).values(
                refund_id=wanted.refund_id,
                product_id=line.product_id,
                order_id=order.id,
                user_id=order.user_id,
                quantity=line.quantity,
                cents=line.cents,
                points=line.points,
            )
        )
        await _take_of_line(connection, order.id, line, sign=1)
    await settling.touch(connection, order.id)
    await standing.settle_standing(connection, await _read(connection, order.id), actor=wanted.actor)
    written = await find_refund(connection, wanted.refund_id)
    assert written is not None, "it was written above"
    return written


async def _read(connection: AsyncConnection, order_id: UUID) -> Order:
    """The order with its lines as this transaction has left them."""
    order = await find_order(connection, order_id)
    assert order is not None, "its row is locked"
    return order


async def _take_of_line(connection: AsyncConnection, order_id: UUID, line: RefundLine, *, sign: int) -> None:
    await connection.execute(
        update(order_items)
        .where(order_items.c.order_id == order_id, order_items.c.product_id == line.product_id)
        .values(
            refunded_quantity=order_items.c.refunded_quantity + sign * line.quantity,
            refunded_cents=order_items.c.refunded_cents + sign * line.cents,
            refunded_points=order_items.c.refunded_points + sign * line.points,
        )
    )


async def settle_refund(
    connection: AsyncConnection,
    refund_id: UUID,
    to: RefundStatus,
    *,
    failure_reason: str | None = None,
    version: int = 0,
) -> bool:
    """Brings a refund to where wallet or payments says it is; old news changes nothing. False when there is
    no such refund.

    `version` 0: an answer to a call, which knows no versions.
    """
    seen = await find_refund(connection, refund_id)
    if seen is None:
        return False
    if to is RefundStatus.SUCCEEDED and seen.return_stock:
        await stock.lock_stock(connection, [line.product_id for line in seen.lines])
    order = await lock_order(connection, seen.order_id)
    refund = await lock_refund(connection, refund_id)
    assert order is not None, "orders are never deleted"
    assert refund is not None, "refunds are never deleted"
    is_old = bool(version) and version <= refund.version
    if is_old or not moves(refund.status, to):
        return True
    await _move(connection, refund, to, failure_reason=failure_reason, version=version)
    if to is RefundStatus.FAILED:
        await _give_amounts_free(connection, order, refund, failure_reason or "")
        return True
    # With the first good news, once.
    await queue_mail(connection, order_id=order.id, user_id=order.user_id, kind=f"{REFUND}:{refund.id}")
    order = await standing.promise(connection, order)
    if to is RefundStatus.SUCCEEDED:
        order = await _finish(connection, order, refund)
    await standing.settle_standing(connection, order, actor=refund.actor)
    return True


async def _move(
    connection: AsyncConnection, refund: Refund, to: RefundStatus, *, failure_reason: str | None, version: int
) -> None:
    is_end = to in (RefundStatus.SUCCEEDED, RefundStatus.FAILED)
    await connection.execute(
        update(refunds)
        .where(refunds.c.id == refund.id, refunds.c.status == refund.status)
        .values(
            status=to,
            version=func.greatest(refunds.c.version, version),
            failure_reason=(failure_reason or "unknown") if to is RefundStatus.FAILED else None,
            finished_at=func.now() if is_end else None,
            updated_at=func.now(),
        )
    )


async def _finish(connection: AsyncConnection, order: Order, refund: Refund) -> Order:
    if refund.return_stock:
        for line in refund.lines:
            if await stock.return_stock(connection, order.id, refund.id, line.product_id, line.quantity):
                await catalog.emit_restocked(connection, line.product_id)
    return await _count_points(connection, order, refund) if refund.amount_points else order


async def _count_points(connection: AsyncConnection, order: Order, refund: Refund) -> Order:
    """Wallet's answer is the truth about points; about money payments tells with a fact of its own."""
    refunded = order.refunded_points + refund.amount_points
    await connection.execute(
        update(orders).where(orders.c.id == order.id).values(refunded_points=refunded, updated_at=func.now())
    )
    await settling.touch(connection, order.id)
    now = replace(order, refunded_points=refunded)
    await standing.emit_refunded(
        connection,
        now,
        refund_id=refund.id,
        points=refunded,
        is_whole=now.money.is_gone,
        reason=refund.reason,
    )
    return now


async def _give_amounts_free(connection: AsyncConnection, order: Order, refund: Refund, reason: str) -> None:
    """Nothing went back: the lines can be refunded again, and what the customer was told to get is owed.
    Returned stock stays: the pieces did come back."""
    log.error("refund.failed", order_id=str(order.id), refund_id=str(refund.id), reason=reason)
    if refund.status is not RefundStatus.REQUESTED:
        # A mail said that it was on its way.
        kind = f"{RETURNED}:{refund.id}"
        await queue_mail(connection, order_id=order.id, user_id=order.user_id, kind=kind)
    for line in refund.lines:
        await _take_of_line(connection, order.id, line, sign=-1)
    await settling.touch(connection, order.id)
    await standing.settle_standing(connection, await _read(connection, order.id))
