"""Messages that a service could not handle, and the operator's word about each."""

import asyncio
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request

from gateway.backends import DEAD_LETTER_SECONDS
from gateway.openapi import BODY, PAGED, operator_problems
from gateway.routes.admin_payments import Because
from gateway.routing import OperatorRoute, backends_of, customer_of
from gateway.schemas import ApiModel, Cursor, Limit, as_time
from protos.messaging.v1 import messaging_pb2
from services.chassis import cursor as keyset
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

Service = Literal["orders", "wallet"]
_SERVICES: tuple[Service, ...] = ("orders", "wallet")
LetterId = Annotated[str, Path(alias="deadLetterId", json_schema_extra={"format": "uuid"})]


class DeadLetter(ApiModel):
    """`messageId` is the row of the sender's outbox."""

    service: Service
    id: str
    consumer: str
    message_id: str
    subject: str
    error: str
    size_bytes: int
    created_at: datetime
    decision: Literal["redelivered", "dropped"] | None


class DeadLetterPage(ApiModel):
    items: list[DeadLetter]
    next_cursor: str | None


@router.get(
    "/api/admin/dead-letters",
    operation_id="listDeadLetters",
    responses=operator_problems(*PAGED, "invalid_request"),
)
async def list_dead_letters(request: Request, limit: Limit = 20, cursor: Cursor = "") -> DeadLetterPage:
    """Messages of all services that could never be handled and about which nothing is decided, the newest
    first."""
    before = keyset.decode_id(cursor)
    asked = messaging_pb2.ListDeadLettersRequest(limit=limit + 1, before_id=str(before or ""))
    stubs = backends_of(request).dead_letters
    answers = await asyncio.gather(
        *(
            call(stubs[service].ListDeadLetters, asked, timeout_seconds=DEAD_LETTER_SECONDS)
            for service in _SERVICES
        )
    )
    found = [
        _as_letter(service, letter)
        for service, answer in zip(_SERVICES, answers, strict=True)
        for letter in answer.letters
    ]
    # Their ids begin with the time, in every service.
    found.sort(key=lambda letter: letter.id, reverse=True)
    page = found[:limit]
    return DeadLetterPage(items=page, next_cursor=keyset.encode(page[-1].id) if len(found) > limit else None)


_ERRORS = ("dead_letter_not_found", "dead_letter_decided")


@router.post(
    "/api/admin/dead-letters/{service}/{deadLetterId}/redeliver",
    operation_id="redeliverDeadLetter",
    responses=operator_problems(*BODY, *_ERRORS, "dead_letter_rejected"),
)
async def redeliver_dead_letter(
    request: Request, service: Service, letter_id: LetterId, body: Because
) -> DeadLetter:
    """Has a message handled after all, once what was wrong is mended."""
    return await _decide(request, service, letter_id, messaging_pb2.DEAD_LETTER_DECISION_REDELIVER, body)


@router.post(
    "/api/admin/dead-letters/{service}/{deadLetterId}/drop",
    operation_id="dropDeadLetter",
    responses=operator_problems(*BODY, *_ERRORS),
)
async def drop_dead_letter(
    request: Request, service: Service, letter_id: LetterId, body: Because
) -> DeadLetter:
    """Says that a message will never be handled: what it told of is known, or settled otherwise."""
    return await _decide(request, service, letter_id, messaging_pb2.DEAD_LETTER_DECISION_DROP, body)


async def _decide(
    request: Request,
    service: Service,
    letter_id: str,
    decision: messaging_pb2.DeadLetterDecision.ValueType,
    body: Because,
) -> DeadLetter:
    answer = await call(
        backends_of(request).dead_letters[service].DecideDeadLetter,
        messaging_pb2.DecideDeadLetterRequest(
            letter_id=letter_id,
            actor=customer_of(request).user_id,
            reason=body.reason,
            decision=decision,
        ),
        timeout_seconds=DEAD_LETTER_SECONDS,
    )
    return _as_letter(service, answer.letter)


def _as_letter(service: Service, letter: messaging_pb2.DeadLetter) -> DeadLetter:
    decision: Literal["redelivered", "dropped"] | None = None
    if letter.decision:
        decision = "redelivered" if letter.decision == "redelivered" else "dropped"
    return DeadLetter(
        service=service,
        id=letter.id,
        consumer=letter.consumer,
        message_id=letter.message_id,
        subject=letter.subject,
        error=letter.error,
        size_bytes=letter.size_bytes,
        created_at=as_time(letter.created_at),
        decision=decision,
    )
