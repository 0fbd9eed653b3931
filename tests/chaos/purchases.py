"""Many customers who buy at the running shop, and what of it has arrived."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import psycopg

from deploy.local.ephemeral import RunningStack, pauses
from deploy.local.tokens import mint
from protos.payments.v1 import payments_pb2 as pb
from protos.payments.v1 import payments_pb2_grpc
from tests.chaos.shopping import is_final
from tests.integration.payments.sandbox import Sandbox

PRICE, POINTS = 3999, 550
_PATIENCE_SECONDS = 60.0
_RUN_SECONDS = 300.0


class Shop:
    """The shop over REST and gRPC, its Stripe, and its databases."""

    def __init__(self, stack: RunningStack, http: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self._secret = stack.file.auth_jwt_secret
        self._database_urls = stack.file.database_urls
        self._http = http
        self._payments = payments_pb2_grpc.PaymentsServiceStub(channel)
        self._operator = payments_pb2_grpc.PaymentsOperatorServiceStub(channel)
        self.stripe = Sandbox(stack.file.stripe_url, key=stack.file.stripe_secret_key)

    async def ask(self, method: str, path: str, user_id: UUID, body: Any = None) -> dict[str, Any]:
        """Asks again, under the same key, while the shop is too busy."""
        token = mint(secret=self._secret, user_id=user_id, email=None, operator=False, ttl_seconds=900)
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                answer = await self._http.request(method, path, json=body, headers=headers)
                if is_final(answer):
                    assert answer.is_success, answer.text
                    return dict(answer.json())
                await asyncio.sleep(0.2)

    async def buy_points(self, user_id: UUID) -> str:
        """Pays for 550 points at the hosted page; returns the session."""
        opened = await self.ask("POST", "/api/checkout/points", user_id, {"packageId": "premium"})
        return await self._pay(user_id, opened["url"], f"/api/checkouts/{opened['checkoutId']}")

    async def buy_image(self, user_id: UUID) -> str:
        """By card; returns the session."""
        [image, *_] = (await self.ask("GET", "/api/products", user_id))["items"]
        body = {"paymentMethod": "stripe", "items": [{"productId": image["id"], "quantity": 1}]}
        placed = await self.ask("POST", "/api/checkout", user_id, body)
        return await self._pay(user_id, placed["url"], f"/api/orders/{placed['orderId']}")

    async def subscribe(self, user_id: UUID) -> str:
        """Returns Stripe's id of the subscription."""
        request = pb.CreateSubscriptionCheckoutRequest(
            user_id=str(user_id), idempotency_key=str(uuid4()), plan_id="monthly"
        )
        checkout = (await self._payments.CreateSubscriptionCheckout(request)).checkout
        await self.stripe.pay(checkout.url)
        session = await self.stripe.get(f"checkout/sessions/{checkout.session_id}")
        return str(session["subscription"])

    async def _pay(self, user_id: UUID, url: str | None, path: str) -> str:
        """As soon as there is a page to pay at; `path` tells of it when the answer could not wait."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while url is None:
                await asyncio.sleep(0.2)
                url = (await self.ask("GET", path, user_id))["url"]
        await self.stripe.pay(url)
        return url.rpartition("/")[2]

    async def refund_at_stripe(self, session_id: str, amount_cents: int) -> None:
        """As the dashboard does."""
        intent = await self.stripe.intent_of(session_id)
        await self.stripe.post("refunds", payment_intent=intent, amount=amount_cents)

    async def dispute(self, session_id: str, *, ends: str) -> None:
        intent = await self.stripe.intent_of(session_id)
        begun = await self.stripe.control("disputes", payment_intent=intent)
        await self.stripe.control(f"disputes/{begun['id']}", status=ends)

    async def reconcile(self) -> pb.Reconciliation:
        """A comparison with Stripe, to its end."""
        request = pb.StartReconciliationRequest(actor=f"operator-{uuid4()}")
        run = (await self._operator.StartReconciliation(request)).reconciliation
        async with asyncio.timeout(_RUN_SECONDS):
            while run.status != pb.RECONCILIATION_STATUS_DONE:
                await asyncio.sleep(0.05)
                again = pb.GetReconciliationRequest(id=run.id)
                run = (await self._operator.GetReconciliation(again)).reconciliation
        return run

    def rows(self, database: str, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._database_urls[database]) as connection:
            return connection.execute(query.encode(), values).fetchall()

    async def until_grants_are_heard(self) -> None:
        """Every webhook that is to come is settled, and wallet has heard of every grant. However much that
        is: only a standstill fails."""
        before: tuple[int, ...] = ()
        while any(now := await self._on_their_way()):
            if now != before:
                before, deadline, pause = now, time.monotonic() + _PATIENCE_SECONDS, pauses()
            assert time.monotonic() < deadline, f"deliveries, events, grants that stand still: {now}"
            await asyncio.sleep(next(pause))

    async def _on_their_way(self) -> tuple[int, ...]:
        deliveries = (await self.stripe.state())["deliveries"]["pending"]
        [(events,)] = self.rows("payments", "SELECT count(*) FROM stripe_events WHERE status = 'received'")
        told = self.rows("payments", "SELECT id FROM outbox WHERE subject = 'payments.points.grant_changed'")
        heard = self.rows("wallet", "SELECT message_id FROM inbox WHERE consumer = 'wallet__grant'")
        return int(deliveries), int(events), len(set(told) - set(heard))


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    pause = pauses()
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not await condition():
                await asyncio.sleep(next(pause))
    except TimeoutError:
        raise AssertionError(f"not so in {_PATIENCE_SECONDS} s: {what}") from None


@asynccontextmanager
async def shop_at(stack: RunningStack) -> AsyncIterator[Shop]:
    """The shop's webhooks go their usual way again afterwards."""
    async with (
        httpx.AsyncClient(base_url=stack.file.gateway_url, timeout=20, trust_env=False) as http,
        grpc.aio.insecure_channel(stack.file.grpc["payments"]) as channel,
    ):
        shop = Shop(stack, http, channel)
        try:
            yield shop
        finally:
            await shop.stripe.quiet()
            await shop.stripe.http.aclose()
