"""Saga runs as operators see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.orders.models import saga_runs

OPEN = ("running", "undoing", "stuck")


@dataclass(frozen=True, slots=True)
class SeenRun:
    """One run, whoever drives it."""

    order_id: UUID
    saga: str
    user_id: UUID
    status: str
    step: str
    undo_reason: str | None
    attempts: int
    last_error: str | None
    next_attempt_at: datetime
    created_at: datetime
    updated_at: datetime
    is_leased: bool


_COLUMNS = (
    *(saga_runs.c[name] for name in SeenRun.__dataclass_fields__ if name != "is_leased"),
    func.coalesce(saga_runs.c.lease_until > func.now(), False).label("is_leased"),
)


async def list_runs(
    connection: AsyncConnection,
    *,
    statuses: Sequence[str],
    saga: str,
    limit: int,
    after: tuple[UUID, str] | None,
) -> Sequence[SeenRun]:
    """Runs in the order in which their orders were placed, `limit` of them behind `after`. `saga` is a name
    with or without its version; empty: all."""
    query = select(*_COLUMNS).where(saga_runs.c.status.in_(statuses))
    if saga:
        query = query.where(
            (saga_runs.c.saga == saga) | saga_runs.c.saga.startswith(f"{saga}/", autoescape=True)
        )
    if after is not None:
        query = query.where(tuple_(saga_runs.c.order_id, saga_runs.c.saga) > after)
    rows = await connection.execute(query.order_by(saga_runs.c.order_id, saga_runs.c.saga).limit(limit))
    return [SeenRun(**row._mapping) for row in rows]


async def runs_of(connection: AsyncConnection, order_id: UUID) -> Sequence[SeenRun]:
    """The runs of one order, the first one first."""
    query = select(*_COLUMNS).where(saga_runs.c.order_id == order_id).order_by(saga_runs.c.created_at)
    return [SeenRun(**row._mapping) for row in await connection.execute(query)]


async def find_run(connection: AsyncConnection, *, order_id: UUID, saga: str) -> SeenRun | None:
    query = select(*_COLUMNS).where(saga_runs.c.order_id == order_id, saga_runs.c.saga == saga)
    row = (await connection.execute(query)).one_or_none()
    return SeenRun(**row._mapping) if row else None
