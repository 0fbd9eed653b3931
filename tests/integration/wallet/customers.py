"""Customers who never rest, for what happens to wallet under them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import grpc

from protos.wallet.v1 import wallet_pb2
from tests.integration.wallet.client import Wallet

_POINTS = 10
_CALL_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
_NOT_NOW = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass
class Customer:
    """Is given points and holds them for an order, again and again; repeats what was not answered."""

    wallet: Wallet
    user_id: UUID = field(default_factory=uuid4)
    given: list[UUID] = field(default_factory=list)
    orders: list[UUID] = field(default_factory=list)

    async def go_on(self) -> None:
        """Until it is cancelled."""
        while True:
            adjustment, order = uuid4(), uuid4()
            gift = wallet_pb2.AdjustPointsRequest(
                user_id=str(self.user_id),
                adjustment_id=str(adjustment),
                points=_POINTS,
                reason="A gift",
                actor="cli:ada",
            )
            await _insist(self.wallet.stub.AdjustPoints, gift)
            self.given.append(adjustment)
            hold = wallet_pb2.ReservePointsRequest(
                user_id=str(self.user_id), order_id=str(order), points=_POINTS
            )
            await _insist(self.wallet.stub.ReservePoints, hold)
            self.orders.append(order)

    async def assert_nothing_is_lost(self) -> None:
        given = await self.wallet.sql(
            "SELECT metadata->>'adjustment_id' AS id FROM points_transactions WHERE user_id = %s",
            self.user_id,
        )
        assert {str(adjustment) for adjustment in self.given} <= {row["id"] for row in given}
        held = await self.wallet.sql("SELECT order_id FROM holds WHERE user_id = %s", self.user_id)
        assert set(self.orders) <= {row["order_id"] for row in held}
        await self.wallet.assert_adds_up(self.user_id)


async def _insist(method: Callable[..., Any], request: Any) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            try:
                await method(request, timeout=_CALL_SECONDS)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in _NOT_NOW:
                    raise
                await asyncio.sleep(0.1)


async def more(customers: Sequence[Customer], number: int, *, seconds: float) -> None:
    """Waits until so many more calls were acknowledged."""

    def acknowledged() -> int:
        return sum(len(customer.given) + len(customer.orders) for customer in customers)

    wanted = acknowledged() + number
    async with asyncio.timeout(seconds):
        while acknowledged() < wanted:
            await asyncio.sleep(0.02)
