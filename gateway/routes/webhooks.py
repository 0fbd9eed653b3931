"""Stripe's webhooks on the shop's own origin, handed to payments byte for byte."""

from fastapi import APIRouter, Request, Response

from gateway.admission import ADDRESS_IN_SCOPE
from gateway.backends import WEBHOOK_SECONDS
from gateway.lanes import WEBHOOK_PATH
from gateway.openapi import public_problems
from gateway.routing import PublicRoute, backends_of
from protos.payments.v1 import payments_pb2
from services.chassis.client_address import source_of
from services.chassis.grpc_client import call

router = APIRouter(route_class=PublicRoute, tags=["webhooks"])


@router.post(
    WEBHOOK_PATH,
    operation_id="receiveStripeWebhook",
    response_class=Response,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        "parameters": [
            {"name": "Stripe-Signature", "in": "header", "required": True, "schema": {"type": "string"}}
        ],
    },
    responses={
        200: {
            "description": "Stored; Stripe need not send it again.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **public_problems("invalid_signature", "invalid_event", "wrong_livemode", "body_too_large"),
    },
)
async def receive_stripe_webhook(request: Request) -> Response:
    """Relays the raw body and its signature; payments verifies and answers."""
    answer = await call(
        backends_of(request).payments.ReceiveWebhook,
        payments_pb2.ReceiveWebhookRequest(
            payload=await request.body(),
            signature=request.headers.get("stripe-signature", ""),
            source=source_of(request.scope[ADDRESS_IN_SCOPE]),
        ),
        timeout_seconds=WEBHOOK_SECONDS,
    )
    retry = {"Retry-After": str(answer.retry_after_seconds)} if answer.retry_after_seconds else {}
    headers = {"Content-Type": answer.content_type, **retry}
    return Response(answer.body, answer.status, headers)
