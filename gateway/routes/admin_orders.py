"""Orders, refunds and sagas, for operators."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID, uuid5

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from gateway import idempotency
from gateway.backends import ORDERS_SECONDS
from gateway.openapi import BODY, KEYED, PAGED, operator_problems
from gateway.problems import ProblemError
from gateway.routes.admin_payments import Because
from gateway.routes.orders import Order, as_order
from gateway.routing import OperatorRoute, backends_of, customer_of
from gateway.schemas import (
    ApiModel,
    Cursor,
    Limit,
    Line,
    OrderId,
    OrderNumber,
    Reason,
    SagaName,
    StrictBody,
    as_time,
)
from protos.orders.v1 import orders_pb2
from services.chassis.errors import Conflict
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

# Fixed for ever: with it, an operator's key is the same refund at every gateway.
_REFUNDS = UUID("0c1d5a0e-6b0b-4f6e-8f0f-2a6a8a3f9d51")

RefundStatus = Literal["requested", "pending", "succeeded", "failed"]
SagaStatus = Literal["running", "undoing", "done", "undone", "stuck"]
REFUND_STATUSES: dict[int, RefundStatus] = {
    orders_pb2.ORDER_REFUND_STATUS_REQUESTED: "requested",
    orders_pb2.ORDER_REFUND_STATUS_PENDING: "pending",
    orders_pb2.ORDER_REFUND_STATUS_SUCCEEDED: "succeeded",
    orders_pb2.ORDER_REFUND_STATUS_FAILED: "failed",
}


class WantedRefund(StrictBody):
    """Without `items` all that is left of the order (null is refused); `returnStock` puts the pieces back on
    their shelf."""

    items: Annotated[list[Line], Field(default_factory=list, min_length=1, max_length=100)]
    return_stock: Annotated[bool, Field(strict=True)] = False
    reason: Reason


class RefundItem(ApiModel):
    product_id: str
    quantity: int
    cents: int
    points: int


class Refund(ApiModel):
    """`actor` is the operator, or `saga` for a payment that came too late."""

    id: str
    order_id: str
    status: RefundStatus
    amount_cents: int
    amount_points: int
    items: list[RefundItem]
    actor: str
    reason: str
    return_stock: bool
    failure_reason: str | None
    created_at: datetime
    finished_at: datetime | None


class Saga(ApiModel):
    """One run: `saga` with its version, the `step` it stands at of all its `steps`; `leased` while somebody
    drives it right now."""

    order_id: str
    saga: str
    user_id: str
    status: SagaStatus
    step: str
    steps: list[str]
    undo_reason: str | None
    attempts: int
    last_error: str | None
    next_attempt_at: datetime
    leased: bool
    created_at: datetime
    updated_at: datetime


class SagaPage(ApiModel):
    items: list[Saga]
    next_cursor: str | None


class InspectedOrder(ApiModel):
    """Whose order it is, how it stands, and what gives it back or drives it."""

    user_id: str
    order: Order
    refunds: list[Refund]
    sagas: list[Saga]


class FoundOrder(ApiModel):
    order_id: str
    user_id: str
    created_at: datetime


class FoundOrders(ApiModel):
    """The newest first, at most 10; hardly ever more than one."""

    items: list[FoundOrder]


@router.get(
    "/api/admin/orders",
    operation_id="findOrders",
    responses=operator_problems("invalid_request"),
)
async def find_orders(request: Request, number: OrderNumber) -> FoundOrders:
    """The orders with a number as mails print it."""
    found = await call(
        backends_of(request).orders_operator.FindOrders,
        orders_pb2.FindOrdersRequest(number=number),
        timeout_seconds=ORDERS_SECONDS,
    )
    return FoundOrders(
        items=[
            FoundOrder(order_id=order.order_id, user_id=order.user_id, created_at=as_time(order.created_at))
            for order in found.orders
        ]
    )


@router.get(
    "/api/admin/orders/{orderId}",
    operation_id="inspectOrder",
    responses=operator_problems("order_not_found"),
)
async def inspect_order(request: Request, order_id: OrderId) -> InspectedOrder:
    """Any customer's order, with its refunds and sagas."""
    found = await _inspect(request, order_id)
    return InspectedOrder(
        user_id=found.user_id,
        order=as_order(found.order),
        refunds=[_as_refund(refund) for refund in found.refunds],
        sagas=[_as_saga(saga) for saga in found.sagas],
    )


@router.post(
    "/api/admin/orders/{orderId}/refunds",
    status_code=201,
    operation_id="refundOrder",
    openapi_extra={"parameters": [idempotency.PARAMETER]},
    responses=operator_problems(
        *BODY,
        *KEYED,
        "order_not_found",
        "not_refundable",
        "refund_exceeds_order",
        "order_disputed",
        "not_in_order",
        "invalid_quantity",
        "too_many_lines",
    ),
)
async def refund_order(request: Request, response: Response, order_id: OrderId, body: WantedRefund) -> Refund:
    """Gives points or money back where they came from, for the whole order or by line; it is carried out in
    the background."""
    operator, key = customer_of(request), idempotency.key_of(request)
    wanted = orders_pb2.RefundOrderRequest(
        order_id=order_id,
        refund_id=str(uuid5(_REFUNDS, f"{operator.user_id}:{key}")),
        items=[
            orders_pb2.CartLine(product_id=line.product_id, quantity=line.quantity) for line in body.items
        ],
        return_stock=body.return_stock,
        actor=operator.user_id,
        reason=body.reason,
    )
    try:
        answer = await call(
            backends_of(request).orders_operator.RefundOrder, wanted, timeout_seconds=ORDERS_SECONDS
        )
    except Conflict as error:
        if error.reason == "REFUND_MISMATCH":
            raise ProblemError("idempotency_key_reused") from error
        raise
    response.headers[idempotency.HEADER] = key
    response.headers["Location"] = f"/api/admin/orders/{order_id}"
    return _as_refund(answer.refund)


