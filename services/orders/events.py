"""What orders listens to.

payments.checkout.changed   what became of a card order's session      → apply_outcome()
wallet.hold.overdue         wallet asks about a hold                   → answer_overdue_hold()
"""

from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import logs
from services.chassis.consumer import Subscription
from services.orders.card_saga import Outcome, apply_outcome
from services.orders.commands import runs
from services.orders.points_saga import CAPTURE, PLACE_WITH_POINTS, RELEASE_HOLD
from services.orders.queries.orders import lock_order
from services.orders.rules import Status

log = logs.get(__name__)

HOLD_OVERDUE = "hold_overdue"


async def apply_checkout_change(connection: AsyncConnection, event: events_pb2.OrderCheckoutChanged) -> None:
    await apply_outcome(
        connection,
        UUID(event.order_id),
        Outcome(
            state=event.state,
            version=event.version,
            amount_cents=event.amount_cents,
            currency=event.currency,
            payment_intent_id=event.payment_intent_id,
        ),
    )


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


def subscriptions() -> tuple[Subscription, ...]:
    return (
        Subscription(
            stream="PAYMENTS",
            subject="payments.checkout.changed",
            durable="orders__checkout",
            event=events_pb2.OrderCheckoutChanged,
            handle=apply_checkout_change,
        ),
        Subscription(
            stream="WALLET",
            subject="wallet.hold.overdue",
            durable="orders__hold",
            event=events_pb2.HoldOverdue,
            handle=answer_overdue_hold,
        ),
    )
