"""Streaming calls: errors both ways, back-pressure, traces, what a client that leaves ends and what not."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from services.chassis import tracing
from services.chassis.errors import NotFound, OutcomeUnknown, Overloaded, Unavailable
from services.chassis.grpc_client import channel, open_stream, stream
from services.chassis.grpc_server import GrpcServer
from tests.integration.chassis.support import eventually
from tests.integration.chassis.test_grpc import free_address, get_profile, serving

Parts = Callable[[], AsyncGenerator[bytes, None]]


class Servicer(orders_pb2_grpc.OrdersServiceServicer):
    """Answers Download with the parts that the test gives."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def Download(self, _request: Any, _: Any) -> AsyncGenerator[orders_pb2.DownloadResponse, None]:
        async with aclosing(self.parts()) as parts:
            async for part in parts:
                yield orders_pb2.DownloadResponse(chunk=part)


@asynccontextmanager
async def calling(parts: Parts) -> AsyncIterator[tuple[GrpcServer, AsyncGenerator[Any, None]]]:
    """A server, and one call to it."""
    address = free_address()
    server = GrpcServer(address)
    # Abstract to mypy: the other methods answer UNIMPLEMENTED, as grpcio's base class has them.
    servicer: Any = Servicer
    server.add(
        servicer(parts),
        orders_pb2_grpc.add_OrdersServiceServicer_to_server,
        orders_pb2.DESCRIPTOR.services_by_name["OrdersService"],
    )
    await server.start()
    async with channel(address) as open_channel:
        stub = orders_pb2_grpc.OrdersServiceStub(open_channel)
        yield server, stream(stub.Download, orders_pb2.DownloadRequest(), timeout_seconds=10)
    await server.stop()


async def test_parts_arrive_in_order_and_an_error_after_them_as_it_left() -> None:
    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"a"
        yield b"b"
        raise NotFound("SOME_REASON", "said so", needed=7)

    async with calling(parts) as (_, messages):
        assert [(await anext(messages)).chunk for _ in range(2)] == [b"a", b"b"]
        with pytest.raises(NotFound) as error:
            await anext(messages)
    assert (error.value.reason, error.value.fields) == ("SOME_REASON", {"needed": "7"})


async def test_a_defect_tells_nothing_but_that_the_outcome_is_unknown() -> None:
    async def parts() -> AsyncGenerator[bytes, None]:
        yield b"a"
        raise RuntimeError("secret")

    async with calling(parts) as (_, messages):
        await anext(messages)
        with pytest.raises(OutcomeUnknown, match="RuntimeError"):
            await anext(messages)


async def test_a_client_that_reads_nothing_holds_the_server_back_and_one_that_leaves_ends_the_stream() -> (
    None
):
    made, ended = 0, asyncio.Event()

    async def parts() -> AsyncGenerator[bytes, None]:
        nonlocal made
        try:
            while True:
                made += 1
                yield bytes(65_536)
        finally:
            ended.set()

    async with calling(parts) as (_, messages), asyncio.timeout(15):
        await anext(messages)
        before = -1
        while made != before:
            before = made
            await asyncio.sleep(0.3)
        assert made < 200
        await messages.aclose()
        await ended.wait()


async def test_what_comes_before_the_first_part_is_finished_whoever_leaves() -> None:
    began, may_go_on, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def parts() -> AsyncGenerator[bytes, None]:
        began.set()
        await may_go_on.wait()
        finished.set()
        yield b"nobody reads this"

    async with calling(parts) as (_, messages), asyncio.timeout(10):
        reading = asyncio.create_task(anext(messages))
        await began.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        may_go_on.set()
        await finished.wait()


class Streams(orders_pb2_grpc.OrdersServiceServicer):
    """Answers WatchOrder by doing what the test says."""

    def __init__(self, body: Callable[[], AsyncGenerator[int, None]], over: asyncio.Event) -> None:
        self.body = body
        self.over = over

    async def WatchOrder(
        self, _request: Any, context: Any
    ) -> AsyncGenerator[orders_pb2.WatchOrderResponse, None]:
        context.add_done_callback(lambda _: self.over.set())
        async for version in self.body():
            yield orders_pb2.WatchOrderResponse(order=orders_pb2.Order(version=version))


@asynccontextmanager
async def streaming(
    body: Callable[[], AsyncGenerator[int, None]], over: asyncio.Event | None = None
) -> AsyncIterator[tuple[GrpcServer, Callable[[], Any]]]:
    """A server, and what opens a stream of it; `over` is set when the call is."""
    address = free_address()
    server = GrpcServer(address)
    servicer: Any = Streams
    server.add(
        servicer(body, over or asyncio.Event()),
        orders_pb2_grpc.add_OrdersServiceServicer_to_server,
        orders_pb2.DESCRIPTOR.services_by_name["OrdersService"],
    )
    await server.start()
    async with channel(address) as open_channel:
        stub = orders_pb2_grpc.OrdersServiceStub(open_channel)
        yield server, lambda: open_stream(stub.WatchOrder, orders_pb2.WatchOrderRequest(), timeout_seconds=10)
    await server.stop()


async def test_a_stream_that_is_refused_fails_before_it_is_opened() -> None:
    async def body() -> AsyncGenerator[int, None]:
        raise Overloaded("OVERLOADED", "too many", limit=1)
        yield 1

    async with streaming(body) as (_, opened):
        with pytest.raises(Unavailable) as caught:
            await opened().__aenter__()
    assert (caught.value.reason, caught.value.fields) == ("OVERLOADED", {"limit": "1"})


async def test_a_stream_that_was_given_up_finishes_its_step_and_then_cleans_up() -> None:
    finish, over, steps = asyncio.Event(), asyncio.Event(), []

    async def body() -> AsyncGenerator[int, None]:
        try:
            yield 1
            steps.append("began")
            await asyncio.wait_for(finish.wait(), 5)
            steps.append("finished")
            yield 2
            steps.append("went on")
        finally:
            steps.append("closed")

    async def has(step: str) -> bool:
        return step in steps

    async with streaming(body, over) as (_, opened):
        async with opened() as messages:
            assert (await anext(messages)).order.version == 1
            await eventually(lambda: has("began"), "the second step")
        await asyncio.wait_for(over.wait(), 5)
        finish.set()
        await eventually(lambda: has("closed"), "its end")
    assert steps == ["began", "finished", "closed"]


async def test_stopping_lets_a_running_stream_finish() -> None:
    finish = asyncio.Event()

    async def body() -> AsyncGenerator[int, None]:
        yield 1
        await asyncio.wait_for(finish.wait(), 5)
        yield 2

    async with streaming(body) as (server, opened), opened() as messages:
        assert (await anext(messages)).order.version == 1
        stopping = asyncio.create_task(server.stop())
        finish.set()
        assert [message.order.version async for message in messages] == [2]
        await stopping


async def test_a_call_goes_on_with_the_callers_trace() -> None:
    seen: list[str | None] = []

    async def unary() -> None:
        seen.append(tracing.trace_id())

    async def many() -> AsyncGenerator[int, None]:
        seen.append(tracing.trace_id())
        yield 1

    with tracing.continued("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a test"):
        address = free_address()
        async with serving(unary, address):
            await get_profile(address)
        async with streaming(many) as (_, opened), opened() as messages:
            await anext(messages)
    assert seen == ["4bf92f3577b34da6a3ce929d0e0e4736"] * 2
