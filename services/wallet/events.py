"""What wallet listens to."""

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import logs
from services.chassis.consumer import Subscription
from services.chassis.fields import as_uuid, in_range
from services.wallet.commands.grants import apply_grant
from services.wallet.fields import as_text
from services.wallet.rules import MAX_POINTS

log = logs.get(__name__)

_MAX_VERSION = 2**62


async def on_grant_changed(connection: AsyncConnection, event: events_pb2.PointsGrantChanged) -> None:
    """Purchase credits come from here only. What is malformed raises Invalid, and is parked."""
    version = in_range(event.version, field="version", low=1, high=_MAX_VERSION)
    amount = await apply_grant(
        connection,
        source_id=as_text(event.source_id, field="source_id", low=1, high=255),
        user_id=as_uuid(event.user_id, field="user_id"),
        version=version,
        net_points=in_range(event.net_points, field="net_points", low=0, high=MAX_POINTS),
        payment_intent_id=as_text(event.payment_intent_id, field="payment_intent_id", high=255),
        description=as_text(event.description, field="description", high=500),
    )
    log.info("points.grant_applied", source_id=event.source_id, version=version, amount=amount)


SUBSCRIPTIONS = (
    Subscription(
        stream="PAYMENTS",
        subject="payments.points.grant_changed",
        durable="wallet__grant",
        event=events_pb2.PointsGrantChanged,
        handle=on_grant_changed,
    ),
)
