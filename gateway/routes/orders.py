"""Buying images, and what became of it."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from gateway import idempotency
from gateway.backends import ORDERS_SECONDS
from gateway.following import FOLLOW_SECONDS, After, Kind, LastEventId, events_of, last_seen
from gateway.holdings import telling_what_is_held
from gateway.openapi import BODY, KEYED, PAGED, customer_problems
from gateway.routing import CustomerRoute, backends_of, customer_of
from gateway.schemas import ApiModel, Cursor, Limit, Line, OrderId, StrictBody, as_time
from protos.orders.v1 import orders_pb2
from services.chassis.grpc_client import call, open_stream

router = APIRouter(route_class=CustomerRoute, tags=["orders"])

PaymentMethod = Literal["points", "stripe"]
Dispute = Literal["none", "open", "won", "lost"]
OrderStatus = Literal["pending", "processing", "completed", "failed", "cancelled", "refunded"]

METHODS: dict[PaymentMethod, orders_pb2.PaymentMethod.ValueType] = {
    "points": orders_pb2.PAYMENT_METHOD_POINTS,
    "stripe": orders_pb2.PAYMENT_METHOD_STRIPE,
}
STATUSES: dict[int, OrderStatus] = {
    orders_pb2.ORDER_STATUS_PENDING: "pending",
    orders_pb2.ORDER_STATUS_PROCESSING: "processing",
    orders_pb2.ORDER_STATUS_COMPLETED: "completed",
    orders_pb2.ORDER_STATUS_FAILED: "failed",
    orders_pb2.ORDER_STATUS_CANCELLED: "cancelled",
    orders_pb2.ORDER_STATUS_REFUNDED: "refunded",
}
DISPUTES: dict[str, Dispute] = {"none": "none", "open": "open", "won": "won", "lost": "lost"}
_METHOD_NAMES: dict[int, PaymentMethod] = {number: name for name, number in METHODS.items()}
# How soon to look again at an order whose session is still being opened.
_LOOK_AGAIN_SECONDS = "1"


class Checkout(StrictBody):
    """Without `items` the cart is bought: null is refused, and so is what is not known."""

    payment_method: PaymentMethod
    items: Annotated[list[Line], Field(default_factory=list, min_length=1, max_length=100)]


class Placed(ApiModel):
    """`url` is Stripe's page, where a card order is paid; absent while the session is being opened."""

    order_id: str
    status: OrderStatus
    session_id: str | None
    url: str | None


class OrderItem(ApiModel):
    """Title and prices of one piece, as they were when the order was placed; what refunds took of the line,
    those under way included."""

    product_id: str
    title: str
    price_cents: int
    price_points: int
    quantity: int
    refunded_quantity: int
    refunded_cents: int
    refunded_points: int


class Order(ApiModel):
    """A points order has `totalCents` 0, a card order `totalPoints` 0. `refundedCents` and `refundedPoints`
    went back by now; `dispute` is what the customer's bank was asked to decide: `disputedCents` are held
    until then, `lostCents` were taken. `owedCents` were refunded and came back: the shop owes them."""

    id: str
    status: OrderStatus
    payment_method: PaymentMethod
    total_cents: int
    total_points: int
    currency: str
    failure_reason: str | None
    items: list[OrderItem]
    session_id: str | None
    url: str | None
    created_at: datetime
    fulfilled_at: datetime | None
    refunded_cents: int
    refunded_points: int
    dispute: Dispute
    disputed_cents: int
    lost_cents: int
    owed_cents: int
    tracking_info: dict[str, str] | None


class OrderPage(ApiModel):
    items: list[Order]
    next_cursor: str | None


@router.post(
    "/api/checkout",
    status_code=201,
    response_model_exclude_none=True,
    operation_id="checkout",
    openapi_extra={"parameters": [idempotency.PARAMETER]},
    responses=customer_problems(
        *BODY,
        *KEYED,
        "insufficient_points",
        "out_of_stock",
        "cart_empty",
        "product_not_found",
        "product_inactive",
        "not_for_points",
        "invalid_quantity",
        "too_many_lines",
        "order_too_large",
        "checkout_in_progress",
        "checkout_refused",
        "too_many_open_orders",
        "too_many_pieces",
        "too_many_failed_checkouts",
    ),
)
async def checkout(request: Request, response: Response, body: Checkout) -> Placed:
    """Buys the cart, or the given items, with points or by card."""
    customer, key = customer_of(request), idempotency.key_of(request)
    wanted = orders_pb2.PlaceOrderRequest(
        user_id=customer.user_id,
        email=customer.email,
        idempotency_key=key,
        request_hash=await idempotency.body_hash(request),
        payment_method=METHODS[body.payment_method],
        items=[
            orders_pb2.CartLine(product_id=line.product_id, quantity=line.quantity) for line in body.items
        ],
    )
    async with telling_what_is_held(request):
        answer = await call(backends_of(request).orders.PlaceOrder, wanted, timeout_seconds=ORDERS_SECONDS)
    order: orders_pb2.Order = answer.order
    response.headers[idempotency.HEADER] = key
    response.headers["Location"] = f"/api/orders/{order.id}"
    if order.status == orders_pb2.ORDER_STATUS_PENDING and not order.url:
        response.headers["Retry-After"] = _LOOK_AGAIN_SECONDS
    return Placed(
        order_id=order.id,
        status=STATUSES[order.status],
        session_id=order.session_id or None,
        url=order.url or None,
    )


