"""`python -m gateway` as a process, and a plain TCP server where a service or payments' webhook port is."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from protos.payments.v1 import payments_pb2 as pb
from protos.payments.v1 import payments_pb2_grpc
from tests.support.plain_http import NO_TLS

ROOT = Path(__file__).parents[3]
SECRET = "a secret of the integration tests, long enough"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Peer(payments_pb2_grpc.PaymentsServiceServicer):
    """Takes webhooks as payments does, and keeps them; answers when `release` is set."""

    def __init__(self) -> None:
        self.target = ""
        self.answer = pb.ReceiveWebhookResponse(
            status=200, content_type="application/json", body=b'{"received":true}'
        )
        self.requests: list[pb.ReceiveWebhookRequest] = []
        self.arrived = asyncio.Event()
        self.release = asyncio.Event()

    async def ReceiveWebhook(
        self, request: pb.ReceiveWebhookRequest, _context: object
    ) -> pb.ReceiveWebhookResponse:
        self.requests.append(request)
        self.arrived.set()
        await self.release.wait()
        return self.answer


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    served = Peer()  # type: ignore[abstract]
    server = grpc.aio.server()
    payments_pb2_grpc.add_PaymentsServiceServicer_to_server(served, server)
    served.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield served
    served.release.set()
    await server.stop(None)


class _Mute(grpc.GenericRpcHandler):
    """Takes every call and never answers."""

    def service(self, _details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        async def hang(_request: bytes, _context: Any) -> bytes:
            await asyncio.Event().wait()
            return b""

        return grpc.unary_unary_rpc_method_handler(hang)


@pytest.fixture
async def mute() -> AsyncIterator[str]:
    """The target of a service that hangs."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Mute(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


class _Silent(grpc.GenericRpcHandler):
    """Takes every stream and has no news."""

    def service(self, _details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        async def hang(_request: bytes, context: Any) -> AsyncIterator[bytes]:
            await context.send_initial_metadata(())
            await asyncio.Event().wait()
            yield b""

        return grpc.unary_stream_rpc_method_handler(hang)


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """The target of a service whose streams stay open."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Silent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@dataclass
class Gateway:
    process: asyncio.subprocess.Process
    http: httpx.AsyncClient

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self) -> int:
        async with asyncio.timeout(10):
            return await self.process.wait()


GatewayStarter = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start_gateway(tmp_path: Path) -> AsyncIterator[GatewayStarter]:
    started: list[Gateway] = []

    async def start(**environment: str) -> Gateway:
        gateway = await _spawn(tmp_path / f"gateway-{len(started)}.log", environment)
        started.append(gateway)
        await _until_alive(gateway.http)
        return gateway

    yield start
    for gateway in started:
        await gateway.http.aclose()
        if gateway.process.returncode is None:
            gateway.process.kill()
            await gateway.process.wait()


async def _spawn(log: Path, environment: dict[str, str]) -> Gateway:
    port, nowhere = free_port(), "127.0.0.1:1"
    settings = {
        "LISTEN": f"127.0.0.1:{port}",
        "WALLET_TARGET": nowhere,
        "ORDERS_TARGET": nowhere,
        "PAYMENTS_TARGET": nowhere,
        "AUTH_JWT_SECRET": SECRET,
    }
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway"),
            cwd=ROOT,
            env={**os.environ, **settings, **environment},
            stderr=stream,
        )
    return Gateway(
        process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15, trust_env=False, verify=NO_TLS),
    )


async def _until_alive(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(httpx.TransportError):
                if (await http.get("/healthz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
