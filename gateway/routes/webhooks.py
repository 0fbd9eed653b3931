"""Stripe's webhooks on the shop's own origin, handed to payments byte for byte."""

import httpx
from fastapi import APIRouter, Request, Response

from gateway.admission import ADDRESS_IN_SCOPE
from gateway.lanes import WEBHOOK_PATH
from gateway.openapi import public_problems
from gateway.problems import ProblemError
from gateway.routing import PublicRoute, backends_of
from services.chassis import logs

log = logs.get(__name__)

router = APIRouter(route_class=PublicRoute, tags=["webhooks"])

_RELAYED = (b"stripe-signature", b"content-type")
_RETURNED = ("content-type", "retry-after")


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
    body = await request.body()
    headers = [(name, value) for name, value in request.headers.raw if name in _RELAYED]
    # payments counts by source, too, where it trusts us with it.
    headers.append((b"x-forwarded-for", request.scope[ADDRESS_IN_SCOPE].encode()))
    try:
        answer = await backends_of(request).relay_webhook(body, headers)
    except httpx.TransportError as error:
        log.warning("webhook.not_relayed", error=repr(error))
        raise ProblemError("service_unavailable") from error
    returned = {name: answer.headers[name] for name in _RETURNED if name in answer.headers}
    return Response(answer.content, answer.status_code, returned)
