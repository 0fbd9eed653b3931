"""What payments tells wallet and orders, written to the outbox in the caller's transaction."""

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import outbox
from services.payments.rules import Checkout, Contest, Payment, Refund, Status
from services.payments.sales import PointsSale

_ORDER_STATES = {
    Status.PROCESSING: events_pb2.ORDER_CHECKOUT_STATE_PROCESSING,
    Status.PAID: events_pb2.ORDER_CHECKOUT_STATE_PAID,
    Status.EXPIRED: events_pb2.ORDER_CHECKOUT_STATE_EXPIRED,
    Status.FAILED: events_pb2.ORDER_CHECKOUT_STATE_FAILED,
}


_CONTESTS = {
    Contest.NONE: events_pb2.DISPUTE_STATE_NONE,
    Contest.OPEN: events_pb2.DISPUTE_STATE_OPEN,
    Contest.WON: events_pb2.DISPUTE_STATE_WON,
    Contest.LOST: events_pb2.DISPUTE_STATE_LOST,
}
_REFUND_STATES = {
    "pending": events_pb2.REFUND_STATE_PENDING,
    "requires_action": events_pb2.REFUND_STATE_PENDING,
    "succeeded": events_pb2.REFUND_STATE_SUCCEEDED,
    "failed": events_pb2.REFUND_STATE_FAILED,
    "canceled": events_pb2.REFUND_STATE_CANCELED,
}


async def emit_checkout(connection: AsyncConnection, checkout: Checkout) -> None:
    """An order hears of every state that it waits for; points are told of by their payment."""
    if checkout.order_id is not None and checkout.status in _ORDER_STATES:
        await outbox.emit(connection, subject="payments.checkout.changed", event=_order_changed(checkout))


async def emit_grant(connection: AsyncConnection, sale: PointsSale) -> None:
    """What the points of a sale are worth now."""
    event = events_pb2.PointsGrantChanged(
        source_id=sale.source_id,
        user_id=str(sale.user_id),
        version=sale.version,
        net_points=sale.net_points,
        payment_intent_id=sale.payment_intent_id,
        description=_description(sale),
    )
    await outbox.emit(connection, subject="payments.points.grant_changed", event=event)


def _description(sale: PointsSale) -> str:
    kind = "Subscription" if sale.of_subscription else "Purchase"
    back = "" if sale.net_points == sale.points else f", {sale.net_points} left after money went back"
    return f"{kind} of {sale.points} points{back}"


async def emit_payment(connection: AsyncConnection, payment: Payment) -> None:
    """How much of an order's payment is left."""
    event = events_pb2.PaymentChanged(
        payment_id=str(payment.id),
        order_id=str(payment.order_id),
        user_id=str(payment.user_id),
        version=payment.version,
        amount_cents=payment.amount_cents,
        refunded_cents=payment.refunded_cents,
        disputed_cents=payment.disputed_cents,
        dispute=_CONTESTS[payment.dispute],
        currency=payment.currency,
        lost_cents=payment.lost_cents,
    )
    await outbox.emit(connection, subject="payments.payment.changed", event=event)


async def emit_refund(connection: AsyncConnection, refund: Refund) -> None:
    """What became of a refund that was asked for."""
    event = events_pb2.RefundChanged(
        refund_id=str(refund.id),
        order_id=str(refund.order_id),
        version=refund.version,
        amount_cents=refund.amount_cents,
        currency=refund.currency,
        state=_REFUND_STATES[refund.status],
        failure_reason=refund.failure_reason or "",
    )
    await outbox.emit(connection, subject="payments.refund.changed", event=event)


def _order_changed(checkout: Checkout) -> events_pb2.OrderCheckoutChanged:
    return events_pb2.OrderCheckoutChanged(
        checkout_id=str(checkout.id),
        order_id=str(checkout.order_id),
        user_id=str(checkout.user_id),
        version=checkout.version,
        state=_ORDER_STATES[checkout.status],
        amount_cents=checkout.due_cents,
        currency=checkout.currency,
        payment_intent_id=checkout.payment_intent_id or "",
        failure_reason=checkout.failure_reason or "",
        discount_cents=checkout.discount_cents,
    )
