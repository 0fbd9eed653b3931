"""Saga runs in the database: claimed under a lease, every write guarded by the lease's token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import tracing
from services.chassis.db import FixedSql
from services.orders.models import saga_runs
from services.orders.queries.orders import Order

RUNNING, UNDOING, DONE, UNDONE, STUCK = "running", "undoing", "done", "undone", "stuck"

_FINISH_MANY = """
    UPDATE saga_runs r SET status = 'done', lease_token = NULL, lease_until = NULL, updated_at = now()
    FROM unnest(%s::uuid[], %s::uuid[]) AS d (order_id, lease_token)
    WHERE r.order_id = d.order_id AND r.saga = %s AND r.step = %s AND r.lease_token = d.lease_token
        AND r.status = 'running'"""


@dataclass(frozen=True, slots=True)
class Run:
    """One saga of one order, as its holder last wrote it."""

    order_id: UUID
    saga: str
    user_id: UUID
    status: str
    step: str
    undo_reason: str | None
    attempts: int
    lease_token: UUID
    # W3C: the trace of whoever began it.
    traceparent: str | None = None
    # Spares the request that placed the order reading it again; never persisted.
    order: Order | None = None

    def at(self, step: str) -> "Run":
        return replace(self, step=step, attempts=0)


_COLUMNS = [saga_runs.c[name] for name in Run.__dataclass_fields__ if name != "order"]


def _run(row: Row[tuple[object, ...]]) -> Run:
    return Run(**row._mapping)


def _is(order_id: UUID, saga: str) -> ColumnElement[bool]:
    return and_(saga_runs.c.order_id == order_id, saga_runs.c.saga == saga)


async def claim_due(
    connection: AsyncConnection, *, lease_token: UUID, lease_seconds: float, limit: int
) -> Sequence[Run]:
    """Takes runs whose time has come and whose lease, if any, has expired."""
    due = (
        select(saga_runs.c.order_id, saga_runs.c.saga)
        .where(
            saga_runs.c.status.in_([RUNNING, UNDOING]),
            saga_runs.c.next_attempt_at <= func.now(),
            or_(saga_runs.c.lease_until.is_(None), saga_runs.c.lease_until < func.now()),
        )
        .order_by(saga_runs.c.next_attempt_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    claimed = await connection.execute(
        update(saga_runs)
        .where(tuple_(saga_runs.c.order_id, saga_runs.c.saga).in_(due))
        .values(
            lease_token=lease_token,
            lease_until=func.now() + _seconds(lease_seconds),
            updated_at=func.now(),
        )
        .returning(*_COLUMNS)
    )
    return [_run(row) for row in claimed]


async def lock_run(connection: AsyncConnection, *, order_id: UUID, saga: str) -> Run | None:
    """The run with its row locked. Always locked before its order, as the pivot does."""
    query = select(*_COLUMNS).where(_is(order_id, saga)).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _run(row)


async def take_over_to_undo(
    connection: AsyncConnection, run: Run, *, reason: str, lease_token: UUID, lease_seconds: float
) -> Run:
    """Turns a locked run around under a new lease: its former holder's writes are refused from now on."""
    values = {"status": UNDOING, "undo_reason": reason, "attempts": 0, "lease_token": lease_token}
    await connection.execute(
        update(saga_runs)
        .where(_is(run.order_id, run.saga))
        .values(
            **values,
            lease_until=func.now() + _seconds(lease_seconds),
            next_attempt_at=func.now(),
            updated_at=func.now(),
        )
    )
    return replace(run, status=UNDOING, undo_reason=reason, attempts=0, lease_token=lease_token)


async def wait_at(
    connection: AsyncConnection,
    run: Run,
    *,
    step: str,
    seconds: float,
    since: datetime | None = None,
    error: str | None = None,
) -> bool:
    """Gives the lease back until the step's next attempt, so long after `since` (now); False when the run is
    no longer ours."""
    attempts = 0 if error is None else run.attempts + 1
    result = await connection.execute(
        update(saga_runs)
        .where(_is(run.order_id, run.saga), saga_runs.c.lease_token == run.lease_token)
        .values(
            step=step,
            attempts=attempts,
            last_error=error,
            next_attempt_at=(since or func.now()) + _seconds(seconds),
            lease_token=None,
            lease_until=None,
            updated_at=func.now(),
        )
    )
    return result.rowcount == 1


async def sleep(connection: AsyncConnection, run: Run, *, step: str, seconds: float) -> None:
    """Puts a locked run to sleep at a step, whoever held it; one that was being undone goes forward again."""
    await connection.execute(
        update(saga_runs)
        .where(_is(run.order_id, run.saga))
        .values(
            status=RUNNING,
            step=step,
            undo_reason=None,
            attempts=0,
            next_attempt_at=func.now() + _seconds(seconds),
            lease_token=None,
            lease_until=None,
            updated_at=func.now(),
        )
    )


