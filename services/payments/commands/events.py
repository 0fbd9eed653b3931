"""The stored Stripe events: received once, claimed under a lease, finished or tried again."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import tracing
from services.chassis.db import FixedSql
from services.chassis.ids import uuid7
from services.payments.errors import LeaseLost
from services.payments.findings import Effect
from services.payments.models import stripe_events

_MAX_ERROR_LENGTH = 500
# Stripe waits for this one: a statement that is a transaction of its own spares two round trips.
_RECEIVE = """
    INSERT INTO stripe_events (id, type, created, object_id, payment_intent_id, payload)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is read of an event before it is stored. `created` is in Unix seconds."""

    id: str
    type: str
    created: int
    # Stripe's ids of what it is about, where they are short enough to be ids.
    object_id: str | None = None
    payment_intent_id: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimedEvent:
    id: str
    type: str
    payload: bytes
    attempts: int
    lease_token: UUID
    received_at: datetime


async def receive_event(connection: FixedSql, envelope: Envelope, *, sealed_payload: bytes) -> bool:
    """Keeps an event, in one statement; False when it was known."""
    cursor = await connection.execute(
        _RECEIVE,
        (
            envelope.id,
            envelope.type,
            datetime.fromtimestamp(envelope.created, UTC),
            envelope.object_id,
            envelope.payment_intent_id,
            sealed_payload,
        ),
    )
    return cursor.rowcount == 1


async def claim_events(
    connection: AsyncConnection, *, limit: int, lease_seconds: float
) -> Sequence[ClaimedEvent]:
    """Leases events that are due, the longest waiting first."""
    due = (
        select(stripe_events.c.id)
        .where(stripe_events.c.status == "received", stripe_events.c.lease_until <= func.now())
        .order_by(stripe_events.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    token = uuid7()
    rows = await connection.execute(
        update(stripe_events)
        .where(stripe_events.c.id.in_(due))
        .values(
            lease_token=token,
            lease_until=func.now() + timedelta(seconds=lease_seconds),
            attempts=stripe_events.c.attempts + 1,
        )
        .returning(
            stripe_events.c.id,
            stripe_events.c.type,
            stripe_events.c.payload,
            stripe_events.c.attempts,
            stripe_events.c.lease_token,
            stripe_events.c.received_at,
        )
    )
    return [ClaimedEvent(**row._mapping) for row in rows]


async def finish_event(
    connection: AsyncConnection, event: ClaimedEvent, *, ignored: bool, effects: Sequence[Effect]
) -> None:
    """Marks the event in the transaction of its effects; LeaseLost rolls them back when another worker
    has taken it over."""
    result = await connection.execute(
        update(stripe_events)
        .where(
            stripe_events.c.id == event.id,
            stripe_events.c.lease_token == event.lease_token,
            stripe_events.c.status == "received",
        )
        .values(
            status="ignored" if ignored else "processed",
            processed_at=func.now(),
            lease_token=None,
            error=None,
            trace_id=tracing.trace_id(),
            # A replay that finds everything done keeps what the first time caused.
            **({"effects": [asdict(effect) for effect in effects]} if effects else {}),
        )
    )
    if result.rowcount != 1:
        raise LeaseLost


async def retry_event(
    connection: AsyncConnection, event: ClaimedEvent, *, error: str, delay_seconds: float
) -> None:
    """Keeps why an event failed and when it is tried again."""
    await connection.execute(
        update(stripe_events)
        .where(stripe_events.c.id == event.id, stripe_events.c.lease_token == event.lease_token)
        .values(
            error=error[:_MAX_ERROR_LENGTH],
            lease_token=None,
            lease_until=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, literal(delay_seconds)),
        )
    )


async def replay_events(connection: AsyncConnection, chosen: ColumnElement[bool], *, limit: int) -> list[str]:
    """Makes events received again, except those that are being handled; returns their ids."""
    idle = stripe_events.c.lease_token.is_(None)
    ids = select(stripe_events.c.id).where(chosen, idle).order_by(stripe_events.c.received_at).limit(limit)
    rows = await connection.execute(
        update(stripe_events)
        .where(stripe_events.c.id == ids.with_for_update(skip_locked=True).cte("chosen").c.id)
        .values(status="received", processed_at=None, attempts=0, error=None, lease_until=func.now())
        .returning(stripe_events.c.id)
    )
    return [str(row[0]) for row in rows]
