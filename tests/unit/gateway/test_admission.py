"""Whoever asks too often is sent away with the time to wait, and nobody else is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.admission import Admission
from gateway.app import create_api, guarded
from gateway.auth import Authenticator
from gateway.backends import Backends
from gateway.settings import GatewaySettings
from services.chassis.rates import LocalBuckets, RateLimiter, Try
from tests.support.plain_http import NO_TLS

TokenMaker = Callable[..., str]
# Nothing comes back while a test runs.
NARROW = {
    "rate_limit_user": "3, 0.01/s",
    "rate_limit_checkout": "1, 0.01/s",
    "rate_limit_download": "2, 0.01/s",
    "rate_limit_address": "2, 0.01/s",
    "rate_limit_webhooks": "2, 0.01/s",
}
Shop = Callable[..., Any]


@pytest.fixture
def shop(settings_with: Callable[..., GatewaySettings], backends: Backends) -> Shop:
    """A gateway with narrow limits, asked from the address that is given."""

    @asynccontextmanager
    async def open_shop(**changes: Any) -> AsyncIterator[Callable[..., httpx.AsyncClient]]:
        settings = settings_with(**{**NARROW, **changes})
        app = guarded(create_api(settings, backends), settings)

        def client(address: str = "203.0.113.1", **headers: str) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app, client=(address, 1), raise_app_exceptions=False)
            return httpx.AsyncClient(
                transport=transport, base_url="http://shop.test", headers=headers, verify=NO_TLS
            )

        yield client

    return open_shop


async def answers(
    http: httpx.AsyncClient, count: int, path: str = "/api/nothing", method: str = "GET"
) -> list[int]:
    return [(await http.request(method, path)).status_code for _ in range(count)]


async def test_a_user_is_counted_wherever_the_requests_come_from(shop: Shop, make_token: TokenMaker) -> None:
    token = make_token()
    async with shop() as client:
        here = client("203.0.113.1", Authorization=f"Bearer {token}")
        there = client("203.0.113.2", Authorization=f"Bearer {token}")
        neighbour = client("203.0.113.1", Authorization=f"Bearer {make_token()}")
        assert await answers(here, 2) == [404] * 2
        assert await answers(there, 2) == [404, 429]
        assert await answers(neighbour, 4) == [404, 404, 404, 429]


async def test_a_429_says_how_long_to_wait(shop: Shop, make_token: TokenMaker) -> None:
    async with shop(rate_limit_user="1, 0.2/s", cors_origins="https://shop.example") as client:
        http = client(Authorization=f"Bearer {make_token()}", Origin="https://shop.example")
        assert await answers(http, 1) == [404]
        refused = await http.post("/api/checkout", content=b"{")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["Retry-After"] == "5"
    assert refused.json()["traceId"] == refused.headers["X-Trace-Id"]
    # A frontend of another origin may read it.
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"


async def test_operators_are_counted_too(shop: Shop, make_token: TokenMaker) -> None:
    token = make_token(app_metadata={"role": "operator"})
    async with shop() as client:
        http = client(Authorization=f"Bearer {token}")
        assert await answers(http, 4, "/api/admin/orders/x") == [404, 404, 404, 429]


@pytest.mark.parametrize("path", ["/api/nothing", "/api/cart", "/", "/docs/errors"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer forged"}], ids=["stranger", "forger"])
async def test_who_shows_no_valid_token_is_counted_by_address(
    shop: Shop, path: str, headers: dict[str, str]
) -> None:
    async with shop() as client:
        assert 429 not in await answers(client(**headers), 2, path)
        assert await answers(client(**headers), 1, path) == [429]
        assert await answers(client("203.0.113.2", **headers), 1, path) != [429]


async def test_guessing_tokens_ends_before_anybody_else_at_the_address_is_hindered(
    shop: Shop, make_token: TokenMaker
) -> None:
    async with shop() as client:
        assert await answers(client(Authorization="Bearer forged"), 5, "/api/cart") == [401] * 2 + [429] * 3
        assert await answers(client(Authorization=f"Bearer {make_token()}"), 1) == [404]


async def test_buying_and_downloading_have_narrower_limits(shop: Shop, make_token: TokenMaker) -> None:
    for method, path, passing in (
        ("POST", "/api/checkout", 1),
        ("POST", "/api/checkout/points", 1),
        ("POST", "/api/subscriptions", 1),
        ("GET", "/api/downloads/x", 2),
    ):
        async with shop() as client:
            http = client(Authorization=f"Bearer {make_token()}")
            got = await answers(http, passing + 1, path, method)
            assert [status == 429 for status in got] == [False] * passing + [True], path
            # What was refused took nothing of the others' limit.
            assert await answers(http, 1) == [404], path


async def test_webhooks_are_counted_by_their_source(shop: Shop) -> None:
    async with shop() as client:
        assert await answers(client(), 3, "/api/webhooks/stripe", "POST") == [503, 503, 429]
        assert await answers(client("203.0.113.2"), 1, "/api/webhooks/stripe", "POST") == [503]
        # The same address as a visitor is another matter.
        assert await answers(client(), 1) == [404]


async def test_the_platforms_probes_are_never_refused(shop: Shop) -> None:
    async with shop() as client:
        assert await answers(client(), 3) == [404, 404, 429]
        assert await answers(client(), 3, "/healthz") == [200] * 3
        assert await answers(client(), 1, "/readyz") == [503]


async def test_a_header_that_anyone_may_send_opens_nothing(shop: Shop) -> None:
    async with shop() as client:
        got = [await answers(client(**{"X-Forwarded-For": f"198.51.100.{n}"}), 1) for n in range(4)]
    assert got == [[404], [404], [429], [429]]


async def test_behind_a_proxy_of_ours_each_client_is_counted_by_itself(shop: Shop) -> None:
    async with shop(trusted_proxies="203.0.113.0/24") as client:
        first, second = (client(**{"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(2))
        assert await answers(first, 3) == [404, 404, 429]
        assert await answers(second, 1) == [404]


async def test_limits_can_be_turned_off(shop: Shop, make_token: TokenMaker) -> None:
    async with shop(**dict.fromkeys(NARROW, "off")) as client:
        assert await answers(client(Authorization=f"Bearer {make_token()}"), 5) == [404] * 5
        assert await answers(client(), 5) == [404] * 5


async def test_by_default_what_the_design_promises_passes_at_once(
    settings: GatewaySettings, client: httpx.AsyncClient, signed_in: dict[str, str]
) -> None:
    """100 requests of one user, be it for checkouts, and 1,000 webhooks of one source."""
    checkouts = (client.post("/api/checkout", headers=signed_in) for _ in range(100))
    assert {answer.status_code for answer in await asyncio.gather(*checkouts)} == {422}
    assert settings.rate_limit_webhooks
    buckets, delivery = LocalBuckets(), Try("webhooks:stripe", settings.rate_limit_webhooks)
    assert [buckets.take([delivery]) for _ in range(1_000)] == [0.0] * 1_000


class Held:
    """A request whose body goes on when it is told to."""

    def __init__(self) -> None:
        self.has_begun, self.goes_on = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{"
        self.has_begun.set()
        await self.goes_on.wait()


@asynccontextmanager
async def holding(http: httpx.AsyncClient, path: str, count: int) -> AsyncIterator[list[Any]]:
    """So many requests under way, which end with the block."""
    bodies = [Held() for _ in range(count)]
    headers = {"Content-Type": "application/json"}
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(http.post(path, content=body, headers=headers)) for body in bodies]
        await asyncio.gather(*(body.has_begun.wait() for body in bodies))
        yield asked
        for body in bodies:
            body.goes_on.set()


async def test_bodies_that_do_not_come_take_no_place_and_only_their_own_users_share(
    shop: Shop, make_token: TokenMaker
) -> None:
    wide = {"rate_limit_user": "off", "rate_limit_checkout": "off"}
    bounds = {"max_running_requests": 1, "max_waiting_requests": 0, "max_requests_per_user": 3}
    token = make_token()
    async with shop(**wide, **bounds) as client:
        http, other = (client(Authorization=f"Bearer {each}") for each in (token, make_token()))
        async with holding(http, "/api/checkout", 3) as asked:
            refused = await http.get("/api/nothing")
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_at_once")
            assert refused.headers["Retry-After"] == "1"
            assert await answers(other, 2) == [404] * 2
        assert {(await each).json()["code"] for each in asked} == {"malformed_json"}
        assert await answers(http, 1) == [404]


async def test_a_body_that_never_comes_is_a_408_and_a_strangers_is_not_waited_for(
    shop: Shop, make_token: TokenMaker
) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with shop(body_seconds=0.05) as client, asyncio.timeout(5):
        http = client(Authorization=f"Bearer {make_token()}")
        late = await http.post("/api/checkout", content=never())
        assert (late.status_code, late.json()["code"]) == (408, "request_timeout")
        assert late.headers["Connection"] == "close"
        assert (await client().post("/api/checkout", content=never())).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/api/webhooks/stripe%0A",
        "/api/checkout%0A",
        "/api/orders/7/events%0A",
        "/healthz%0A",
        "/api/%00",
        "/api/%7F",
    ],
)
async def test_a_control_character_leads_to_no_route(shop: Shop, make_token: TokenMaker, path: str) -> None:
    """Routing would take the first ones for routes, and what bounds those would not."""
    async with shop() as client:
        for http in (client(), client(Authorization=f"Bearer {make_token()}")):
            for method in ("GET", "POST"):
                answer = await http.request(method, path, content=b"{}")
                assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")
                assert answer.headers["X-Trace-Id"]


async def test_webhooks_of_one_source_leave_others_their_places(shop: Shop) -> None:
    async with shop(rate_limit_webhooks="off", max_running_webhooks=1, max_webhooks_per_source=2) as client:
        http, path = client(), "/api/webhooks/stripe"
        async with holding(http, path, 2):
            assert (await http.post(path, content=b"{}")).json()["code"] == "too_many_at_once"
            relayed = await client("203.0.113.2").post(path, content=b"{}")
            assert (relayed.status_code, relayed.json()["code"]) == (503, "service_unavailable")


async def test_a_source_never_takes_the_whole_queue(settings_with: Callable[..., GatewaySettings]) -> None:
    settings = settings_with()
    assert 1_000 <= settings.max_webhooks_per_source < settings.max_waiting_webhooks
    with pytest.raises(ValidationError, match="MAX_WEBHOOKS_PER_SOURCE must be smaller"):
        settings_with(max_webhooks_per_source=settings.max_waiting_webhooks)


async def test_strangers_share_what_their_address_may_have_under_way(
    settings_with: Callable[..., GatewaySettings], backends: Backends
) -> None:
    settings = settings_with(max_requests_per_address=1)
    api, is_asked, goes_on = create_api(settings, backends), asyncio.Event(), asyncio.Event()

    @api.get("/api/slow")
    async def slow() -> None:
        is_asked.set()
        await goes_on.wait()

    app = guarded(api, settings)

    def client(address: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://shop.test", verify=NO_TLS)

    first, second = client("203.0.113.1"), client("203.0.113.2")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(first.get("/api/slow"))
        await is_asked.wait()
        assert await answers(first, 1) == [429]
        assert await answers(second, 1) == [404]
        goes_on.set()
    assert waiting.result().status_code == 200


async def test_a_user_follows_so_much_and_fetches_so_many_files_at_once(
    settings_with: Callable[..., GatewaySettings], backends: Backends, make_token: TokenMaker
) -> None:
    """One stream too many is refused at once; one file too many waits for its turn."""
    settings = settings_with(max_streams_per_user=2, max_downloads_per_user=2)
    under_way: list[asyncio.Event] = []
    came = asyncio.Condition()

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        goes_on = asyncio.Event()
        under_way.append(goes_on)
        async with came:
            came.notify_all()
        await goes_on.wait()
        await Response()(scope, receive, send)

    async def holds(count: int) -> None:
        async with came, asyncio.timeout(5):
            await came.wait_for(lambda: len(under_way) == count)

    app = Admission(door, settings, Authenticator(settings), RateLimiter())
    transport = httpx.ASGITransport(app, client=("203.0.113.1", 1))
    headers = [{"Authorization": f"Bearer {make_token()}"} for _ in range(2)]
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://shop.test", verify=NO_TLS) as http,
        asyncio.TaskGroup() as group,
    ):
        stream = "/api/orders/01920000-0000-7000-8000-000000000001/events"
        for _ in range(2):
            group.create_task(http.get(stream, headers=headers[0]))
        await holds(2)
        assert (await http.get(stream, headers=headers[0])).json()["code"] == "too_many_at_once"
        for _ in range(3):
            group.create_task(http.get("/api/downloads/x", headers=headers[0]))
        await holds(4)
        # Neither hinders anybody else, nor this one's other requests.
        for path, who in ((stream, 1), ("/api/downloads/x", 1), ("/api/cart", 0)):
            group.create_task(http.get(path, headers=headers[who]))
        await holds(7)
        under_way[2].set()
        await holds(8)
        for each in under_way:
            each.set()
