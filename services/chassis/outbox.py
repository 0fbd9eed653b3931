"""Facts leave in the transaction that made them true; relay.py publishes them afterwards."""

from google.protobuf.message import Message
from sqlalchemy import column, insert, table
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import tracing

_OUTBOX = table("outbox", column("subject"), column("payload"), column("traceparent"))


async def emit(connection: AsyncConnection, *, subject: str, event: Message) -> None:
    """Stores one event of the current trace; the caller's commit makes it a fact, `Relay.wake` makes it
    quick."""
    await connection.execute(
        insert(_OUTBOX).values(
            subject=subject, payload=event.SerializeToString(), traceparent=tracing.current()
        )
    )
