"""Dead letters, and what an operator decides about them: handled after all, or dropped.

A dead letter (consumer.py) has its message with it and its inbox row beside it, so that no copy of it takes
effect any more. Redelivered, it is handed to the handler as by the consumer, in one transaction with the
decision and its audit entry: nothing is published again, and no row is written by hand. What is decided
stays, as evidence; alerts and lists are about what is not.
"""

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import column, func, select, table, update
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.messaging.v1 import messaging_pb2, messaging_pb2_grpc
from services.chassis import audit_log
from services.chassis.consumer import Subscription
from services.chassis.db import Database
from services.chassis.errors import Conflict, DomainError, Invalid, NotFound, Unavailable
from services.chassis.fields import as_text, as_uuid, in_range

_MAX_LETTERS = 101
_LONGEST_REASON = 500
_LONGEST_ACTOR = 255
_REDELIVERED = "redelivered"
_DECISIONS = {
    messaging_pb2.DEAD_LETTER_DECISION_REDELIVER: _REDELIVERED,
    messaging_pb2.DEAD_LETTER_DECISION_DROP: "dropped",
}

_letters = table(
    "dead_letters",
    *(
        column(name)
        for name in ("id", "consumer", "message_id", "subject", "payload", "error", "created_at", "decision")
    ),
    column("decided_at"),
)


class DeadLetters(messaging_pb2_grpc.DeadLetterServiceServicer):
    """One service's; the gateway shows those of all as one list."""

    def __init__(
        self,
        database: Database,
        subscriptions: Sequence[Subscription],
        *,
        after_commit: Callable[[], None],
    ) -> None:
        self._database = database
        self._subscriptions = {each.durable: each for each in subscriptions}
        self._after_commit = after_commit

    async def ListDeadLetters(
        self, request: messaging_pb2.ListDeadLettersRequest, _context: Any
    ) -> messaging_pb2.ListDeadLettersResponse:
        """Those about which nothing is decided, the newest first."""
        limit = in_range(request.limit, field="limit", low=1, high=_MAX_LETTERS)
        query = select(_letters).where(_letters.c.decision.is_(None)).order_by(_letters.c.id.desc())
        if request.before_id:
            query = query.where(_letters.c.id < as_uuid(request.before_id, field="before_id"))
        async with self._database.worker() as connection:
            found = (await connection.execute(query.limit(limit))).all()
        return messaging_pb2.ListDeadLettersResponse(letters=[_as_message(row) for row in found])

    async def DecideDeadLetter(
        self, request: messaging_pb2.DecideDeadLetterRequest, _context: Any
    ) -> messaging_pb2.DecideDeadLetterResponse:
        decision = _DECISIONS.get(request.decision)
        if decision is None:
            raise Invalid("INVALID_FIELD", "decision must be REDELIVER or DROP", field="decision")
        async with self._database.worker() as connection:
            letter = await _locked(connection, request)
            if decision == _REDELIVERED:
                await self._handle(connection, letter)
            decided = await _decide(connection, letter, decision, request)
        self._after_commit()
        return messaging_pb2.DecideDeadLetterResponse(letter=decided)

    async def _handle(self, connection: AsyncConnection, letter: Any) -> None:
        """Raises Conflict when it can still not be handled: nothing is changed then."""
        subscription = self._subscriptions.get(letter.consumer)
        if subscription is None:
            raise _still_dead(letter, f"nobody listens as {letter.consumer} any more")
        try:
            event = subscription.event.FromString(letter.payload)
            await subscription.handle(connection, event)
        except Unavailable:
            raise
        except (DecodeError, DomainError) as error:
            raise _still_dead(letter, str(error)) from error


async def _locked(connection: AsyncConnection, request: messaging_pb2.DecideDeadLetterRequest) -> Any:
    letter_id = as_uuid(request.letter_id, field="letter_id")
    query = select(_letters).where(_letters.c.id == letter_id).with_for_update()
    letter = (await connection.execute(query)).one_or_none()
    if letter is None:
        raise NotFound("DEAD_LETTER_NOT_FOUND", "there is no such dead letter", letter_id=letter_id)
    if letter.decision is not None:
        raise Conflict("DEAD_LETTER_DECIDED", f"it was {letter.decision} already", letter_id=letter_id)
    return letter


async def _decide(
    connection: AsyncConnection,
    letter: Any,
    decision: str,
    request: messaging_pb2.DecideDeadLetterRequest,
) -> messaging_pb2.DeadLetter:
    decided = (
        await connection.execute(
            update(_letters)
            .where(_letters.c.id == letter.id)
            .values(decision=decision, decided_at=func.now())
            .returning(*_letters.c)
        )
    ).one()
    await audit_log.append(
        connection,
        actor=as_text(request.actor, field="actor", longest=_LONGEST_ACTOR),
        action=f"dead_letter.{decision}",
        subject=str(letter.id),
        reason=as_text(request.reason, field="reason", longest=_LONGEST_REASON),
        details={"consumer": letter.consumer, "message_id": letter.message_id, "error": letter.error},
    )
    return _as_message(decided)


def _still_dead(letter: Any, why: str) -> Conflict:
    return Conflict("DEAD_LETTER_REJECTED", f"it can still not be handled: {why}", letter_id=letter.id)


def _as_message(row: Any) -> messaging_pb2.DeadLetter:
    created_at = Timestamp()
    created_at.FromDatetime(row.created_at)
    return messaging_pb2.DeadLetter(
        id=str(row.id),
        consumer=row.consumer,
        message_id=row.message_id,
        subject=row.subject,
        error=row.error,
        size_bytes=len(row.payload),
        created_at=created_at,
        decision=row.decision or "",
    )
