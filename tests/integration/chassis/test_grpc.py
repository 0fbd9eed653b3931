"""gRPC server and client: errors both ways, deadlines, retries, cancelled calls, the drain."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis import rounds
from services.chassis.errors import (
    Conflict,
    DomainError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)
from services.chassis.grpc_client import call, channel
from services.chassis.grpc_server import GrpcServer
from services.chassis.transport import Transport
from services.chassis.workers import Worker, background
from tests.integration.chassis.support import eventually
from tests.support.metrics import value

Body = Callable[[], Awaitable[None]]


class Servicer(wallet_pb2_grpc.WalletServiceServicer):
    """Answers GetProfile by doing what the test says."""

    def __init__(self, body: Body) -> None:
        self.body = body

    async def GetProfile(self, request: Any, _: Any) -> wallet_pb2.GetProfileResponse:
        await self.body()
        return wallet_pb2.GetProfileResponse(profile=wallet_pb2.Profile(id=request.user_id))


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@asynccontextmanager
async def serving(body: Body, address: str) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(address)
    # Abstract to mypy: the other methods answer UNIMPLEMENTED, as grpcio's base class has them.
    servicer: Any = Servicer
    server.add(
        servicer(body),
        wallet_pb2_grpc.add_WalletServiceServicer_to_server,
        wallet_pb2.DESCRIPTOR.services_by_name["WalletService"],
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def get_profile(address: str, *, seconds: float = 5.0) -> Any:
    async with channel(address) as open_channel:
        stub = wallet_pb2_grpc.WalletServiceStub(open_channel)
        return await call(stub.GetProfile, wallet_pb2.GetProfileRequest(user_id="u"), timeout_seconds=seconds)


def raising(error: Exception) -> Body:
    async def body() -> None:
        raise error

    return body


@pytest.mark.parametrize("kind", [Invalid, Rejected, NotFound, Conflict])
async def test_a_domain_error_arrives_as_it_left(kind: type[DomainError]) -> None:
    address = free_address()
    async with serving(raising(kind("SOME_REASON", "said so", needed=7)), address):
        with pytest.raises(kind) as caught:
            await get_profile(address)
    assert (caught.value.reason, caught.value.message, caught.value.fields) == (
        *("SOME_REASON", "said so"),
        {"needed": "7"},
    )


async def test_a_defect_tells_nothing_but_that_the_outcome_is_unknown() -> None:
    address = free_address()
    async with serving(raising(KeyError("a secret")), address):
        with pytest.raises(OutcomeUnknown) as caught:
            await get_profile(address)
    assert "secret" not in str(caught.value)


async def test_a_deadline_that_ran_out_is_an_unknown_outcome() -> None:
    address = free_address()
    never = asyncio.Event()

    async def body() -> None:
        await asyncio.wait_for(never.wait(), 3)

    async with serving(body, address):
        with pytest.raises(OutcomeUnknown):
            await get_profile(address, seconds=0.2)
        never.set()


async def test_unavailable_is_tried_again_within_the_deadline() -> None:
    address = free_address()
    calls = 0

    async def body() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Unavailable("AWAY", "in a moment")

    async with serving(body, address):
        assert (await get_profile(address)).profile.id == "u"
    assert calls == 3


async def test_other_errors_are_not_tried_again() -> None:
    address = free_address()
    calls = 0

    async def body() -> None:
        nonlocal calls
        calls += 1
        raise Rejected("NO", "no")

    async with serving(body, address):
        with pytest.raises(Rejected):
            await get_profile(address)
    assert calls == 1


async def test_calls_go_to_every_replica_in_turn_and_past_one_that_ends() -> None:
    counts = [0, 0]
    addresses = [free_address(), free_address()]

    def counting(replica: int) -> Body:
        async def body() -> None:
            counts[replica] += 1

        return body

    # As a name with two addresses resolves: grpc takes such a list without a name server.
    target = f"ipv4:{','.join(addresses)}"
    async with (
        serving(counting(0), addresses[0]),
        channel(target, Transport(is_plaintext_allowed=True)) as open_channel,
    ):
        stub = wallet_pb2_grpc.WalletServiceStub(open_channel)

        async def ask(times: int = 1) -> None:
            for _ in range(times):
                await call(stub.GetProfile, wallet_pb2.GetProfileRequest(user_id="u"), timeout_seconds=5)

        async def have_both_answered() -> bool:
            await ask()
            return all(counts)

        async with serving(counting(1), addresses[1]):
            await eventually(have_both_answered, "an answer from each replica")
            counts[:] = [0, 0]
            await ask(10)
            assert counts == [5, 5]
        await ask(4)
        assert counts == [9, 5]


async def test_calls_are_measured_by_method_and_code() -> None:
    def counted(code: str) -> float:
        name = "aishop_rpc_duration_seconds_count"
        return value(name, method="WalletService/GetProfile", code=code)

    async def fine() -> None:
        pass

    outcomes = {
        "OK": fine,
        "NOT_FOUND": raising(NotFound("NO", "no")),
        "INTERNAL": raising(KeyError("defect")),
    }
    for code, body in outcomes.items():
        before, address = counted(code), free_address()
        async with serving(body, address):
            with suppress(DomainError):
                await get_profile(address)
        assert counted(code) == before + 1, code


async def test_a_call_that_was_given_up_still_finishes_its_work() -> None:
    address = free_address()
    finish = asyncio.Event()
    started = finished = 0

    async def body() -> None:
        nonlocal started, finished
        started += 1
        if started > 20:
            return
        await asyncio.wait_for(finish.wait(), 10)
        finished += 1

    async def all_finished() -> bool:
        return finished == 20

    async with serving(body, address):
        given_up = await asyncio.gather(
            *(get_profile(address, seconds=0.5) for _ in range(20)), return_exceptions=True
        )
        assert {type(error) for error in given_up} == {OutcomeUnknown}
        # These come behind the cancellations in the server's queue.
        for _ in range(20):
            await get_profile(address)
        finish.set()
        await eventually(all_finished, "what was begun is finished")


async def test_stopping_says_so_and_lets_a_running_call_finish() -> None:
    address = free_address()
    started, finish = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        started.set()
        await asyncio.wait_for(finish.wait(), 5)

    async with serving(body, address) as server, channel(address) as open_channel:
        health = health_pb2_grpc.HealthStub(open_channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        states = aiter(watch)
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
        running = asyncio.create_task(get_profile(address))
        await asyncio.wait_for(started.wait(), 5)
        stopping = asyncio.create_task(server.stop())
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        finish.set()
        assert (await running).profile.id == "u"
        await stopping


async def test_a_port_in_use_is_a_clear_failure() -> None:
    address = free_address()

    async def body() -> None: ...

    async with serving(body, address):
        with pytest.raises(RuntimeError, match=address.rpartition(":")[2]):
            async with serving(body, address):
                pass


async def test_an_unknown_method_is_unimplemented() -> None:
    address = free_address()

    async def body() -> None: ...

    async with serving(body, address), channel(address) as open_channel:
        method: Any = open_channel.unary_unary("/aishop.wallet.v1.WalletService/Nothing")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_process_whose_work_does_not_come_to_its_end_says_that_it_is_not_well() -> None:
    """What fails has come to its end: a database that is away is no reason to start again."""
    address, may_end, failed = free_address(), asyncio.Event(), asyncio.Event()

    async def hang() -> bool:
        await may_end.wait()
        return False

    async def fail() -> bool:
        failed.set()
        raise OSError("away")

    failing = Worker("failing", fail, tick_seconds=0.01, longest_seconds=0.01)
    stuck = Worker("stuck", hang, tick_seconds=0.01, longest_seconds=0.01)
    async with serving(raising(KeyError()), address), background(failing.run()):
        await failed.wait()

        async def is_serving() -> bool:
            async with grpc.aio.insecure_channel(address) as open_channel:
                stub = health_pb2_grpc.HealthStub(open_channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest())
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        assert await is_serving()
        async with background(stuck.run()):

            async def is_unwell() -> bool:
                return not await is_serving()

            await eventually(is_unwell, "NOT_SERVING")
            assert rounds.overdue() == {"stuck"}
            may_end.set()
            await eventually(is_serving, "SERVING again")
