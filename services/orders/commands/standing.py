"""What became of an order's money decides its status, its downloads and what is owed: told by payments and
wallet, followed here, by one rule (rules.Money)."""

from collections import defaultdict
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Text, cast, exists, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import logs, outbox
from services.orders import errors
from services.orders.commands import settling, shipping
from services.orders.mails.mail import RETURNED
from services.orders.models import download_grants, mails, orders, refund_items, refunds
from services.orders.queries.orders import Order, lock_order
from services.orders.refund_rules import RefundStatus
from services.orders.rules import Access, Method, Status, access_to, status_after

log = logs.get(__name__)

REFUNDED = "orders.order.refunded"
DISPUTE_LOST, DISPUTE_WON = "dispute_lost", "dispute_won"
WHOLLY_REFUNDED, REFUND_RETURNED = "refunded", "refund_returned"


@dataclass(frozen=True, slots=True)
class PaymentStanding:
    """How much of an order's payment is gone, as payments last saw it at Stripe."""

    version: int
    refunded_cents: int
    # none, open, won or lost.
    dispute: str
    # Held by open disputes and taken by lost ones. None: the release that told did not tell, so the whole.
    disputed_cents: int | None = None
    lost_cents: int | None = None


async def apply_payment(connection: AsyncConnection, order_id: UUID, told: PaymentStanding) -> None:
    """Takes over what payments says; older versions change nothing."""
    order = await lock_order(connection, order_id)
    if order is None:
        raise errors.order_not_found(order_id)
    if told.version <= order.payment_version:
        return
    refunded_cents = min(told.refunded_cents, order.total_cents)
    now = replace(
        order,
        payment_version=told.version,
        refunded_cents=refunded_cents,
        dispute=told.dispute,
        disputed_cents=_within(order, told.disputed_cents),
        lost_cents=_within(order, told.lost_cents),
        promised_cents=max(order.promised_cents, order.refunded_cents, refunded_cents),
    )
    await connection.execute(
        update(orders)
        .where(orders.c.id == order_id)
        .values(
            payment_version=now.payment_version,
            refunded_cents=now.refunded_cents,
            dispute=now.dispute,
            disputed_cents=now.disputed_cents,
            lost_cents=now.lost_cents,
            promised_cents=now.promised_cents,
            version=orders.c.version + 1,
            updated_at=func.now(),
        )
    )
    after = await settle_standing(connection, now)
    if now.refunded_cents != order.refunded_cents and after.status is order.status:
        reason = WHOLLY_REFUNDED if now.refunded_cents > order.refunded_cents else REFUND_RETURNED
        await emit_refunded(connection, after, cents=now.refunded_cents, is_whole=False, reason=reason)


def _within(order: Order, cents: int | None) -> int | None:
    return None if cents is None else min(cents, order.total_cents)


async def promise(connection: AsyncConnection, order: Order) -> Order:
    """The customer is told what the order's refunds give back: should it come back, it is owed. The caller
    holds the order's lock."""
    given = await _promised_by_refunds(connection, order.id)
    promised = min(order.total_cents, max(order.promised_cents, order.refunded_cents, given))
    if promised != order.promised_cents:
        await connection.execute(
            update(orders).where(orders.c.id == order.id).values(promised_cents=promised)
        )
    return replace(order, promised_cents=promised)


async def _promised_by_refunds(connection: AsyncConnection, order_id: UUID) -> int:
    """Line by line what is on its way or arrived, or what came back when that is more: the refund of another
    line does not pay it."""
    is_live = refunds.c.status.in_([RefundStatus.PENDING, RefundStatus.SUCCEEDED])
    # The customer was told that it was on its way, and then that it was not.
    has_returned = exists().where(
        mails.c.order_id == order_id, mails.c.kind == literal(f"{RETURNED}:") + cast(refunds.c.id, Text)
    )
    live = func.coalesce(func.sum(refund_items.c.cents).filter(is_live), 0)
    returned = func.coalesce(func.max(refund_items.c.cents).filter(has_returned), 0)
    lines = (
        select(func.greatest(live, returned).label("cents"))
        .join_from(refund_items, refunds, refunds.c.id == refund_items.c.refund_id)
        .where(refunds.c.order_id == order_id)
        .group_by(refund_items.c.product_id)
        .subquery()
    )
    return int(await connection.scalar(select(func.coalesce(func.sum(lines.c.cents), 0))) or 0)


async def settle_standing(connection: AsyncConnection, order: Order, *, actor: str = "stripe") -> Order:
    """Brings status, downloads, fulfilment and debt to what the order's money says. The caller holds the
    order's lock; an order that is not paid yet is looked at again when it is."""
    order = await _settle_debt(connection, order)
    status = status_after(order.status, order.money, is_late=order.is_late)
    if status is not order.status:
        order = await _move(connection, order, status, actor=actor)
    await shipping.settle_fulfilment(connection, order.id)
    await settle_downloads(connection, order)
    return order


async def _move(connection: AsyncConnection, order: Order, status: Status, *, actor: str) -> Order:
    money = order.money
    is_refunded = status is Status.REFUNDED
    if is_refunded:
        reason = DISPUTE_LOST if money.refunded + money.settled < money.paid else WHOLLY_REFUNDED
    else:
        reason = DISPUTE_WON if order.dispute == "won" else REFUND_RETURNED
    failure = order.failure_reason if order.is_late else DISPUTE_LOST if reason == DISPUTE_LOST else None
    await settling.move(connection, order, status, actor=actor, reason=reason, failure_reason=failure)
    order = replace(order, status=status, failure_reason=failure)
    if order.payment_method is Method.STRIPE:
        await emit_refunded(
            connection, order, cents=order.refunded_cents, is_whole=is_refunded, reason=reason
        )
    log.warning("order.refunded" if is_refunded else "order.restored", order_id=str(order.id), reason=reason)
    return order


async def _settle_debt(connection: AsyncConnection, order: Order) -> Order:
    money = order.money
    if money.owed == order.owed_cents and money.promised <= order.promised_cents:
        return order
    now = replace(order, owed_cents=money.owed, promised_cents=max(money.promised, order.promised_cents))
    await connection.execute(
        update(orders)
        .where(orders.c.id == order.id)
        .values(
            owed_cents=now.owed_cents,
            promised_cents=now.promised_cents,
            version=orders.c.version + 1,
            updated_at=func.now(),
        )
    )
    if now.owed_cents > order.owed_cents:
        log.error("order.owes", order_id=str(order.id), owed_cents=now.owed_cents)
    return now


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


async def settle_downloads(connection: AsyncConnection, order: Order) -> None:
    """Brings each download grant to what order, line and dispute say: revoked, suspended or active."""
    products: dict[Access, list[UUID]] = defaultdict(list)
    for line in order.lines:
        products[access_to(line, order.status, order.money)].append(line.product_id)
    for access, of in products.items():
        await connection.execute(
            update(download_grants)
            .where(
                download_grants.c.order_id == order.id,
                download_grants.c.product_id.in_(of),
                download_grants.c.status != access,
            )
            .values(status=access, updated_at=func.now())
        )