async def start_undo(connection: AsyncConnection, run: Run, *, reason: str, error: str) -> Run | None:
    """Decides that the run is undone, this step too; None when the run is no longer ours."""
    result = await connection.execute(
        update(saga_runs)
        .where(
            _is(run.order_id, run.saga),
            saga_runs.c.lease_token == run.lease_token,
            saga_runs.c.status == RUNNING,
        )
        .values(status=UNDOING, undo_reason=reason, attempts=0, last_error=error, updated_at=func.now())
    )
    return replace(run, status=UNDOING, undo_reason=reason, attempts=0) if result.rowcount else None


async def is_ours(connection: AsyncConnection, run: Run) -> bool:
    """Locks the run; False when another holder took it or it has ended."""
    held = await lock_run(connection, order_id=run.order_id, saga=run.saga)
    return held is not None and held.lease_token == run.lease_token and held.status in (RUNNING, UNDOING)


async def finish(
    connection: AsyncConnection, *, order_id: UUID, saga: str, status: str, error: str | None = None
) -> None:
    """Ends a locked run: done, undone, or stuck (then an operator decides)."""
    await connection.execute(
        update(saga_runs)
        .where(_is(order_id, saga))
        .values(
            status=status,
            last_error=error,
            lease_token=None,
            lease_until=None,
            updated_at=func.now(),
        )
    )


async def finish_many(connection: FixedSql, runs: Sequence[Run], *, saga: str, step: str) -> None:
    """Ends a batch of runs whose last step is done."""
    tokens = [run.lease_token for run in runs]
    await connection.execute(_FINISH_MANY, ([run.order_id for run in runs], tokens, saga, step))


async def do_again(connection: AsyncConnection, run: Run, *, step: str) -> None:
    """Brings a locked run back to a step, due now: for a hold that is asked about once more."""
    await connection.execute(
        update(saga_runs)
        .where(_is(run.order_id, run.saga))
        .values(status=RUNNING, step=step, attempts=0, next_attempt_at=func.now(), updated_at=func.now())
    )


async def start_orphan_release(
    connection: AsyncConnection, *, order_id: UUID, user_id: UUID, saga: str, reason: str
) -> None:
    """A run that only undoes: for a hold whose order does not exist. Idempotent."""
    await connection.execute(
        pg_insert(saga_runs)
        .values(
            order_id=order_id,
            user_id=user_id,
            saga=saga,
            status=UNDOING,
            step="",
            undo_reason=reason,
            traceparent=tracing.current(),
        )
        .on_conflict_do_update(
            index_elements=[saga_runs.c.order_id, saga_runs.c.saga],
            set_={"status": UNDOING, "next_attempt_at": func.now()},
            where=saga_runs.c.status == UNDONE,
        )
    )


async def begin_or_resume(
    connection: AsyncConnection, *, order_id: UUID, user_id: UUID, saga: str, step: str
) -> None:
    """Makes sure that a run is under way, due now: it begins, it begins again after its end, or it goes on.
    Locks the run, so that whoever ends it meanwhile is seen."""
    fresh = {
        "status": RUNNING,
        "step": step,
        "attempts": 0,
        "last_error": None,
        "next_attempt_at": func.now(),
        "traceparent": tracing.current(),
    }
    await connection.execute(
        pg_insert(saga_runs)
        .values(
            order_id=order_id,
            user_id=user_id,
            saga=saga,
            status=RUNNING,
            step=step,
            traceparent=tracing.current(),
        )
        .on_conflict_do_update(
            index_elements=[saga_runs.c.order_id, saga_runs.c.saga],
            set_={
                **fresh,
                "next_attempt_at": func.now(),
                "lease_token": None,
                "lease_until": None,
                "updated_at": func.now(),
            },
            where=saga_runs.c.status != RUNNING,
        )
    )


async def retry(connection: AsyncConnection, run: Run) -> None:
    """Makes a locked run due now; a stuck one goes on where it stood, forward or back."""
    status = RUNNING if run.undo_reason is None else UNDOING
    await connection.execute(
        update(saga_runs)
        .where(_is(run.order_id, run.saga))
        .values(
            status=status if run.status == STUCK else run.status,
            attempts=0,
            next_attempt_at=func.now(),
            updated_at=func.now(),
        )
    )


async def find_status(connection: AsyncConnection, *, order_id: UUID, saga: str) -> str | None:
    """How a run stands; None when there is none."""
    return await connection.scalar(select(saga_runs.c.status).where(_is(order_id, saga)))


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
