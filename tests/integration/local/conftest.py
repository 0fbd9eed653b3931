"""The local stand-ins as they really run: their own processes, and an endpoint that takes webhooks."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stripe import HTTPXClient, StripeClient

from deploy.local.ports import busy
from services.chassis.http_server import serving
from tests.support.plain_http import NO_TLS

KEY, SECRET = "sk_test_sandbox", "whsec_sandbox"
VERSION = "2026-10-28.endive"
# The official client hands bytes to httpx as `data=`, which httpx deprecates.
_OFFICIAL_CLIENT = "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"
START_SECONDS, SETTLE_SECONDS = 20, 15


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "stripe_sandbox" in item.path.name:
            item.add_marker(pytest.mark.filterwarnings(_OFFICIAL_CLIENT))


def free_port() -> int:
    """Below the ephemeral range, where a client that retries could be handed the very port it calls."""
    return next(port for port in random.sample(range(18_000, 30_000), 100) if not busy([port]))


async def eventually(condition: Callable[[], Awaitable[bool] | bool], what: str) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


@dataclass
class Process:
    """A program of ours under its own pid."""

    module: str
    environment: dict[str, str]
    health: str
    running: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.running = self._spawn()
        async with httpx.AsyncClient(verify=NO_TLS) as http:
            deadline = time.monotonic() + START_SECONDS
            while time.monotonic() < deadline:
                assert self.running.poll() is None, f"{self.module} ended at once"
                try:
                    if (await http.get(self.health)).status_code == 200:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        raise AssertionError(f"{self.module} does not answer")

    def _spawn(self) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-m", self.module]
        return subprocess.Popen(arguments, env=os.environ | self.environment, stderr=subprocess.DEVNULL)

    def end(self, number: signal.Signals) -> int:
        """Sends the signal; returns the exit status."""
        assert self.running
        self.running.send_signal(number)
        return self.running.wait(10)


@dataclass
class Endpoint:
    """Where webhooks arrive; answers with the statuses of `answers` first, then 200."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    arrived: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        self.arrived.append((dict(request.headers), await request.body()))
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.arrived]

    def about(self, session_id: str) -> list[str]:
        """The types of the events that have arrived about a session."""
        return [body["type"] for body in self.bodies() if body["data"]["object"]["id"] == session_id]


@asynccontextmanager
async def endpoint_running() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    listen = f"127.0.0.1:{free_port()}"
    endpoint.url = f"http://{listen}/hooks"
    app = Starlette(routes=[Route("/hooks", endpoint.take, methods=["POST"])])
    async with serving(app, listen, stop_seconds=1):
        yield endpoint


@dataclass
class Sandbox:
    """A running sandbox, the official client at it, and a browser."""

    process: Process
    url: str
    client: StripeClient
    http: httpx.AsyncClient
    endpoint: Endpoint

    @property
    def sessions(self) -> Any:
        return self.client.v1.checkout.sessions

    async def open(self, *, key: str | None = None, **more: Any) -> Any:
        """A session for two lines, 47.98 EUR in all."""
        options = {"idempotency_key": key} if key else {}
        return await self.sessions.create_async(session_params(**more), options)

    async def retrieve(self, session_id: str) -> Any:
        return await self.sessions.retrieve_async(session_id)

    async def press(self, session_id: str, action: str) -> httpx.Response:
        return await self.http.post(f"/c/pay/{session_id}", data={"action": action})

    async def control(self, path: str, body: Any = None) -> Any:
        answer = await self.http.post(f"/_control/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def state(self) -> Any:
        return (await self.http.get("/_control/state")).json()

    async def events_of(self, session_id: str) -> list[Any]:
        """Newest first: the events about a session."""
        events = await self.client.v1.events.list_async({"limit": 100})
        return [event for event in events.data if event.data.object.id == session_id]


def session_params(**more: Any) -> dict[str, Any]:
    line = {"currency": "eur", "unit_amount": 3999, "product_data": {"name": "550 points & <b>more</b>"}}
    other = line | {"unit_amount": 799, "product_data": {"name": "An image"}}
    return {
        "mode": "payment",
        "success_url": "https://shop.test/success?session={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://shop.test/cancel",
        "line_items": [{"price_data": line, "quantity": 1}, {"price_data": other, "quantity": 1}],
        **more,
    }


@asynccontextmanager
async def sandbox_running(data: Path, endpoint: Endpoint) -> AsyncIterator[Sandbox]:
    listen = f"127.0.0.1:{free_port()}"
    url = f"http://{listen}"
    environment = {
        "SANDBOX_LISTEN": listen,
        "SANDBOX_PUBLIC_URL": url,
        "SANDBOX_WEBHOOK_URL": endpoint.url,
        "SANDBOX_DATA": str(data),
        "STRIPE_SECRET_KEY": KEY,
        "STRIPE_WEBHOOK_SECRET": SECRET,
    }
    process = Process("deploy.local.stripe_sandbox", environment, f"{url}/healthz")
    transport: Any = HTTPXClient(timeout=4.5, allow_sync_methods=True)
    client = StripeClient(
        KEY,
        base_addresses={"api": url},
        stripe_version=VERSION,
        http_client=transport,
        max_network_retries=0,
    )
    await process.start()
    async with httpx.AsyncClient(base_url=url, timeout=10, verify=NO_TLS) as http:
        try:
            yield Sandbox(process, url, client, http, endpoint)
        finally:
            process.end(signal.SIGKILL)
            transport.close()
            await transport.close_async()


@pytest.fixture(scope="session")
async def endpoint() -> AsyncIterator[Endpoint]:
    async with endpoint_running() as running:
        yield running


@pytest.fixture(scope="session")
async def shared_sandbox(
    endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Sandbox]:
    async with sandbox_running(tmp_path_factory.mktemp("sandbox"), endpoint) as running:
        yield running


@pytest.fixture
async def sandbox(shared_sandbox: Sandbox) -> AsyncIterator[Sandbox]:
    """One sandbox for all, left without faults and with webhooks on."""
    yield shared_sandbox
    shared_sandbox.endpoint.answers.clear()
    await shared_sandbox.http.delete("/_control/faults")
    await shared_sandbox.control("webhooks", {"mode": "deliver"})
    await shared_sandbox.control("webhooks/flush")


@pytest.fixture
async def own_sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox that a test may kill, with an endpoint of its own."""
    async with endpoint_running() as endpoint, sandbox_running(tmp_path, endpoint) as running:
        yield running


@dataclass
class Mailbox:
    """A running mailbox and its web face."""

    process: Process
    smtp_port: int
    http: httpx.AsyncClient

    async def mails(self, to: str) -> list[dict[str, Any]]:
        answer = await self.http.get("/api/messages", params={"to": to})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["items"])


@pytest.fixture
async def mailbox(tmp_path: Path) -> AsyncIterator[Mailbox]:
    smtp_port, web = free_port(), f"127.0.0.1:{free_port()}"
    environment = {
        "MAILBOX_SMTP_LISTEN": f"127.0.0.1:{smtp_port}",
        "MAILBOX_WEB_LISTEN": web,
        "MAILBOX_DATA": str(tmp_path / "mails"),
    }
    process = Process("deploy.local.mailbox", environment, f"http://{web}/healthz")
    await process.start()
    async with httpx.AsyncClient(base_url=f"http://{web}", verify=NO_TLS) as http:
        try:
            yield Mailbox(process, smtp_port, http)
        finally:
            process.end(signal.SIGKILL)
