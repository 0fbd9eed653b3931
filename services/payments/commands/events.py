"""The stored Stripe events: received once, claimed under a lease, finished, tried again, or set aside.

received ──► processed | ignored
    └──► failed ──► processed | ignored      the fast tries are spent: slowly, and on an operator's list
             └──► set_aside                  by an operator, or by rule; a replay makes it received again
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, func, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log, tracing
from services.chassis.db import FixedSql
from services.chassis.ids import uuid7
from services.payments import errors
from services.payments.errors import LeaseLost
from services.payments.findings import Effect
from services.payments.models import stripe_events

_MAX_ERROR_LENGTH = 500
# Stripe waits for this one: a statement that is a transaction of its own spares two round trips.
# What nobody handles is settled by it: it must not stand in the queue before a customer's points.
_RECEIVE = """
    INSERT INTO stripe_events (id, type, created, object_id, payment_intent_id, payload, status, processed_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, CASE WHEN %s THEN now() END) ON CONFLICT DO NOTHING"""
_UNSETTLED = ("received", "failed")
# Who sets aside when nobody does.
RULE = "rule"
# Any number that nobody else locks: 4_711 is the migrations, 4_712 the relay, 4_713 the audit log.
_RULE_LOCK = 4_729
_OF_EARLIER_TRIES = (
    "processed_at",
    "error",
    "failed_at",
    "set_aside_at",
    "set_aside_by",
    "set_aside_reason",
    "acknowledged_at",
)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is read of an event before it is stored. `created` is in Unix seconds."""

    id: str
    type: str
    created: int
    # Of a type that is handled, and of our own account.
    is_ours: bool = True
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
            "received" if envelope.is_ours else "ignored",
            not envelope.is_ours,
        ),
    )
    return cursor.rowcount == 1


async def claim_events(
    connection: AsyncConnection, *, limit: int, lease_seconds: float
) -> Sequence[ClaimedEvent]:
    """Leases events that are due, the longest waiting first; those that failed are in nobody's way."""
    due = (
        select(stripe_events.c.id)
        # As the index has it, so that every plan finds it.
        .where(text("status IN ('received', 'failed')"), stripe_events.c.lease_until <= func.now())
        .order_by(text("(status = 'failed')"), stripe_events.c.lease_until)
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
            stripe_events.c.status.in_(_UNSETTLED),
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
    connection: AsyncConnection, event: ClaimedEvent, *, error: str, delay_seconds: float, has_failed: bool
) -> None:
    """Keeps why an event failed and when it is tried again; once its fast tries are spent it `has_failed`."""
    failed = {"status": "failed", "failed_at": func.coalesce(stripe_events.c.failed_at, func.now())}
    await connection.execute(
        update(stripe_events)
        .where(stripe_events.c.id == event.id, stripe_events.c.lease_token == event.lease_token)
        .values(
            error=error[:_MAX_ERROR_LENGTH],
            lease_token=None,
            lease_until=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, literal(delay_seconds)),
            **(failed if has_failed else {}),
        )
    )


async def set_aside_event(connection: AsyncConnection, event_id: str, *, actor: str, reason: str) -> None:
    """An operator decides that an event will not be applied, or acknowledges what a rule set aside; once more
    changes nothing. Raises STRIPE_EVENT_NOT_FOUND, STRIPE_EVENT_BUSY, STRIPE_EVENT_SETTLED."""
    event = await _lock_event(connection, event_id)
    if event.status == "set_aside" and event.acknowledged_at is not None:
        return
    if event.status not in (*_UNSETTLED, "set_aside"):
        raise errors.stripe_event_settled(event.status)
    if event.is_leased:
        raise errors.stripe_event_busy()
    values = {"set_aside_by": actor, "set_aside_reason": reason, "acknowledged_at": func.now()}
    await _set_aside(connection, event_id, **values)
    await audit_log.append(
        connection,
        actor=actor,
        action="stripe_event.set_aside",
        subject=event_id,
        reason=reason,
        details={"type": event.type, "was": event.status, "error": event.error or ""},
    )


async def _lock_event(connection: AsyncConnection, event_id: str) -> Row[Any]:
    columns = stripe_events.c
    is_leased = columns.lease_token.is_not(None) & (columns.lease_until > func.now())
    query = select(
        columns.type, columns.status, columns.error, columns.acknowledged_at, is_leased.label("is_leased")
    )
    event = (await connection.execute(query.where(columns.id == event_id).with_for_update())).one_or_none()
    if event is None:
        raise errors.stripe_event_not_found()
    return event


async def _set_aside(connection: AsyncConnection, event_id: str, **values: Any) -> None:
    at = func.coalesce(stripe_events.c.set_aside_at, func.now())
    await connection.execute(
        update(stripe_events)
        .where(stripe_events.c.id == event_id)
        .values(status="set_aside", set_aside_at=at, processed_at=func.now(), lease_token=None, **values)
    )


async def set_aside_by_rule(
    connection: AsyncConnection, event: ClaimedEvent, *, error: str, at_most_an_hour: int
) -> bool:
    """Sets a claimed event aside until an operator acknowledges it; False when the rule has done so too often
    within the last hour: then something else is wrong than one object. LeaseLost when it was taken over."""
    recent = select(func.count()).where(
        stripe_events.c.set_aside_by == RULE, stripe_events.c.set_aside_at > func.now() - timedelta(hours=1)
    )
    # One at a time: two that count at once would both be the last.
    await connection.execute(select(func.pg_advisory_xact_lock(_RULE_LOCK)))
    if (await connection.execute(recent)).scalar_one() >= at_most_an_hour:
        return False
    held = select(stripe_events.c.id).where(
        stripe_events.c.id == event.id, stripe_events.c.lease_token == event.lease_token
    )
    if (await connection.execute(held.with_for_update())).one_or_none() is None:
        raise LeaseLost
    why = {"set_aside_by": RULE, "set_aside_reason": "Stripe has no such object", "acknowledged_at": None}
    await _set_aside(connection, event.id, error=error[:_MAX_ERROR_LENGTH], **why)
    await audit_log.append(
        connection,
        actor=RULE,
        action="stripe_event.set_aside",
        subject=event.id,
        reason="Stripe has no such object",
        details={"type": event.type, "error": error[:_MAX_ERROR_LENGTH], "attempts": event.attempts},
    )
    return True


async def replay_events(connection: AsyncConnection, chosen: ColumnElement[bool], *, limit: int) -> list[str]:
    """Makes events received again, except those that are being handled; returns their ids."""
    idle = stripe_events.c.lease_token.is_(None)
    ids = select(stripe_events.c.id).where(chosen, idle).order_by(stripe_events.c.received_at).limit(limit)
    rows = await connection.execute(
        update(stripe_events)
        .where(stripe_events.c.id == ids.with_for_update(skip_locked=True).cte("chosen").c.id)
        .values(
            status="received",
            attempts=0,
            lease_until=func.now(),
            **dict.fromkeys(_OF_EARLIER_TRIES),
        )
        .returning(stripe_events.c.id)
    )
    return [str(row[0]) for row in rows]
