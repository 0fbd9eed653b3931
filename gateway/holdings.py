"""What a customer holds unpaid, told with how to pay it and how to let it go, when no more may be held."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from gateway.backends import ORDERS_SECONDS, PAYMENTS_SECONDS
from gateway.problems import ProblemError, context_of
from gateway.routing import backends_of, customer_of
from gateway.schemas import as_time
from protos.orders.v1 import orders_pb2
from protos.payments.v1 import payments_pb2
from services.chassis.errors import Conflict, DomainError
from services.chassis.grpc_client import call

JSON = dict[str, object]

# As many as are looked up for an answer.
_MOST = 10
_ORDERS, _CHECKOUTS = "open_order_ids", "open_checkout_ids"


@asynccontextmanager
async def telling_what_is_held(request: Request) -> AsyncIterator[None]:
    """Adds `openOrders` or `openCheckouts` to a problem that names their ids."""
    try:
        yield
    except Conflict as error:
        if _ORDERS not in error.fields and _CHECKOUTS not in error.fields:
            raise
        raise await _told(request, error) from error


async def _told(request: Request, error: DomainError) -> ProblemError:
    fields = dict(error.fields)
    orders, checkouts = fields.pop(_ORDERS, None), fields.pop(_CHECKOUTS, None)
    told = context_of(fields)
    if orders is not None:
        told["openOrders"] = await asyncio.gather(*(_order(request, id) for id in orders.split()[:_MOST]))
    if checkouts is not None:
        told["openCheckouts"] = await asyncio.gather(
            *(_checkout(request, id) for id in checkouts.split()[:_MOST])
        )
    return ProblemError(error.reason.lower(), error.message, fields=told)


async def _order(request: Request, order_id: str) -> JSON:
    """Where it is paid (null while the page is being opened, and when that cannot be told) and cancelled."""
    link: JSON = {"orderId": order_id, "url": None, "cancel": f"/api/orders/{order_id}/cancel"}
    try:
        answer = await call(
            backends_of(request).orders.GetOrder,
            orders_pb2.GetOrderRequest(user_id=customer_of(request).user_id, order_id=order_id),
            timeout_seconds=ORDERS_SECONDS,
        )
    except DomainError:
        return link
    order: orders_pb2.Order = answer.order
    return link | {
        "url": order.url or None,
        "totalCents": order.total_cents,
        "currency": order.currency,
        "createdAt": as_time(order.created_at).isoformat(),
    }


async def _checkout(request: Request, checkout_id: str) -> JSON:
    """Where it is paid; it ends by itself."""
    link: JSON = {"checkoutId": checkout_id, "url": None}
    try:
        answer = await call(
            backends_of(request).payments.GetCheckout,
            payments_pb2.GetCheckoutRequest(user_id=customer_of(request).user_id, checkout_id=checkout_id),
            timeout_seconds=PAYMENTS_SECONDS,
        )
    except DomainError:
        return link
    checkout: payments_pb2.Checkout = answer.checkout
    expires_at = as_time(checkout.expires_at).isoformat()
    return link | {"url": checkout.url or None, "expiresAt": expires_at}
