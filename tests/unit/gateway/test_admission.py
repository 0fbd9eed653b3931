"""Whoever asks too often is sent away with the time to wait, and nobody else is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.app import create_api, guarded
from gateway.backends import Backends
from gateway.settings import GatewaySettings
from services.chassis.rates import LocalBuckets, Try
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
