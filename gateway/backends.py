"""The services behind the gateway: three gRPC channels."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from protos.messaging.v1 import messaging_pb2_grpc
from protos.orders.v1 import orders_pb2_grpc
from protos.payments.v1 import payments_pb2_grpc
from protos.wallet.v1 import wallet_pb2_grpc
from services.chassis import grpc_client

WALLET_SECONDS = 2.0
PAYMENTS_SECONDS = 5.5
ORDERS_SECONDS = 6.5
# Wallet's too: a range is counted for as long as a worker's statement may take, 5 s.
ANALYTICS_SECONDS = 7.0
# As long as a worker's transaction may take.
DEAD_LETTER_SECONDS = 6.5
_HEALTH_SECONDS = 1.0
_HEALTH_KEPT_SECONDS = 1.0
WEBHOOK_SECONDS = 5.0


class Backends:
    """Typed stubs; every call through `call_*` has its service's deadline."""

    def __init__(
        self,
        *,
        wallet: grpc.aio.Channel,
        orders: grpc.aio.Channel,
        payments: grpc.aio.Channel,
    ) -> None:
        self.wallet = wallet_pb2_grpc.WalletServiceStub(wallet)
        self.catalog = orders_pb2_grpc.CatalogServiceStub(orders)
        self.catalog_operator = orders_pb2_grpc.CatalogOperatorServiceStub(orders)
        self.cart = orders_pb2_grpc.CartServiceStub(orders)
        self.orders = orders_pb2_grpc.OrdersServiceStub(orders)
        self.orders_operator = orders_pb2_grpc.OrdersOperatorServiceStub(orders)
        self.payments = payments_pb2_grpc.PaymentsServiceStub(payments)
        self.payments_operator = payments_pb2_grpc.PaymentsOperatorServiceStub(payments)
        self.dead_letters = {
            "orders": messaging_pb2_grpc.DeadLetterServiceStub(orders),
            "wallet": messaging_pb2_grpc.DeadLetterServiceStub(wallet),
        }
        self._channels = {"wallet": wallet, "orders": orders, "payments": payments}
        self._asked: asyncio.Task[list[str]] | None = None
        self._asked_at = -_HEALTH_KEPT_SECONDS

    async def unavailable(self) -> list[str]:
        """The services that do not say SERVING, asked at most once a second, whoever wants to know."""
        is_old = time.monotonic() - self._asked_at >= _HEALTH_KEPT_SECONDS
        if self._asked is None or (self._asked.done() and is_old):
            self._asked_at = time.monotonic()
            self._asked = asyncio.create_task(self._ask())
        # Whoever goes away leaves the others their answer.
        return await asyncio.shield(self._asked)

    async def _ask(self) -> list[str]:
        """All of them at once, within the time that they have."""
        answers = await asyncio.gather(*(_is_serving(channel) for channel in self._channels.values()))
        return [name for name, is_serving in zip(self._channels, answers, strict=True) if not is_serving]


@asynccontextmanager
async def connect(settings: GatewaySettings) -> AsyncIterator[Backends]:
    """Lazily connected backends, closed at the end."""
    async with AsyncExitStack() as stack:
        wallet, orders, payments = [
            await stack.enter_async_context(grpc_client.channel(target, settings.transport))
            for target in (settings.wallet_target, settings.orders_target, settings.payments_target)
        ]
        yield Backends(
            wallet=wallet,
            orders=orders,
            payments=payments,
        )


async def _is_serving(channel: grpc.aio.Channel) -> bool:
    """Asked without a span: a probe is nobody's trace."""
    health: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
