"""Following an order: through any replica, resumed, bounded, ended with the replica or with the order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from protos.orders.v1 import orders_pb2 as pb
from services.orders.card_saga import PAID
from tests.integration.orders.shop import STRIPE, OrdersProcess, Shop, connected
from tests.integration.orders.test_card_orders import tell

Heard = tuple[int | None, str, bool]


class Follower:
    """Reads the stream of one order."""

    def __init__(self, shop: Shop, user_id: UUID, order_id: str, *, after: int = 0) -> None:
        request = pb.WatchOrderRequest(user_id=str(user_id), order_id=order_id, after_version=after)
        self.call: Any = shop.orders.WatchOrder(request, timeout=60)

    async def hears(self) -> Heard | None:
        """Version, status, whether it is the last; None at the end."""
        async with asyncio.timeout(10):
            message = await self.call.read()
        if message is grpc.aio.EOF:
            return None
        order = message.order if message.HasField("order") else None
        status = pb.OrderStatus.Name(order.status).removeprefix("ORDER_STATUS_") if order else ""
        return (order.version if order else None, status, message.is_final)

    async def code(self) -> grpc.StatusCode:
        async with asyncio.timeout(10):
            code: grpc.StatusCode = await self.call.code()
        return code


@pytest.fixture(scope="module")
def replica(shop: Shop, orders_process: OrdersProcess) -> Callable[[], Any]:
    """Starts another replica on the same database, with room for two."""

    @asynccontextmanager
    async def start() -> AsyncIterator[tuple[Any, Shop]]:
        with orders_process.running(MAX_WATCHERS="2") as (process, address):
            async with connected(
                address,
                orders_process.servers,
                wallet=shop.wallet,
                payments=shop.payments,
                smtp=shop.smtp,
                jetstream=shop.jetstream,
            ) as second:
                yield process, second

    return start


async def test_an_order_is_followed_at_one_replica_and_changed_by_another(
    shop: Shop, replica: Callable[[], Any]
) -> None:
    user_id, picture = uuid4(), await shop.product(cents=500)
    order = await shop.place(user_id, {picture: 1}, method=STRIPE)
    async with replica() as (process, other):
        near, far = Follower(shop, user_id, order.id), Follower(other, user_id, order.id)
        assert await near.hears() == await far.hears() == (2, "PENDING", False)
        resumed = Follower(other, user_id, order.id, after=2)
        await resumed.call.wait_for_connection()
        # There is room for two.
        assert await Follower(other, user_id, order.id).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stranger = Follower(other, uuid4(), order.id)
        assert await stranger.code() is grpc.StatusCode.NOT_FOUND
        # Who went away makes room at once.
        far.call.cancel()
        far = await _follow_when_there_is_room(other, user_id, order.id)

        await tell(shop, order, PAID, 2)
        for follower in (near, far, resumed):
            assert await follower.hears() == (3, "COMPLETED", True)
            assert await follower.hears() is None

        waiting = await shop.place(user_id, {picture: 1}, method=STRIPE)
        last = Follower(other, user_id, waiting.id)
        assert await last.hears() == (2, "PENDING", False)
        process.terminate()
        with suppress(grpc.aio.AioRpcError):
            assert await last.hears() is None
        async with asyncio.timeout(5):
            await asyncio.to_thread(process.wait)
    assert process.returncode == 0
    assert await Follower(shop, user_id, waiting.id, after=1).hears() == (2, "PENDING", False)


async def _follow_when_there_is_room(shop: Shop, user_id: UUID, order_id: str) -> Follower:
    async with asyncio.timeout(5):
        while True:
            follower = Follower(shop, user_id, order_id)
            with suppress(grpc.aio.AioRpcError):
                assert await follower.hears() == (2, "PENDING", False)
                return follower


async def test_a_refund_is_followed_until_it_has_arrived(shop: Shop) -> None:
    user_id, picture = await shop.wallet.user(100), await shop.product(points=40)
    order = await shop.place(user_id, {picture: 2})
    await shop.run_ends(order.id, "done")
    assert await Follower(shop, user_id, order.id).hears() == (2, "COMPLETED", True)
    assert await Follower(shop, user_id, order.id, after=2).hears() == (None, "", True)
    await shop.refund(order.id, {picture: 1})
    follower, heard = Follower(shop, user_id, order.id, after=2), []
    while (news := await follower.hears()) is not None:
        heard.append(news)
    assert heard[-1] == (4, "COMPLETED", True)
    assert [version for version, *_ in heard] in ([3, 4], [4])


async def test_waiting_holds_no_connection(shop: Shop) -> None:
    """Forty followers; the service has a pool of ten, and answers."""
    user_id, picture = uuid4(), await shop.product(cents=500)
    order = await shop.place(user_id, {picture: 1}, method=STRIPE)
    followers = [Follower(shop, user_id, order.id) for _ in range(40)]
    assert {await follower.hears() for follower in followers} == {(2, "PENDING", False)}
    assert (await shop.get(user_id, order.id)).version == 2
    await tell(shop, order, PAID, 2)
    assert {await follower.hears() for follower in followers} == {(3, "COMPLETED", True)}


@pytest.mark.parametrize(
    "bad", [{"user_id": "x"}, {"order_id": ""}, {"order_id": "' OR 1=1"}, {"user_id": str(uuid4()) + "\0"}]
)
async def test_hostile_fields_are_refused(shop: Shop, bad: dict[str, str]) -> None:
    fields: dict[str, Any] = {"user_id": str(uuid4()), "order_id": str(uuid4())} | bad
    request = pb.WatchOrderRequest(**fields)
    call: Any = shop.orders.WatchOrder(request, timeout=10)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    for after in (-(2**63), 2**63 - 1):
        request = pb.WatchOrderRequest(user_id=str(uuid4()), order_id=str(uuid4()), after_version=after)
        unknown: Any = shop.orders.WatchOrder(request, timeout=10)
        assert await unknown.code() is grpc.StatusCode.NOT_FOUND
