"""Everything that happened to a user or an order, in all services: the answer to 'why was I charged?'."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from gateway.backends import ORDERS_SECONDS, PAYMENTS_SECONDS, WALLET_SECONDS
from gateway.openapi import operator_problems
from gateway.problems import ProblemError
from gateway.routing import OperatorRoute, backends_of
from gateway.schemas import ApiModel, UuidText, as_time
from protos.orders.v1 import orders_pb2
from protos.payments.v1 import payments_pb2
from protos.timeline.v1 import timeline_pb2
from protos.wallet.v1 import wallet_pb2
from services.chassis import logs
from services.chassis.errors import Unavailable
from services.chassis.grpc_client import call

log = logs.get(__name__)

router = APIRouter(route_class=OperatorRoute, tags=["operators"])


class TimelineEntry(ApiModel):
    """`summary` is for people; `fields` has what it was made of. One purchase has one `traceId`."""

    at: datetime
    service: str
    kind: str
    id: str
    summary: str
    order_id: str | None
    trace_id: str | None
    fields: dict[str, str]


class Timeline(ApiModel):
    """The newest entries, the oldest of them first. `unavailable` names services that could not be asked."""

    entries: list[TimelineEntry]
    unavailable: list[str]


@router.get(
    "/api/admin/timeline",
    operation_id="getTimeline",
    responses=operator_problems("invalid_request", "invalid_limit"),
)
async def get_timeline(
    request: Request,
    user_id: Annotated[UuidText | None, Query(alias="userId", description="Either this or orderId.")] = None,
    order_id: Annotated[UuidText | None, Query(alias="orderId")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 200,
) -> Timeline:
    """What happened to a user or an order in every service: checkouts, Stripe's events, ledger, order, sagas,
    refunds, mails, downloads."""
    if (user_id is None) == (order_id is None):
        raise ProblemError("invalid_request", "Give either userId or orderId.")
    backends = backends_of(request)
    # The three services ask for the same, each in a message of its own.
    of: dict[str, Any] = {"user_id": user_id, "order_id": order_id, "limit": limit}
    asked = {
        "payments": call(
            backends.payments_operator.GetTimeline,
            payments_pb2.GetTimelineRequest(**of),
            timeout_seconds=PAYMENTS_SECONDS,
        ),
        "wallet": call(
            backends.wallet.GetTimeline, wallet_pb2.GetTimelineRequest(**of), timeout_seconds=WALLET_SECONDS
        ),
        "orders": call(
            backends.orders_operator.GetTimeline,
            orders_pb2.GetTimelineRequest(**of),
            timeout_seconds=ORDERS_SECONDS,
        ),
    }
    answers = dict(zip(asked, await asyncio.gather(*map(_entries_or_none, asked.values())), strict=True))
    told = [entry for entries in answers.values() for entry in entries or ()]
    told.sort(key=lambda entry: (entry.at.seconds, entry.at.nanos))
    return Timeline(
        entries=[_as_entry(entry) for entry in told[-limit:]],
        unavailable=sorted(service for service, entries in answers.items() if entries is None),
    )


async def _entries_or_none(asked: Any) -> Sequence[timeline_pb2.TimelineEntry] | None:
    """None when the service does not answer: the others are worth showing all the same."""
    try:
        entries: Sequence[timeline_pb2.TimelineEntry] = (await asked).entries
    except Unavailable as error:
        log.warning("timeline.unavailable", reason=error.reason)
        return None
    return entries


def _as_entry(entry: timeline_pb2.TimelineEntry) -> TimelineEntry:
    return TimelineEntry(
        at=as_time(entry.at),
        service=entry.service,
        kind=entry.kind,
        id=entry.id,
        summary=entry.summary,
        order_id=entry.order_id or None,
        trace_id=entry.trace_id or None,
        fields=dict(entry.fields),
    )
