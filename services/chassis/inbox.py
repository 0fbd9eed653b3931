"""Effects of a message happen once: the inbox row is written in the handler's own transaction."""

from uuid import UUID

from sqlalchemy import column, table
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

_INBOX = table("inbox", column("consumer"), column("message_id"))
_DEAD_LETTERS = table(
    "dead_letters",
    column("consumer"),
    column("message_id"),
    column("subject"),
    column("payload"),
    column("headers", JSONB),
    column("error"),
)


async def is_new(connection: AsyncConnection, *, consumer: str, message_id: UUID) -> bool:
    """Records the message; False when this consumer has dealt with it before."""
    # RETURNING, since SQLAlchemy keeps no rowcount of an INSERT.
    recorded = await connection.scalar(
        insert(_INBOX)
        .values(consumer=consumer, message_id=message_id)
        .on_conflict_do_nothing()
        .returning(_INBOX.c.message_id)
    )
    return recorded is not None


async def bury(
    connection: AsyncConnection,
    *,
    consumer: str,
    message_id: str,
    subject: str,
    payload: bytes,
    headers: dict[str, str],
    error: str,
) -> None:
    """Keeps a message that can never be handled, for an operator to read and replay."""
    await connection.execute(
        insert(_DEAD_LETTERS)
        .values(
            consumer=consumer,
            message_id=message_id,
            subject=subject,
            payload=payload,
            headers=headers,
            error=error,
        )
        .on_conflict_do_nothing()
    )
