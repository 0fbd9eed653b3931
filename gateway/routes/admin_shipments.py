"""Orders whose goods an operator has sent."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from gateway.backends import ORDERS_SECONDS
from gateway.openapi import BODY, operator_problems
from gateway.routing import OperatorRoute, backends_of, customer_of
from gateway.schemas import ApiModel, OrderId, Reason, StrictBody, as_time
from protos.orders.v1 import orders_pb2
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

Name = Annotated[str, Field(min_length=1, max_length=100)]


class Shipment(StrictBody):
    """`trackingUrl` is where the customer follows the parcel."""

    carrier: Name
    tracking_number: Name
    tracking_url: Annotated[str, Field(max_length=500, pattern=r"^https?://")] | None = None
    reason: Reason


class Shipped(ApiModel):
    """The order as it stands now."""

    order_id: str
    fulfilled_at: datetime
    tracking_info: dict[str, str]


@router.post(
    "/api/admin/orders/{orderId}/shipment",
    operation_id="shipOrder",
    responses=operator_problems(*BODY, "order_not_found", "nothing_to_ship"),
)
async def ship_order(request: Request, order_id: OrderId, body: Shipment) -> Shipped:
    """The order's goods were sent: the customer is told. Said again, it changes nothing."""
    answer = await call(
        backends_of(request).orders_operator.ShipOrder,
        orders_pb2.ShipOrderRequest(
            order_id=order_id,
            carrier=body.carrier,
            tracking_number=body.tracking_number,
            tracking_url=body.tracking_url or "",
            actor=customer_of(request).user_id,
            reason=body.reason,
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    order: orders_pb2.Order = answer.order
    return Shipped(
        order_id=order.id,
        fulfilled_at=as_time(order.fulfilled_at),
        tracking_info=dict(order.tracking_info),
    )
