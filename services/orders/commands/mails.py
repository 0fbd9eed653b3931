"""Mails are queued in the transaction of what they tell of, each kind once; services/orders/mails sends."""

from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orders.models import mails


async def queue_mail(connection: AsyncConnection, *, order_id: UUID, user_id: UUID, kind: str) -> None:
    """Queues a mail about an order that has an address; a kind that is queued or sent stays as it is."""
    await connection.execute(
        insert(mails).values(order_id=order_id, user_id=user_id, kind=kind).on_conflict_do_nothing()
    )
