"""What happened to a user or an order, as operators ask each service for it.

A service writes one query: a UNION ALL whose rows are (at, rank, kind, id, order_id, trace_id, fields) and
which takes :user_id, :order_id (one of them NULL) and :limit. `rank` orders what one transaction did, causes
first; `fields` is a flat jsonb object; NULLs in it are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import TextClause, Uuid, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.timeline.v1 import timeline_pb2
from services.chassis.errors import Invalid
from services.chassis.fields import as_uuid, in_range

MAX_ENTRIES = 500
_DEFAULT_ENTRIES = 200

Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a service's query."""

    at: datetime
    kind: str
    id: str
    order_id: UUID | None
    trace_id: str | None
    fields: Fields


class Request(Protocol):
    """GetTimelineRequest of any service."""

    user_id: str
    order_id: str
    limit: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose timeline: one of the two is None."""

    user_id: UUID | None
    order_id: UUID | None
    limit: int


def wanted(request: Request) -> Wanted:
    """Raises Invalid unless exactly one of user and order is named."""
    if bool(request.user_id) == bool(request.order_id):
        raise Invalid("INVALID_FIELD", "name either a user or an order", field="user_id")
    return Wanted(
        user_id=as_uuid(request.user_id, field="user_id") if request.user_id else None,
        order_id=as_uuid(request.order_id, field="order_id") if request.order_id else None,
        limit=in_range(request.limit or _DEFAULT_ENTRIES, field="limit", low=1, high=MAX_ENTRIES),
    )


def query(rows: str) -> TextClause:
    """The newest of a service's rows."""
    statement = f"SELECT * FROM ({rows}) AS happened ORDER BY at DESC, rank DESC, id DESC LIMIT :limit"
    return text(statement).bindparams(bindparam("user_id", type_=Uuid), bindparam("order_id", type_=Uuid))


async def read(connection: AsyncConnection, statement: TextClause, of: Wanted) -> Sequence[Entry]:
    """The newest entries, the oldest of them first."""
    rows = await connection.execute(
        statement, {"user_id": of.user_id, "order_id": of.order_id, "limit": of.limit}
    )
    return [
        Entry(row.at, row.kind, str(row.id), row.order_id, row.trace_id, _told(row.fields)) for row in rows
    ][::-1]


def _told(fields: Mapping[str, object]) -> Fields:
    """JSON's values as people write them."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in fields.items()
        if value is not None
    }


def as_message(
    service: str, entry: Entry, summaries: Mapping[str, Callable[[Fields], str]]
) -> timeline_pb2.TimelineEntry:
    """`summaries` says in one line what each kind means; `order.completed` is of the kind `order`."""
    at = Timestamp()
    at.FromDatetime(entry.at)
    return timeline_pb2.TimelineEntry(
        at=at,
        service=service,
        kind=entry.kind,
        id=entry.id,
        summary=summaries[entry.kind.partition(".")[0]](entry.fields),
        order_id=str(entry.order_id or ""),
        trace_id=entry.trace_id or "",
        fields=entry.fields,
    )