@router.get(
    "/api/admin/sagas",
    operation_id="listSagas",
    responses=operator_problems(*PAGED, "invalid_request"),
)
async def list_sagas(
    request: Request,
    status: Annotated[SagaStatus | None, Query(description="Those that have not ended, when absent.")] = None,
    saga: Annotated[str, Query(max_length=100, description="A name, with or without its version.")] = "",
    limit: Limit = 20,
    cursor: Cursor = "",
) -> SagaPage:
    """Saga runs, those of the oldest orders first."""
    answer = await call(
        backends_of(request).orders_operator.ListSagas,
        orders_pb2.ListSagasRequest(status=status or "", saga=saga, limit=limit, cursor=cursor),
        timeout_seconds=ORDERS_SECONDS,
    )
    return SagaPage(items=[_as_saga(found) for found in answer.items], next_cursor=answer.next_cursor or None)


@router.post(
    "/api/admin/orders/{orderId}/sagas/{saga}/retry",
    operation_id="retrySaga",
    responses=operator_problems(*BODY, "order_not_found", "saga_not_found", "saga_ended", "saga_waits"),
)
async def retry_saga(request: Request, order_id: OrderId, saga: SagaName, body: Because) -> Saga:
    """Tries a run again now; a stuck one goes on where it stood."""
    answer = await call(
        backends_of(request).orders_operator.RetrySaga,
        orders_pb2.RetrySagaRequest(
            order_id=order_id,
            saga=await _with_version(request, order_id, saga),
            actor=customer_of(request).user_id,
            reason=body.reason,
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    return _as_saga(answer.saga)


@router.post(
    "/api/admin/orders/{orderId}/sagas/{saga}/compensate",
    operation_id="compensateSaga",
    responses=operator_problems(*BODY, "order_not_found", "saga_not_found", "saga_ended", "saga_past_pivot"),
)
async def compensate_saga(request: Request, order_id: OrderId, saga: SagaName, body: Because) -> Saga:
    """Turns a run around that has not passed its pivot: what it did is given back, its order ends."""
    answer = await call(
        backends_of(request).orders_operator.CompensateSaga,
        orders_pb2.CompensateSagaRequest(
            order_id=order_id,
            saga=await _with_version(request, order_id, saga),
            actor=customer_of(request).user_id,
            reason=body.reason,
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    return _as_saga(answer.saga)


async def _inspect(request: Request, order_id: str) -> orders_pb2.InspectOrderResponse:
    found: orders_pb2.InspectOrderResponse = await call(
        backends_of(request).orders_operator.InspectOrder,
        orders_pb2.InspectOrderRequest(order_id=order_id),
        timeout_seconds=ORDERS_SECONDS,
    )
    return found


async def _with_version(request: Request, order_id: str, name: str) -> str:
    """The order's run of a saga, whose version the operator need not know."""
    runs = [run.saga for run in (await _inspect(request, order_id)).sagas]
    found = [saga for saga in runs if saga.partition("/")[0] == name]
    if not found:
        raise ProblemError("saga_not_found")
    return found[-1]


def _as_refund(refund: orders_pb2.OrderRefund) -> Refund:
    return Refund(
        id=refund.id,
        order_id=refund.order_id,
        status=REFUND_STATUSES[refund.status],
        amount_cents=refund.amount_cents,
        amount_points=refund.amount_points,
        items=[
            RefundItem(
                product_id=item.product_id, quantity=item.quantity, cents=item.cents, points=item.points
            )
            for item in refund.items
        ],
        actor=refund.actor,
        reason=refund.reason,
        return_stock=refund.return_stock,
        failure_reason=refund.failure_reason or None,
        created_at=as_time(refund.created_at),
        finished_at=as_time(refund.finished_at) if refund.HasField("finished_at") else None,
    )


def _as_saga(saga: orders_pb2.Saga) -> Saga:
    # orders tells the status as text: pydantic checks that it is one that this document names.
    told: dict[str, Any] = {"status": saga.status}
    return Saga(
        order_id=saga.order_id,
        saga=saga.saga,
        user_id=saga.user_id,
        step=saga.step,
        steps=list(saga.steps),
        undo_reason=saga.undo_reason or None,
        attempts=saga.attempts,
        last_error=saga.last_error or None,
        next_attempt_at=as_time(saga.next_attempt_at),
        leased=saga.leased,
        created_at=as_time(saga.created_at),
        updated_at=as_time(saga.updated_at),
        **told,
    )
