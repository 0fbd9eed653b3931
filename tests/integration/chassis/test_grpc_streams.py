"""Streaming calls: errors both ways, back-pressure, what a client that leaves ends and what it does not."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from services.chassis.errors import NotFound, OutcomeUnknown
from services.chassis.grpc_client import channel, stream
from services.chassis.grpc_server import GrpcServer
from tests.integration.chassis.test_grpc import free_address

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
