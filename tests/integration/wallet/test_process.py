"""The process itself: health, reflection, a clean end, and a crash around every commit."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from nats.js import JetStreamContext

from tests.integration.wallet.client import Wallet, WalletProcess, connected


async def test_it_answers_health_and_reflection_and_ends_on_sigterm(
    process: WalletProcess, jetstream: JetStreamContext
) -> None:
    with process.running() as (running, address):
        await connected(process, address, jetstream)
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", "aishop.wallet.v1.WalletService"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            async for listed in reflection.ServerReflectionInfo(asked):
                names = {service.name for service in listed.list_services_response.service}
                assert "aishop.wallet.v1.WalletService" in names
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0


def test_migrating_again_changes_nothing(process: WalletProcess) -> None:
    process.migrate()


def test_a_missing_secret_stops_the_start(process: WalletProcess) -> None:
    with process.running(EMAIL_HMAC_KEY="short") as (running, _):
        assert running.wait(10) != 0


Step = Callable[[Wallet, UUID, UUID], Awaitable[object]]
REFUND = uuid4()


async def reserve(wallet: Wallet, user: UUID, order: UUID) -> object:
    return await wallet.reserve(user, order, 200)


async def capture(wallet: Wallet, user: UUID, order: UUID) -> object:
    return await wallet.capture((user, order))


async def release(wallet: Wallet, user: UUID, order: UUID) -> object:
    return await wallet.release(user, order)


async def refund(wallet: Wallet, user: UUID, order: UUID) -> object:
    return await wallet.refund(user, order, 50, refund_id=order)


async def adjust(wallet: Wallet, user: UUID, order: UUID) -> object:
    return await wallet.adjust(user, 50, adjustment_id=order)


STEPS: dict[str, tuple[list[Step], Step, tuple[int, int, int], tuple[int, int, int]]] = {
    # failpoint: (what came before, what crashes, balance before it, balance after it)
    "wallet.reserved": ([], reserve, (550, 0, 0), (550, 200, 0)),
    "wallet.captured": ([reserve], capture, (550, 200, 0), (350, 0, 0)),
    "wallet.released": ([reserve], release, (550, 200, 0), (550, 0, 0)),
    "wallet.refunded": ([reserve, capture], refund, (350, 0, 0), (400, 0, 0)),
    "wallet.adjusted": ([reserve], adjust, (550, 200, 0), (600, 200, 0)),
}


@pytest.mark.parametrize("moment", ["writing", "committed"])
@pytest.mark.parametrize("point", sorted(STEPS))
async def test_a_crash_around_a_commit_leaves_all_or_nothing_and_a_retry_one_effect(
    process: WalletProcess, jetstream: JetStreamContext, wallet: Wallet, point: str, moment: str
) -> None:
    history, step, before, after = STEPS[point]
    user, order = await wallet.user(550), uuid4()
    for earlier in history:
        await earlier(wallet, user, order)
    with process.running(FAILPOINTS=f"{point}.{moment}=kill") as (running, address):
        doomed = await connected(process, address, jetstream)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await step(doomed, user, order)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert running.wait(10) == -signal.SIGKILL
    assert await wallet.balance(user) == (before if moment == "writing" else after)
    await step(wallet, user, order)
    assert await wallet.balance(user) == after
    await wallet.assert_adds_up(user)


@pytest.mark.parametrize("moment", ["writing", "committed"])
async def test_a_crash_while_asking_asks_as_often_as_it_says(
    process: WalletProcess, wallet: Wallet, moment: str
) -> None:
    user, order = await wallet.user(550), uuid4()
    await wallet.reserve(user, order, 1)
    with process.running(FAILPOINTS=f"wallet.overdue.{moment}=kill") as (running, _):
        async with asyncio.timeout(20):
            # The other replica asks too, until this one was quicker.
            while running.poll() is None:
                await wallet.sql("UPDATE holds SET due_at = now() WHERE order_id = %s", order)
                await asyncio.sleep(0.05)
        assert running.wait() == -signal.SIGKILL
    asked = await wallet.until("SELECT asked FROM holds WHERE order_id = %s AND due_at > now()", order)
    events = "SELECT 1 FROM outbox WHERE subject = 'wallet.hold.overdue' AND position(%s in payload) > 0"
    assert len(await wallet.sql(events, str(order).encode())) == asked[0]["asked"]
