"""The webhook endpoint takes no more at once, and waits no longer, than it can afford."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Route

from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.rates import Rate
from services.payments import webhooks
from services.payments.webhooks import Receiver, create_app
from tests.support.plain_http import NO_TLS


@pytest.fixture
def receiver() -> Receiver:
    """The endpoint without a database: nothing in these tests gets that far."""
    return Receiver(
        database=cast(Database, None),
        keyring=Keyring(SecretStr("test:" + "A" * 43)),
        secrets=("whsec_test",),
        livemode=False,
        wake=lambda: None,
    )


@pytest.fixture
async def client(receiver: Receiver) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=[Route("/", receiver.receive, methods=["POST"])])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://payments.test", verify=NO_TLS
    ) as client:
        yield client


async def test_one_more_than_it_can_hold_is_sent_away_at_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_MAX_RUNNING", 1)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slowly() -> Any:
        started.set()
        await go_on.wait()
        yield b"x"

    first = asyncio.create_task(client.post("/", content=slowly()))
    await started.wait()
    second = await client.post("/", content=b"x")
    assert (second.status_code, second.json()["code"]) == (503, "overloaded")
    assert second.headers["retry-after"] == "1"
    go_on.set()
    assert (await first).status_code == 400
    assert (await client.post("/", content=b"x")).status_code == 400


async def test_a_body_that_never_ends_is_given_up(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_BODY_SECONDS", 0.05)

    async def never() -> Any:
        yield b"x"
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        assert (await client.post("/", content=never())).status_code == 400


async def test_a_source_that_sends_too_much_is_refused_before_its_body_is_read(receiver: Receiver) -> None:
    app = create_app(receiver, rate=Rate(2, 0.01), trusted_proxies=(ip_network("10.0.0.1"),))

    def source(address: str, **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, client=(address, 1))
        return httpx.AsyncClient(
            transport=transport, base_url="http://payments.test", headers=headers, verify=NO_TLS
        )

    async def deliver(http: httpx.AsyncClient, content: Any = b"x") -> httpx.Response:
        return await http.post("/api/webhooks/stripe", content=content)

    async def unread() -> Any:
        raise AssertionError("read")
        yield b""

    first, claiming = source("203.0.113.1"), source("203.0.113.1", **{"X-Forwarded-For": "198.51.100.1"})
    assert [(await deliver(http)).status_code for http in (first, claiming)] == [400, 400]
    refused = await deliver(claiming, unread())
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "100"
    assert refused.headers["content-type"] == "application/problem+json"
    # Others are not hindered, also those for whom the gateway speaks.
    relayed = (source("10.0.0.1", **{"X-Forwarded-For": f"198.51.100.{number}"}) for number in range(4))
    assert [(await deliver(http)).status_code for http in (source("203.0.113.2"), *relayed)] == [400] * 5
    assert (await first.get("/healthz")).status_code == 200
