"""Money that customers are owed since a refund came back, and the operator's decisions."""

from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid5

from fastapi import APIRouter, Request, Response
from pydantic import Field, StringConstraints

from gateway import idempotency
from gateway.backends import ORDERS_SECONDS
from gateway.openapi import BODY, KEYED, PAGED, operator_problems
from gateway.problems import ProblemError
from gateway.routes.orders import Order, as_order
from gateway.routing import OperatorRoute, backends_of, customer_of
from gateway.schemas import INT64_MAX, ApiModel, Cursor, Limit, OrderId, Reason, StrictBody, as_time
from protos.orders.v1 import orders_pb2
from services.chassis.errors import Conflict
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

# Fixed for ever: with it, an operator's key is the same decision at every gateway.
_DECISIONS = UUID("5d2f9e3c-0a41-4f5b-9a7e-3a1f6f1f0c77")


class Debt(ApiModel):
    """`promisedCents` is the most that the customer was ever told to get back."""

    order_id: str
    user_id: str
    owed_cents: int
    promised_cents: int
    currency: str
    ordered_at: datetime
    changed_at: datetime


class DebtPage(ApiModel):
    items: list[Debt]
    next_cursor: str | None


class Settlement(StrictBody):
    """So much was given to the customer in another way; `reference` finds it, e.g. a bank transfer's."""

    amount_cents: Annotated[int, Field(strict=True, ge=1, le=INT64_MAX)]
    reference: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    reason: Reason


class WriteOff(StrictBody):
    """So much is not given after all."""

    amount_cents: Annotated[int, Field(strict=True, ge=1, le=INT64_MAX)]
    reason: Reason


@router.get("/api/admin/refunds/owed", operation_id="listOwed", responses=operator_problems(*PAGED))
async def list_owed(request: Request, limit: Limit = 20, cursor: Cursor = "") -> DebtPage:
    """Orders of which a customer is owed money, the oldest first. What pays a debt: another refund, or one of
    the two decisions."""
    answer = await call(
        backends_of(request).orders_operator.ListDebts,
        orders_pb2.ListDebtsRequest(limit=limit, cursor=cursor),
        timeout_seconds=ORDERS_SECONDS,
    )
    return DebtPage(
        items=[
            Debt(
                order_id=debt.order_id,
                user_id=debt.user_id,
                owed_cents=debt.owed_cents,
                promised_cents=debt.promised_cents,
                currency=debt.currency,
                ordered_at=as_time(debt.ordered_at),
                changed_at=as_time(debt.changed_at),
            )
            for debt in answer.items
        ],
        next_cursor=answer.next_cursor or None,
    )


@router.post(
    "/api/admin/orders/{orderId}/owed/settle",
    operation_id="settleOwed",
    openapi_extra={"parameters": [idempotency.PARAMETER]},
    responses=operator_problems(*BODY, *KEYED, "order_not_found", "nothing_owed"),
)
async def settle_owed(request: Request, response: Response, order_id: OrderId, body: Settlement) -> Order:
    """Says that a debt, or a part of it, was settled outside of Stripe."""
    wanted = orders_pb2.DecideDebtRequest(
        decision=orders_pb2.DEBT_DECISION_SETTLED_OUTSIDE,
        amount_cents=body.amount_cents,
        reference=body.reference,
        reason=body.reason,
    )
    return await _decide(request, response, order_id, wanted)


@router.post(
    "/api/admin/orders/{orderId}/owed/write-off",
    operation_id="writeOffOwed",
    openapi_extra={"parameters": [idempotency.PARAMETER]},
    responses=operator_problems(*BODY, *KEYED, "order_not_found", "nothing_owed"),
)
async def write_off_owed(request: Request, response: Response, order_id: OrderId, body: WriteOff) -> Order:
    """Says that a debt, or a part of it, is not paid after all: a refund that was sent by mistake, say."""
    wanted = orders_pb2.DecideDebtRequest(
        decision=orders_pb2.DEBT_DECISION_WRITTEN_OFF, amount_cents=body.amount_cents, reason=body.reason
    )
    return await _decide(request, response, order_id, wanted)


async def _decide(
    request: Request, response: Response, order_id: str, wanted: orders_pb2.DecideDebtRequest
) -> Order:
    operator, key = customer_of(request), idempotency.key_of(request)
    wanted.order_id = order_id
    wanted.decision_id = str(uuid5(_DECISIONS, f"{operator.user_id}:{key}"))
    wanted.actor = operator.user_id
    try:
        answer = await call(
            backends_of(request).orders_operator.DecideDebt, wanted, timeout_seconds=ORDERS_SECONDS
        )
    except Conflict as error:
        if error.reason == "DECISION_MISMATCH":
            raise ProblemError("idempotency_key_reused") from error
        raise
    response.headers[idempotency.HEADER] = key
    return as_order(answer.order)
