"""What a client's Idempotency-Key stands for: one key of a user and route, one resource or rejection.

The row is written in the transaction that creates the resource (or that finds the request rejected), so
that a key is never taken without its outcome. A key that is seen again with another body is refused
(INVALID_ARGUMENT IDEMPOTENCY_KEY_REUSED); with the same body it gives the resource in its current state
or raises the stored rejection again. Kept 30 days.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import column, delete, func, select, table, text
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import CATEGORIES, DomainError, Invalid

# Whoever keeps keys finds their rule here too.
from services.chassis.idempotency_key import check_key as check_key

_KEEP = text("interval '30 days'")

_KEYS = table(
    "idempotency_keys",
    column("user_id"),
    column("route"),
    column("key"),
    column("request_hash"),
    column("resource_id"),
    column("rejection", JSONB(none_as_null=True)),
    column("created_at"),
)


@dataclass(frozen=True)
class Request:
    """One request under its key."""

    user_id: UUID
    route: str
    key: str
    request_hash: bytes


def hash_of(message: Message, *, given: bytes) -> bytes:
    """The hash of the body as sent, or of the message itself when the caller gave none."""
    return given or hashlib.sha256(message.SerializeToString(deterministic=True)).digest()


def refuse_other_body(stored: bytes, request_hash: bytes) -> None:
    """Raises Invalid when a known key comes with another body."""
    if stored != request_hash:
        raise Invalid("IDEMPOTENCY_KEY_REUSED", "this Idempotency-Key was used with another request body")


async def find(connection: AsyncConnection, request: Request) -> UUID | None:
    """The resource behind the key, None for a new key; raises the stored rejection."""
    row = (
        await connection.execute(
            select(_KEYS.c.request_hash, _KEYS.c.resource_id, _KEYS.c.rejection).where(
                _KEYS.c.user_id == request.user_id,
                _KEYS.c.route == request.route,
                _KEYS.c.key == request.key,
            )
        )
    ).one_or_none()
    if row is None:
        return None
    refuse_other_body(row.request_hash, request.request_hash)
    if row.rejection is not None:
        raise as_error(row.rejection)
    return UUID(str(row.resource_id))


async def keep_resource(connection: AsyncConnection, request: Request, *, resource_id: UUID) -> bool:
    """Ties the key to a resource; False when a twin was first (its outcome stands)."""
    return await _keep(connection, request, resource_id=resource_id, rejection=None)


async def keep_rejection(connection: AsyncConnection, request: Request, *, error: DomainError) -> bool:
    """Ties the key to a business rejection, so that a retry hears the same."""
    return await _keep(connection, request, resource_id=None, rejection=as_json(error))


async def _keep(
    connection: AsyncConnection,
    request: Request,
    *,
    resource_id: UUID | None,
    rejection: Mapping[str, Any] | None,
) -> bool:
    # RETURNING, since SQLAlchemy keeps no rowcount of an INSERT.
    kept = await connection.scalar(
        insert(_KEYS)
        .values(
            user_id=request.user_id,
            route=request.route,
            key=request.key,
            request_hash=request.request_hash,
            resource_id=resource_id,
            rejection=rejection,
        )
        .on_conflict_do_nothing()
        .returning(_KEYS.c.key)
    )
    return kept is not None


def as_json(error: DomainError) -> dict[str, Any]:
    return {
        "category": error.category,
        "reason": error.reason,
        "message": error.message,
        "fields": error.fields,
    }


def as_error(stored: Mapping[str, Any]) -> DomainError:
    """The error that `as_json` wrote down."""
    kind = CATEGORIES[stored["category"]]
    return kind(stored["reason"], stored["message"], **stored["fields"])


async def forget_old(connection: AsyncConnection) -> int:
    """Deletes keys older than 30 days; returns how many."""
    result = await connection.execute(delete(_KEYS).where(_KEYS.c.created_at < func.now() - _KEEP))
    return result.rowcount
