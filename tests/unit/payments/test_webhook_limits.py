"""The webhook endpoint takes no more at once, and waits no longer, than it can afford."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Route

from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.payments import webhooks
from services.payments.webhooks import Receiver


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """The endpoint without a database: nothing in these tests gets that far."""
    receiver = Receiver(
        database=cast(Database, None),
        keyring=Keyring(SecretStr("test:" + "A" * 43)),
        secrets=("whsec_test",),
        livemode=False,
        wake=lambda: None,
    )
    app = Starlette(routes=[Route("/", receiver.receive, methods=["POST"])])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://payments.test") as client:
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
