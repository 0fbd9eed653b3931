"""Stripe's events, parked payments and reconciliation, for operators."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator

from gateway.backends import PAYMENTS_SECONDS
from gateway.openapi import BODY, PAGED, operator_problems
from gateway.problems import ProblemError
from gateway.routing import OperatorRoute, backends_of, customer_of
from gateway.schemas import (
    EVENT_ID_PATTERN,
    ApiModel,
    Cursor,
    EventId,
    Limit,
    Moment,
    QuarantineId,
    Reason,
    ReconciliationId,
    StrictBody,
    as_stamp,
    as_time,
)
from protos.payments.v1 import payments_pb2
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

EventStatus = Literal["received", "processed", "ignored", "failed", "set_aside"]
QuarantineStatus = Literal["parked", "fulfilled", "refunding", "refunded", "settled_outside", "written_off"]
ReconciliationStatus = Literal["running", "done"]

EVENT_STATUSES: dict[EventStatus, payments_pb2.StripeEventStatus.ValueType] = {
    "received": payments_pb2.STRIPE_EVENT_STATUS_RECEIVED,
    "processed": payments_pb2.STRIPE_EVENT_STATUS_PROCESSED,
    "ignored": payments_pb2.STRIPE_EVENT_STATUS_IGNORED,
    "failed": payments_pb2.STRIPE_EVENT_STATUS_FAILED,
    "set_aside": payments_pb2.STRIPE_EVENT_STATUS_SET_ASIDE,
}
QUARANTINE_STATUSES: dict[QuarantineStatus, payments_pb2.QuarantineStatus.ValueType] = {
    "parked": payments_pb2.QUARANTINE_STATUS_PARKED,
    "fulfilled": payments_pb2.QUARANTINE_STATUS_FULFILLED,
    "refunding": payments_pb2.QUARANTINE_STATUS_REFUNDING,
    "refunded": payments_pb2.QUARANTINE_STATUS_REFUNDED,
    "settled_outside": payments_pb2.QUARANTINE_STATUS_SETTLED_OUTSIDE,
    "written_off": payments_pb2.QUARANTINE_STATUS_WRITTEN_OFF,
}
RECONCILIATION_STATUSES: dict[int, ReconciliationStatus] = {
    payments_pb2.RECONCILIATION_STATUS_RUNNING: "running",
    payments_pb2.RECONCILIATION_STATUS_DONE: "done",
}
_EVENT_STATUS_NAMES: dict[int, EventStatus] = {number: name for name, number in EVENT_STATUSES.items()}
_QUARANTINE_STATUS_NAMES: dict[int, QuarantineStatus] = {
    number: name for name, number in QUARANTINE_STATUSES.items()
}
_ANY_EVENT = payments_pb2.STRIPE_EVENT_STATUS_UNSPECIFIED
_ANY_PAYMENT = payments_pb2.QUARANTINE_STATUS_UNSPECIFIED

EventType = Annotated[str, Field(max_length=255, description="A type, or charge.* for all charges.")]
StripeEventId = Annotated[str, Field(pattern=EVENT_ID_PATTERN)]


class Because(StrictBody):
    """Why; kept in the audit log."""

    reason: Reason


class Fulfilment(Because):
    """`points` are what is given for an invoice, or for what names no purchase; else it is left out.
    `reference` names how it was paid, where Stripe does not say; both are in the audit log."""

    points: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    reference: Annotated[str, Field(max_length=255)] = ""


class OutsideSettlement(Because):
    """`reference` names how the customer got it: the number of a transfer, say."""

    amount_cents: Annotated[int, Field(ge=1, le=99_999_999)]
    reference: Annotated[str, Field(min_length=1, max_length=255)]


class Effect(ApiModel):
    """Something that changed because of an event."""

    kind: str
    id: str
    change: str


class StripeEvent(ApiModel):
    """`createdAt` is Stripe's time; `error` says why the last try failed; `setAsideBy` is an operator or
    `rule`, whose decisions wait until an operator acknowledges them."""

    id: str
    type: str
    status: EventStatus
    object_id: str | None
    payment_intent_id: str | None
    attempts: int
    error: str | None
    created_at: datetime
    received_at: datetime
    processed_at: datetime | None
    failed_at: datetime | None
    set_aside_at: datetime | None
    set_aside_by: str | None
    set_aside_reason: str | None
    acknowledged_at: datetime | None
    effects: list[Effect]


class StripeEventInFull(StripeEvent):
    """`payload` is what Stripe signed."""

    payload: dict[str, Any]


class StripeEventPage(ApiModel):
    items: list[StripeEvent]
    next_cursor: str | None


class Replay(StrictBody):
    """Either `ids`, or those of `type` and `status` received from `since` on."""

    ids: Annotated[list[StripeEventId], Field(default_factory=list, max_length=1000)]
    type: EventType = ""
    status: EventStatus | None = None
    since: Moment | None = None
    reason: Reason

    @model_validator(mode="after")
    def _names_events_in_one_way(self) -> Self:
        """What is named twice would have to be guessed, and what is not named at all would be everything."""
        is_filter = bool(self.type or self.status or self.since)
        if bool(self.ids) == is_filter:
            raise ValueError("give either ids, or a type, a status or a time")
        return self


class Replayed(ApiModel):
    """The events that are handled again; those that are being handled right now are left out."""

    ids: list[str]


class QuarantinedPayment(ApiModel):
    """`userId`, `orderId` and `points` say whose payment it is and what it would give, as far as is known."""

    id: str
    reason: str
    status: QuarantineStatus
    session_id: str | None
    payment_intent_id: str | None
    invoice_id: str | None
    checkout_id: str | None
    amount_cents: int
    currency: str | None
    user_id: str | None
    order_id: str | None
    points: int
    created_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_reason: str | None
    # What is left of the amount: neither refunded nor lost to the bank, nor decided by an operator.
    due_cents: int
    settled_outside_cents: int
    settlement_reference: str | None
    written_off_cents: int


class QuarantinePage(ApiModel):
    items: list[QuarantinedPayment]
    next_cursor: str | None


class WantedReconciliation(StrictBody):
    """The last 24 hours without `since`; Stripe keeps events for 30 days."""

    since: Moment | None = None


class Drift(ApiModel):
    """What differed, by what it is about."""

    kind: str
    count: int


class Reconciliation(ApiModel):
    """`error` says why the last try stopped; it is tried again by itself."""

    id: str
    status: ReconciliationStatus
    since: datetime
    started_at: datetime
    finished_at: datetime | None
    events_seen: int
    events_missing: int
    objects_seen: int
    objects_changed: int
    percent: int
    drift: list[Drift]
    error: str | None


@router.get(
    "/api/admin/stripe/events",
    operation_id="listStripeEvents",
    responses=operator_problems(*PAGED, "invalid_request"),
)
async def list_stripe_events(
    request: Request,
    event_type: Annotated[EventType, Query(alias="type")] = "",
    status: EventStatus | None = None,
    search: Annotated[
        str, Query(max_length=255, description="An id: the event's, its object's or the payment intent's.")
    ] = "",
    since: Annotated[Moment | None, Query(description="Received at or after this time.")] = None,
    limit: Limit = 20,
    cursor: Cursor = "",
) -> StripeEventPage:
    """What Stripe told the shop, newest first."""
    answer = await call(
        backends_of(request).payments_operator.ListStripeEvents,
        payments_pb2.ListStripeEventsRequest(
            type=event_type,
            status=EVENT_STATUSES[status] if status else _ANY_EVENT,
            search=search,
            since=as_stamp(since),
            limit=limit,
            cursor=cursor,
        ),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return StripeEventPage(
        items=[_as_event(event) for event in answer.items],
        next_cursor=answer.next_cursor or None,
    )


@router.get(
    "/api/admin/stripe/events/{eventId}",
    operation_id="getStripeEvent",
    response_model=StripeEventInFull,
    responses=operator_problems("stripe_event_not_found"),
)
async def get_stripe_event(request: Request, event_id: EventId) -> Response:
    """One event, with what Stripe said and what it caused."""
    answer = await _find_event(request, event_id)
    event = _as_event(answer.event).model_dump(mode="json", by_alias=True)
    # As it was signed: read and written again, a huge number or half a surrogate pair would not survive.
    body = orjson.dumps(event | {"payload": orjson.Fragment(answer.payload)})
    return Response(body, media_type="application/json")


@router.post(
    "/api/admin/stripe/events/{eventId}/replay",
    operation_id="replayStripeEvent",
    responses=operator_problems(*BODY, "stripe_event_not_found", "stripe_event_busy"),
)
async def replay_stripe_event(request: Request, event_id: EventId, body: Because) -> Replayed:
    """Handles one event once more; effects that exist are not made again."""
    await _find_event(request, event_id)
    replayed = await _replay(
        request, payments_pb2.ReplayStripeEventsRequest(ids=[event_id], reason=body.reason)
    )
    if not replayed.ids:
        raise ProblemError("stripe_event_busy")
    return replayed


@router.post(
    "/api/admin/stripe/events/{eventId}/set-aside",
    operation_id="setAsideStripeEvent",
    responses=operator_problems(*BODY, "stripe_event_not_found", "stripe_event_busy", "stripe_event_settled"),
)
async def set_aside_stripe_event(request: Request, event_id: EventId, body: Because) -> StripeEvent:
    """Decides that an event will not be applied, or acknowledges that a rule set it aside; a replay takes it
    up again. Done before changes nothing."""
    answer = await call(
        backends_of(request).payments_operator.SetAsideStripeEvent,
        payments_pb2.SetAsideStripeEventRequest(
            id=event_id, actor=customer_of(request).user_id, reason=body.reason
        ),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return _as_event(answer.event)


@router.post(
    "/api/admin/stripe/events/replay",
    operation_id="replayStripeEvents",
    responses=operator_problems(*BODY),
)
async def replay_stripe_events(request: Request, body: Replay) -> Replayed:
    """Handles events once more, 1000 at most; effects that exist are not made again."""
    return await _replay(
        request,
        payments_pb2.ReplayStripeEventsRequest(
            ids=body.ids,
            type=body.type,
            status=EVENT_STATUSES[body.status] if body.status else _ANY_EVENT,
            since=as_stamp(body.since),
            reason=body.reason,
        ),
    )


@router.get(
    "/api/admin/quarantine",
    operation_id="listQuarantine",
    responses=operator_problems(*PAGED, "invalid_request"),
)
async def list_quarantine(
    request: Request, status: QuarantineStatus | None = None, limit: Limit = 20, cursor: Cursor = ""
) -> QuarantinePage:
    """Money that came and fits nothing, newest first."""
    answer = await call(
        backends_of(request).payments_operator.ListQuarantine,
        payments_pb2.ListQuarantineRequest(
            status=QUARANTINE_STATUSES[status] if status else _ANY_PAYMENT,
            limit=limit,
            cursor=cursor,
        ),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return QuarantinePage(
        items=[_as_parked(payment) for payment in answer.items], next_cursor=answer.next_cursor or None
    )


@router.post(
    "/api/admin/quarantine/{quarantineId}/fulfil",
    operation_id="fulfilQuarantined",
    responses=operator_problems(*BODY, "quarantine_not_found", "quarantine_resolved", "cannot_fulfil"),
)
async def fulfil_quarantined(
    request: Request, quarantine_id: QuarantineId, body: Fulfilment
) -> QuarantinedPayment:
    """Gives what was paid for; done before changes nothing. Of an invoice, and of what names no purchase, the
    operator states the points."""
    resolution = payments_pb2.QUARANTINE_RESOLUTION_FULFIL
    more = {"points": body.points, "reference": body.reference}
    return await _resolve(request, quarantine_id, resolution, body, **more)


@router.post(
    "/api/admin/quarantine/{quarantineId}/refund",
    operation_id="refundQuarantined",
    responses=operator_problems(
        *BODY, "quarantine_not_found", "quarantine_resolved", "payment_disputed", "nothing_at_stripe"
    ),
)
async def refund_quarantined(
    request: Request, quarantine_id: QuarantineId, body: Because
) -> QuarantinedPayment:
    """Gives back what the customer is due and Stripe still has; done before changes nothing."""
    return await _resolve(request, quarantine_id, payments_pb2.QUARANTINE_RESOLUTION_REFUND, body)


@router.post(
    "/api/admin/quarantine/{quarantineId}/settle-outside",
    operation_id="settleQuarantinedOutside",
    responses=operator_problems(
        *BODY,
        "quarantine_not_found",
        "quarantine_resolved",
        "payment_disputed",
        "settlement_exceeds_due",
        "settlement_mismatch",
    ),
)
async def settle_quarantined_outside(
    request: Request, quarantine_id: QuarantineId, body: OutsideSettlement
) -> QuarantinedPayment:
    """The customer got so much in another way; the same reference counts once. What is left stays parked."""
    return await _resolve(
        request,
        quarantine_id,
        payments_pb2.QUARANTINE_RESOLUTION_SETTLED_OUTSIDE,
        body,
        amount_cents=body.amount_cents,
        reference=body.reference,
    )


@router.post(
    "/api/admin/quarantine/{quarantineId}/write-off",
    operation_id="writeOffQuarantined",
    responses=operator_problems(*BODY, "quarantine_not_found", "quarantine_resolved", "payment_disputed"),
)
async def write_off_quarantined(
    request: Request, quarantine_id: QuarantineId, body: Because
) -> QuarantinedPayment:
    """The shop keeps what the customer is still due; done before changes nothing."""
    return await _resolve(request, quarantine_id, payments_pb2.QUARANTINE_RESOLUTION_WRITTEN_OFF, body)


@router.post(
    "/api/admin/reconciliations",
    status_code=202,
    operation_id="startReconciliation",
    responses=operator_problems(*BODY),
)
async def start_reconciliation(
    request: Request, response: Response, body: WantedReconciliation | None = None
) -> Reconciliation:
    """Compares the shop with Stripe in the background; one comparison at a time for each operator."""
    answer = await call(
        backends_of(request).payments_operator.StartReconciliation,
        payments_pb2.StartReconciliationRequest(
            since=as_stamp(body.since) if body else None, actor=customer_of(request).user_id
        ),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    response.headers["Location"] = f"/api/admin/reconciliations/{answer.reconciliation.id}"
    return _as_reconciliation(answer.reconciliation)


@router.get(
    "/api/admin/reconciliations/{reconciliationId}",
    operation_id="getReconciliation",
    responses=operator_problems("reconciliation_not_found"),
)
async def get_reconciliation(request: Request, reconciliation_id: ReconciliationId) -> Reconciliation:
    """How far a comparison is, and what it found."""
    answer = await call(
        backends_of(request).payments_operator.GetReconciliation,
        payments_pb2.GetReconciliationRequest(id=reconciliation_id),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return _as_reconciliation(answer.reconciliation)


async def _find_event(request: Request, event_id: str) -> payments_pb2.GetStripeEventResponse:
    answer: payments_pb2.GetStripeEventResponse = await call(
        backends_of(request).payments_operator.GetStripeEvent,
        payments_pb2.GetStripeEventRequest(id=event_id),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return answer


async def _replay(request: Request, wanted: payments_pb2.ReplayStripeEventsRequest) -> Replayed:
    wanted.actor = customer_of(request).user_id
    answer = await call(
        backends_of(request).payments_operator.ReplayStripeEvents, wanted, timeout_seconds=PAYMENTS_SECONDS
    )
    return Replayed(ids=list(answer.ids))


async def _resolve(
    request: Request,
    quarantine_id: str,
    resolution: payments_pb2.QuarantineResolution.ValueType,
    body: Because,
    **more: Any,
) -> QuarantinedPayment:
    answer = await call(
        backends_of(request).payments_operator.ResolveQuarantine,
        payments_pb2.ResolveQuarantineRequest(
            id=quarantine_id,
            resolution=resolution,
            actor=customer_of(request).user_id,
            reason=body.reason,
            **more,
        ),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return _as_parked(answer.payment)


def _as_event(event: payments_pb2.StripeEvent) -> StripeEvent:
    return StripeEvent(
        id=event.id,
        type=event.type,
        status=_EVENT_STATUS_NAMES[event.status],
        object_id=event.object_id or None,
        payment_intent_id=event.payment_intent_id or None,
        attempts=event.attempts,
        error=event.error or None,
        created_at=as_time(event.created_at),
        received_at=as_time(event.received_at),
        processed_at=as_time(event.processed_at) if event.HasField("processed_at") else None,
        failed_at=as_time(event.failed_at) if event.HasField("failed_at") else None,
        set_aside_at=as_time(event.set_aside_at) if event.HasField("set_aside_at") else None,
        set_aside_by=event.set_aside_by or None,
        set_aside_reason=event.set_aside_reason or None,
        acknowledged_at=as_time(event.acknowledged_at) if event.HasField("acknowledged_at") else None,
        effects=[Effect(kind=effect.kind, id=effect.id, change=effect.change) for effect in event.effects],
    )


def _as_parked(payment: payments_pb2.QuarantinedPayment) -> QuarantinedPayment:
    return QuarantinedPayment(
        id=payment.id,
        reason=payment.reason,
        status=_QUARANTINE_STATUS_NAMES[payment.status],
        session_id=payment.session_id or None,
        payment_intent_id=payment.payment_intent_id or None,
        invoice_id=payment.invoice_id or None,
        checkout_id=payment.checkout_id or None,
        amount_cents=payment.amount_cents,
        currency=payment.currency or None,
        user_id=payment.user_id or None,
        order_id=payment.order_id or None,
        points=payment.points,
        created_at=as_time(payment.created_at),
        resolved_at=as_time(payment.resolved_at) if payment.HasField("resolved_at") else None,
        resolved_by=payment.resolved_by or None,
        resolution_reason=payment.resolution_reason or None,
        due_cents=payment.due_cents,
        settled_outside_cents=payment.settled_outside_cents,
        settlement_reference=payment.settlement_reference or None,
        written_off_cents=payment.written_off_cents,
    )


def _as_reconciliation(run: payments_pb2.Reconciliation) -> Reconciliation:
    return Reconciliation(
        id=run.id,
        status=RECONCILIATION_STATUSES[run.status],
        since=as_time(run.since),
        started_at=as_time(run.started_at),
        finished_at=as_time(run.finished_at) if run.HasField("finished_at") else None,
        events_seen=run.events_seen,
        events_missing=run.events_missing,
        objects_seen=run.objects_seen,
        objects_changed=run.objects_changed,
        percent=run.percent,
        drift=[Drift(kind=drift.kind, count=drift.count) for drift in run.drift],
        error=run.error or None,
    )
