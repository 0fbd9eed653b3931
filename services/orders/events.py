"""What orders listens to.

payments.checkout.changed   what became of a card order's session      → apply_outcome()
payments.payment.changed    how much of an order's payment is left     → standing.apply_payment()
payments.refund.changed     what became of a refund at Stripe          → refunds.settle_refund()
wallet.hold.overdue         wallet asks about a hold                   → answer_overdue_hold()
orders.product.changed      what is cached of the catalogue is old     → CatalogCache.note_catalogue()
"""

from collections.abc import Callable, Mapping
from functools import partial
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import logs
from services.chassis.consumer import Subscription
from services.orders.card_saga import Outcome, apply_outcome
from services.orders.commands import runs
from services.orders.commands.refunds import settle_refund
from services.orders.commands.standing import PaymentStanding, apply_payment
from services.orders.fulfilment import Terms
from services.orders.points_saga import CAPTURE, PLACE_WITH_POINTS, RELEASE_HOLD
from services.orders.queries.orders import lock_order
from services.orders.refund_rules import RefundStatus
from services.orders.rules import Status

log = logs.get(__name__)

HOLD_OVERDUE = "hold_overdue"
_DISPUTES: Mapping[int, str] = {
    events_pb2.DISPUTE_STATE_NONE: "none",
    events_pb2.DISPUTE_STATE_OPEN: "open",
    events_pb2.DISPUTE_STATE_WON: "won",
    events_pb2.DISPUTE_STATE_LOST: "lost",
}
_REFUND_STATES: Mapping[int, RefundStatus] = {
    events_pb2.REFUND_STATE_PENDING: RefundStatus.PENDING,
    events_pb2.REFUND_STATE_SUCCEEDED: RefundStatus.SUCCEEDED,
    events_pb2.REFUND_STATE_FAILED: RefundStatus.FAILED,
    events_pb2.REFUND_STATE_CANCELED: RefundStatus.FAILED,
}


async def apply_checkout_change(
    connection: AsyncConnection, event: events_pb2.OrderCheckoutChanged, *, terms: Terms
) -> None:
    await apply_outcome(
        connection,
        UUID(event.order_id),
        Outcome(
            state=event.state,
            version=event.version,
            amount_cents=event.amount_cents,
            currency=event.currency,
            payment_intent_id=event.payment_intent_id,
            failure_reason=event.failure_reason,
            discount_cents=event.discount_cents,
        ),
        terms,
    )


async def apply_payment_change(connection: AsyncConnection, event: events_pb2.PaymentChanged) -> None:
    dispute = _DISPUTES[event.dispute]
    told_apart = event.HasField("lost_cents")
    lost = event.lost_cents if told_apart else event.disputed_cents if dispute == "lost" else 0
    held = max(0, event.disputed_cents - lost)
    told = PaymentStanding(
        version=event.version,
        refunded_cents=event.refunded_cents,
        dispute=dispute,
        # A dispute without an amount, of a release that told none, may be about everything.
        disputed_cents=None if dispute == "open" and not held else held,
        lost_cents=None if dispute == "lost" and not (told_apart or lost) else lost,
    )
    await apply_payment(connection, UUID(event.order_id), told)


async def apply_refund_change(connection: AsyncConnection, event: events_pb2.RefundChanged) -> None:
    """A refund that orders did not ask for (of a parked payment, say) shows in the payment's standing."""
    known = await settle_refund(
        connection,
        UUID(event.refund_id),
        _REFUND_STATES[event.state],
        failure_reason=event.failure_reason or None,
        version=event.version,
    )
    if not known:
        log.info("refund.not_ours", refund_id=event.refund_id)


async def answer_overdue_hold(connection: AsyncConnection, event: events_pb2.HoldOverdue) -> None:
    """Decides under the order's row lock; the runner then sends wallet the usual command.

    Completed: capture. Not completed: fail the order and release. No order: release.
    """
    order_id, user_id = UUID(event.order_id), UUID(event.user_id)
    run = await runs.lock_run(connection, order_id=order_id, saga=PLACE_WITH_POINTS)
    order = await lock_order(connection, order_id)
    if run is None or order is None:
        await runs.start_orphan_release(
            connection, order_id=order_id, user_id=user_id, saga=RELEASE_HOLD, reason="no_such_order"
        )
    elif order.status is Status.COMPLETED:
        await runs.do_again(connection, run, step=CAPTURE)
    elif run.status != runs.UNDOING:
        await runs.take_over_to_undo(
            connection, run, reason=HOLD_OVERDUE, lease_token=uuid4(), lease_seconds=0
        )
    log.info("hold.overdue", order_id=event.order_id)


def subscriptions(terms: Terms, *, forget_catalogue: Callable[[], None]) -> tuple[Subscription, ...]:
    async def product_changed(_: AsyncConnection, __: events_pb2.ProductChanged) -> None:
        # No network here: it only wakes whoever deletes. Every replica shares one cache and this consumer.
        forget_catalogue()

    return (
        Subscription(
            stream="PAYMENTS",
            subject="payments.checkout.changed",
            durable="orders__checkout",
            event=events_pb2.OrderCheckoutChanged,
            handle=partial(apply_checkout_change, terms=terms),
        ),
        Subscription(
            stream="PAYMENTS",
            subject="payments.payment.changed",
            durable="orders__payment",
            event=events_pb2.PaymentChanged,
            handle=apply_payment_change,
        ),
        Subscription(
            stream="PAYMENTS",
            subject="payments.refund.changed",
            durable="orders__refund",
            event=events_pb2.RefundChanged,
            handle=apply_refund_change,
        ),
        Subscription(
            stream="WALLET",
            subject="wallet.hold.overdue",
            durable="orders__hold",
            event=events_pb2.HoldOverdue,
            handle=answer_overdue_hold,
        ),
        Subscription(
            stream="ORDERS",
            subject="orders.product.changed",
            durable="orders__product",
            event=events_pb2.ProductChanged,
            handle=product_changed,
        ),
    )
