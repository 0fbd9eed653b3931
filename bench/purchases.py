"""Purchases of points that wait for Stripe's webhook: opened by payments, paid at nobody's cost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from deploy.local.stackfile import StackFile
from deploy.local.stripe_sandbox.ids import new_id
from deploy.local.stripe_sandbox.objects import checkout_session, event
from protos.payments.v1 import payments_pb2, payments_pb2_grpc
from services.chassis import grpc_client

_PACKAGE = "premium"
_EMAIL = "bench@example.com"
_OPENING_AT_ONCE = 16
_CALL_SECONDS = 10.0
_PAGE = 100


@dataclass(frozen=True)
class Purchase:
    checkout_id: str
    points: int
    # The event that tells of the payment, byte for byte as the sandbox sends it.
    body: bytes


async def open_purchases(stack: StackFile, *, count: int, customers: int) -> list[Purchase]:
    """Checkouts of customers who meet again and again, with real sessions at the sandbox, which are paid
    in the events only: so no webhook comes but ours, and reconciliation finds nothing to do."""
    points = await _open_checkouts(stack, count=count, users=[str(uuid4()) for _ in range(customers)])
    return [
        Purchase(checkout_id, points[checkout_id], _paid_event(session))
        async for checkout_id, session in _sessions(stack)
        if checkout_id in points
    ]


async def _open_checkouts(stack: StackFile, *, count: int, users: Sequence[str]) -> dict[str, int]:
    """The points of each checkout, by its id."""
    points: dict[str, int] = {}
    waiting = iter(range(count))
    # As the gateway's: a call that found every connection busy is made again.
    async with grpc_client.channel(stack.grpc["payments"]) as channel:
        payments = payments_pb2_grpc.PaymentsServiceStub(channel)

        async def customer() -> None:
            for number in waiting:
                request = payments_pb2.CreatePointsCheckoutRequest(
                    user_id=users[number % len(users)],
                    email=_EMAIL,
                    idempotency_key=str(uuid4()),
                    package_id=_PACKAGE,
                )
                answer = await payments.CreatePointsCheckout(request, timeout=_CALL_SECONDS)
                points[answer.checkout.id] = answer.checkout.points

        await asyncio.gather(*(customer() for _ in range(_OPENING_AT_ONCE)))
    return points


async def _sessions(stack: StackFile) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Every session of the sandbox, with the checkout that it is for."""
    headers = {"Authorization": f"Bearer {stack.stripe_secret_key}"}
    page: dict[str, str] = {"limit": str(_PAGE)}
    async with httpx.AsyncClient(base_url=stack.stripe_url, headers=headers, trust_env=False) as stripe:
        has_more = True
        while has_more:
            answer = (await stripe.get("/v1/checkout/sessions", params=page)).raise_for_status().json()
            for session in answer["data"]:
                yield session["client_reference_id"], session
            has_more = answer["has_more"]
            page["starting_after"] = answer["data"][-1]["id"]


def _paid_event(session: dict[str, Any]) -> bytes:
    paid = checkout_session.completed(session, intent_id=new_id("pi_3"), email=_EMAIL)
    nobody: dict[str, str | None] = {"id": None, "idempotency_key": None}
    told = event.build("checkout.session.completed", paid, request=nobody, now=int(time.time()))
    return json.dumps(told, indent=2).encode()
