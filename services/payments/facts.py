"""What payments tells wallet and orders, written to the outbox in the caller's transaction."""

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import outbox
from services.payments.rules import Checkout, Status

_ORDER_STATES = {
    Status.PROCESSING: events_pb2.ORDER_CHECKOUT_STATE_PROCESSING,
    Status.PAID: events_pb2.ORDER_CHECKOUT_STATE_PAID,
    Status.EXPIRED: events_pb2.ORDER_CHECKOUT_STATE_EXPIRED,
    Status.FAILED: events_pb2.ORDER_CHECKOUT_STATE_FAILED,
}


async def emit_change(connection: AsyncConnection, checkout: Checkout) -> None:
    """Points are told once they are paid for; an order hears of every state that it waits for."""
    if checkout.order_id is None:
        if checkout.status is Status.PAID:
            await outbox.emit(
                connection, subject="payments.points.grant_changed", event=_grant_changed(checkout)
            )
    elif checkout.status in _ORDER_STATES:
        await outbox.emit(connection, subject="payments.checkout.changed", event=_order_changed(checkout))


def _grant_changed(checkout: Checkout) -> events_pb2.PointsGrantChanged:
    return events_pb2.PointsGrantChanged(
        source_id=str(checkout.id),
        user_id=str(checkout.user_id),
        version=checkout.version,
        net_points=checkout.points,
        payment_intent_id=checkout.payment_intent_id or "",
        description=f"Purchase of {checkout.points} points",
    )


def _order_changed(checkout: Checkout) -> events_pb2.OrderCheckoutChanged:
    return events_pb2.OrderCheckoutChanged(
        checkout_id=str(checkout.id),
        order_id=str(checkout.order_id),
        user_id=str(checkout.user_id),
        version=checkout.version,
        state=_ORDER_STATES[checkout.status],
        amount_cents=checkout.amount_cents,
        currency=checkout.currency,
        payment_intent_id=checkout.payment_intent_id or "",
    )
