"""The primary is lost and its standby promoted: what wallet acknowledged is there, and wallet goes on."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
from nats.js import JetStreamContext

from deploy.local.ephemeral import wait_until
from deploy.postgres.roles import role
from protos.wallet.v1 import wallet_pb2
from services.chassis.tasks import background
from tests.integration.wallet.client import Wallet, WalletProcess, connected
from tests.support.postgres_pair import PostgresPair, postgres_pair
from tests.support.servers import Servers

_CUSTOMERS = 8
_POINTS = 10
_CALL_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
# Nobody is there: facts wait in the outbox, and disturb no other wallet.
_NO_BROKER = "nats://127.0.0.1:1"
_NOT_NOW = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass(frozen=True)
class WalletOfPair(WalletProcess):
    pair: PostgresPair

    def url(self, login: str) -> str:
        return self.pair.url("wallet", role("wallet", login))


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


async def test_what_was_acknowledged_is_on_the_promoted_standby(
    servers: Servers, jetstream: JetStreamContext, tmp_path: Path
) -> None:
    with postgres_pair(tmp_path) as pair:
        process = WalletOfPair(servers, tmp_path, pair)
        process.migrate()
        with process.running(NATS_URL=_NO_BROKER) as (_, address):
            wallet = replace(await connected(process, address, jetstream), superuser_url=pair.url("wallet"))
            customers = [Customer(wallet) for _ in range(_CUSTOMERS)]

            def acknowledged() -> int:
                return sum(len(customer.given) + len(customer.orders) for customer in customers)

            async def more(number: int) -> None:
                wanted = acknowledged() + number
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    while acknowledged() < wanted:
                        await asyncio.sleep(0.02)

            async with background(*(customer.go_on() for customer in customers)):
                await more(100)
                pair.cut_replication()
                await asyncio.to_thread(
                    wait_until,
                    lambda: pair.waiting() > 1,
                    seconds=_PATIENCE_SECONDS,
                    what="commits that wait",
                )
                await asyncio.to_thread(pair.promote)
                await more(50)
        # Nothing that was asked for last is still on its way.
        for customer in customers:
            await customer.assert_nothing_is_lost()
