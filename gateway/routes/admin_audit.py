"""What operators did, in all services: the three audit logs as one list."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from heapq import merge
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request

from gateway.backends import ORDERS_SECONDS, PAYMENTS_SECONDS, WALLET_SECONDS, Backends
from gateway.openapi import PAGED, operator_problems
from gateway.routing import OperatorRoute, backends_of
from gateway.schemas import ApiModel, Cursor, Limit, as_time
from protos.audit.v1 import audit_pb2
from protos.orders.v1 import orders_pb2
from protos.payments.v1 import payments_pb2
from protos.wallet.v1 import wallet_pb2
from services.chassis import cursor as keyset
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

Entries = Sequence[audit_pb2.AuditEntry]
_NEWEST, _NOTHING = 0, 1
_LOGS = 3


class AuditEntry(ApiModel):
    """`seq` is the entry's place in its service's chain; `actor` a user id or `cli:<user name>`."""

    service: str
    seq: int
    actor: str
    action: str
    subject: str
    reason: str
    details: dict[str, Any]
    created_at: datetime


class AuditPage(ApiModel):
    items: list[AuditEntry]
    next_cursor: str | None


@router.get(
    "/api/admin/audit",
    operation_id="listAuditLog",
    responses=operator_problems("invalid_request", *PAGED),
)
async def list_audit_log(
    request: Request,
    limit: Limit = 20,
    cursor: Cursor = "",
    actor: Annotated[str, Query(max_length=255, description="Only what this operator did.")] = "",
    subject: Annotated[str, Query(max_length=255, description="Only what was done to this id.")] = "",
) -> AuditPage:
    """What operators did and why, the newest first: each service's log in its own order, merged by time."""
    before = keyset.decode_ints(cursor, count=_LOGS) or (_NEWEST,) * _LOGS
    of = {"limit": limit + 1, "actor": actor, "subject": subject}
    page, left = page_of(await _read(backends_of(request), before, of), before, limit=limit)
    return AuditPage(
        items=[_as_entry(entry) for entry in page],
        next_cursor=None if left is None else keyset.encode(*left),
    )


async def _read(backends: Backends, before: Sequence[int], of: dict[str, Any]) -> list[Entries]:
    """One of each service's log, in the order of a cursor's numbers."""
    orders, payments, wallet = before
    answers = await asyncio.gather(
        call(
            backends.orders_operator.ListAuditLog,
            orders_pb2.ListAuditLogRequest(before_seq=orders, **of),
            timeout_seconds=ORDERS_SECONDS,
        ),
        call(
            backends.payments_operator.ListAuditLog,
            payments_pb2.ListAuditLogRequest(before_seq=payments, **of),
            timeout_seconds=PAYMENTS_SECONDS,
        ),
        call(
            backends.wallet.ListAuditLog,
            wallet_pb2.ListAuditLogRequest(before_seq=wallet, **of),
            timeout_seconds=WALLET_SECONDS,
        ),
    )
    return [answer.entries for answer in answers]


def page_of(
    logs: Sequence[Entries], before: Sequence[int], *, limit: int
) -> tuple[Entries, list[int] | None]:
    """The newest of all logs, each of which keeps its order, and before which seq of each one the next page
    begins; None when this is the last. `logs` hold up to one entry more than `limit` each."""
    merged = list(merge(*logs, key=_time_of, reverse=True))
    page = merged[:limit]
    if len(merged) <= limit:
        return page, None
    return page, [_before(log, page, asked) for log, asked in zip(logs, before, strict=True)]


def _before(log: Entries, page: Entries, asked: int) -> int:
    """Where a log's next page begins: before the last entry that was shown. A log of which nothing was shown
    begins where it did, but without what is written to it from now on: that is newer than this page."""
    shown = [entry.seq for entry in page if entry.service == log[0].service] if log else []
    if shown:
        return shown[-1]
    if asked:
        return asked
    return log[0].seq + 1 if log else _NOTHING


def _time_of(entry: audit_pb2.AuditEntry) -> tuple[int, int]:
    return entry.created_at.seconds, entry.created_at.nanos


def _as_entry(entry: audit_pb2.AuditEntry) -> AuditEntry:
    return AuditEntry(
        service=entry.service,
        seq=entry.seq,
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        reason=entry.reason,
        details=orjson.loads(entry.details),
        created_at=as_time(entry.created_at),
    )
