"""Mails are queued in the transaction of what they tell of, each kind once; services/orders/mails sends."""

from uuid import UUID

from sqlalchemy import literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orders.models import mails, orders


async def queue_mail(connection: AsyncConnection, *, order_id: UUID, user_id: UUID, kind: str) -> None:
    """Queues a mail about an order that has an address; a kind that is queued or sent stays as it is."""
    addressed = select(orders.c.id, literal(user_id), literal(kind)).where(
        orders.c.id == order_id, orders.c.email.is_not(None)
    )
    await connection.execute(
        insert(mails).from_select(["order_id", "user_id", "kind"], addressed).on_conflict_do_nothing()
    )
