"""The webhook endpoint takes no more at once, and waits no longer, than it can afford."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette

from services.chassis.bodies import MIB, Bodies
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.rates import Rate
from services.payments import webhooks
from services.payments.webhooks import MAX_BODY_BYTES, Door, Receiver, create_app
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


def door_of(receiver: Receiver, **changes: Any) -> Door:
    """The way in; every bound is wide unless it is given."""
    bodies = Bodies(max_bytes=MAX_BODY_BYTES, seconds=changes.pop("seconds", 5.0), max_bytes_under_way=MIB)
    defaults: dict[str, Any] = {"rate": None, "most_at_once": 1_000, "trusted_proxies": ()}
    return Door(receiver, bodies=bodies, **{**defaults, **changes})


def shop_of(receiver: Receiver, **changes: Any) -> Starlette:
    """The webhook port."""
    return create_app(door_of(receiver, **changes))


def source(app: Starlette, address: str = "203.0.113.1", **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=(address, 1)),
        base_url="http://payments.test",
        headers=headers,
        verify=NO_TLS,
    )


async def deliver(http: httpx.AsyncClient, content: Any = b"x") -> httpx.Response:
    return await http.post("/api/webhooks/stripe", content=content)


class Unfinished:
    """A body that goes on when it is told to."""

    def __init__(self, size_bytes: int = 1) -> None:
        self._size_bytes = size_bytes
        self.has_begun, self.goes_on = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"x" * self._size_bytes
        self.has_begun.set()
        await self.goes_on.wait()


async def test_bodies_on_their_way_take_no_place(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_MAX_RUNNING", 1)
    async with source(shop_of(receiver)) as http, asyncio.TaskGroup() as group:
        bodies = [Unfinished() for _ in range(3)]
        waiting = [group.create_task(deliver(http, body)) for body in bodies]
        await asyncio.gather(*(body.has_begun.wait() for body in bodies))
        assert (await deliver(http)).status_code == 400
        for body in bodies:
            body.goes_on.set()
    assert [(await each).status_code for each in waiting] == [400] * 3


async def test_one_more_than_it_can_work_on_is_sent_away_at_once(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_MAX_RUNNING", 0)
    async with source(shop_of(receiver)) as http:
        refused = await deliver(http)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["retry-after"] == "1"


async def test_a_source_may_have_so_many_under_way_and_others_are_not_hindered(receiver: Receiver) -> None:
    app = shop_of(receiver, most_at_once=1)
    async with source(app) as http, source(app, "203.0.113.2") as other, asyncio.TaskGroup() as group:
        body = Unfinished()
        first = group.create_task(deliver(http, body))
        await body.has_begun.wait()
        refused = await deliver(http)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_at_once")
        assert (await deliver(other)).status_code == 400
        body.goes_on.set()
    assert (await first).status_code == 400
    async with source(app) as http:
        assert (await deliver(http)).status_code == 400


async def test_large_bodies_of_one_source_leave_room_for_others(receiver: Receiver) -> None:
    """A MiB may be under way in all, half of it from one source."""
    app = shop_of(receiver)
    async with source(app) as http, source(app, "203.0.113.2") as other, asyncio.TaskGroup() as group:
        body = Unfinished(400 * 1024)
        first = group.create_task(deliver(http, body))
        await body.has_begun.wait()
        refused = await deliver(http, b"x" * 200 * 1024)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert (await deliver(other, b"x" * 200 * 1024)).status_code == 400
        body.goes_on.set()
    assert (await first).status_code == 400


async def test_a_body_that_never_ends_is_given_up(receiver: Receiver) -> None:
    async with source(shop_of(receiver, seconds=0.05)) as http, asyncio.timeout(5):
        answer = await deliver(http, Unfinished())
    assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")


async def test_a_source_that_sends_too_much_is_refused_before_its_body_is_read(receiver: Receiver) -> None:
    app = shop_of(receiver, rate=Rate(2, 0.01), trusted_proxies=(ip_network("10.0.0.1"),))

    async def unread() -> Any:
        raise AssertionError("read")
        yield b""

    first, claiming = source(app), source(app, **{"X-Forwarded-For": "198.51.100.1"})
    assert [(await deliver(http)).status_code for http in (first, claiming)] == [400, 400]
    refused = await deliver(claiming, unread())
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "100"
    assert refused.headers["content-type"] == "application/problem+json"
    # Others are not hindered, also those for whom the gateway speaks.
    relayed = (source(app, "10.0.0.1", **{"X-Forwarded-For": f"198.51.100.{number}"}) for number in range(4))
    assert [(await deliver(http)).status_code for http in (source(app, "203.0.113.2"), *relayed)] == [400] * 5
    assert (await first.get("/healthz")).status_code == 200


async def test_sources_that_the_gateway_tells_have_bounds_of_their_own(receiver: Receiver) -> None:
    door = door_of(receiver, rate=Rate(2, 0.01))
    told = [await door.relayed(b"x", "", "203.0.113.1") for _ in range(3)]
    assert [answer.status_code for answer in told] == [400, 400, 429]
    assert (await door.relayed(b"x", "", "203.0.113.2")).status_code == 400
    assert (await door.relayed(b"x" * (MAX_BODY_BYTES + 1), "", "203.0.113.2")).status_code == 413
