"""What a profile keeps beside its balance."""

from uuid import UUID

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.wallet.models import profiles


async def keep_email(connection: AsyncConnection, *, user_id: UUID, sealed: bytes, email_hmac: bytes) -> None:
    """Stores the sealed e-mail of a user, who is created when never seen."""
    values = {"email": sealed, "email_hmac": email_hmac}
    await connection.execute(
        insert(profiles)
        .values(id=user_id, **values)
        .on_conflict_do_update(index_elements=["id"], set_={**values, "updated_at": func.now()})
    )