@router.get("/api/orders", operation_id="listOrders", responses=customer_problems(*PAGED))
async def list_orders(request: Request, limit: Limit = 20, cursor: Cursor = "") -> OrderPage:
    """The customer's orders, newest first."""
    answer = await call(
        backends_of(request).orders.ListOrders,
        orders_pb2.ListOrdersRequest(user_id=customer_of(request).user_id, limit=limit, cursor=cursor),
        timeout_seconds=ORDERS_SECONDS,
    )
    return OrderPage(
        items=[as_order(order) for order in answer.items], next_cursor=answer.next_cursor or None
    )


@router.get("/api/orders/{orderId}", operation_id="getOrder", responses=customer_problems("order_not_found"))
async def get_order(request: Request, order_id: OrderId) -> Order:
    """One order of the customer."""
    answer = await call(
        backends_of(request).orders.GetOrder,
        orders_pb2.GetOrderRequest(user_id=customer_of(request).user_id, order_id=order_id),
        timeout_seconds=ORDERS_SECONDS,
    )
    return as_order(answer.order)


@router.post(
    "/api/orders/{orderId}/cancel",
    operation_id="cancelOrder",
    responses=customer_problems("order_not_found", "order_not_cancellable"),
)
async def cancel_order(request: Request, order_id: OrderId) -> Order:
    """Cancels an unpaid order; its Stripe session is closed first."""
    answer = await call(
        backends_of(request).orders.CancelOrder,
        orders_pb2.CancelOrderRequest(user_id=customer_of(request).user_id, order_id=order_id),
        timeout_seconds=ORDERS_SECONDS,
    )
    return as_order(answer.order)


async def _watch(
    request: Request, order_id: OrderId, after: After = 0, last_event_id: LastEventId = ""
) -> AsyncIterator[AsyncIterator[Any]]:
    """Begins before the answer does: whose order it is not hears a problem."""
    wanted = orders_pb2.WatchOrderRequest(
        user_id=customer_of(request).user_id,
        order_id=order_id,
        after_version=last_seen(last_event_id, after),
    )
    async with open_stream(
        backends_of(request).orders.WatchOrder, wanted, timeout_seconds=FOLLOW_SECONDS
    ) as messages:
        yield messages


@router.get(
    "/api/orders/{orderId}/events",
    operation_id="followOrder",
    response_class=EventSourceResponse,
    responses=customer_problems("order_not_found", "invalid_request"),
)
async def follow_order(
    request: Request, messages: Annotated[AsyncIterator[Any], Depends(_watch)]
) -> AsyncIterator[ServerSentEvent]:
    """The order at once and after each change (`order`, as GET /api/orders/{orderId} answers), until neither
    a payment nor a refund is under way (`end`)."""
    async for event in events_of(
        _FOLLOWED,
        messages,
        closing=request.app.state.closing,
        expires_at=customer_of(request).expires_at,
    ):
        yield event


def as_order(order: orders_pb2.Order) -> Order:
    return Order(
        id=order.id,
        status=STATUSES[order.status],
        payment_method=_METHOD_NAMES[order.payment_method],
        total_cents=order.total_cents,
        total_points=order.total_points,
        currency=order.currency,
        failure_reason=order.failure_reason.lower() or None,
        items=[_as_item(item) for item in order.items],
        session_id=order.session_id or None,
        url=order.url or None,
        created_at=as_time(order.created_at),
        fulfilled_at=as_time(order.fulfilled_at) if order.HasField("fulfilled_at") else None,
        refunded_cents=order.refunded_cents,
        refunded_points=order.refunded_points,
        dispute=DISPUTES[order.dispute],
        disputed_cents=order.disputed_cents,
        lost_cents=order.lost_cents,
        owed_cents=order.owed_cents,
        tracking_info=dict(order.tracking_info) or None,
    )


def _as_item(item: orders_pb2.OrderItem) -> OrderItem:
    return OrderItem(
        product_id=item.product_id,
        title=item.title,
        price_cents=item.price_cents,
        price_points=item.price_points,
        quantity=item.quantity,
        refunded_quantity=item.refunded_quantity,
        refunded_cents=item.refunded_cents,
        refunded_points=item.refunded_points,
    )


_FOLLOWED = Kind("order", as_order)
