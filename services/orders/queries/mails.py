"""Mails as operators see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orders.mails.mail import IN_DOUBT, Key
from services.orders.models import mails

WAITING, HANDED, DOUBTED, REFUSED, SENT = "waiting", "handed", "in_doubt", "refused", "sent"
UNSENT = (WAITING, HANDED, DOUBTED, REFUSED)
_STATUS: Any = case(
    (mails.c.sent_at.is_not(None), SENT),
    (mails.c.refused_at.is_not(None), REFUSED),
    (mails.c.handed_at.is_(None), WAITING),
    (text(IN_DOUBT), DOUBTED),
    else_=HANDED,
).label("status")


@dataclass(frozen=True, slots=True)
class SeenMail:
    """One mail, and where it stands."""

    order_id: UUID
    kind: str
    user_id: UUID
    status: str
    attempts: int
    last_error: str | None
    created_at: datetime
    handed_at: datetime | None
    sent_at: datetime | None


_COLUMNS = (*(mails.c[name] for name in SeenMail.__dataclass_fields__ if name != "status"), _STATUS)


async def list_unsent(
    connection: AsyncConnection, *, statuses: Sequence[str], limit: int, after: Key | None
) -> Sequence[SeenMail]:
    """In the order in which their orders were placed, `limit` of them behind `after`."""
    query = select(*_COLUMNS).where(mails.c.sent_at.is_(None), _STATUS.in_(statuses))
    if after is not None:
        query = query.where(tuple_(mails.c.order_id, mails.c.kind) > after)
    rows = await connection.execute(query.order_by(mails.c.order_id, mails.c.kind).limit(limit))
    return [SeenMail(**row._mapping) for row in rows]


async def lock_mail(connection: AsyncConnection, key: Key) -> SeenMail | None:
    """Nobody hands or keeps it meanwhile."""
    query = select(*_COLUMNS).where(tuple_(mails.c.order_id, mails.c.kind) == key).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    return SeenMail(**row._mapping) if row else None
