"""What browsers are told: who may read the answers, and how little any page of ours may do."""

import base64
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from gateway.app import create_api, guarded
from gateway.backends import Backends
from gateway.settings import GatewaySettings
from tests.support.plain_http import NO_TLS

SHOP, EVIL = "https://shop.example", "https://evil.example"
PAGES = ("/", "/checkout/success", "/checkout/cancel", f"/orders/{uuid.UUID(int=1)}", "/docs", "/docs/errors")
Opener = Callable[..., Any]


@pytest.fixture
def gateway(settings_with: Callable[..., GatewaySettings], backends: Backends) -> Opener:
    @asynccontextmanager
    async def open_gateway(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        settings = settings_with(**changes)
        api = create_api(settings, backends)

        async def fail() -> None:
            raise RuntimeError

        api.add_api_route("/api/fail", fail)
        transport = httpx.ASGITransport(guarded(api, settings), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.test", verify=NO_TLS) as http:
            yield http

    return open_gateway


async def answers_of_all_kinds(
    http: httpx.AsyncClient, signed_in: dict[str, str]
) -> dict[int, httpx.Response]:
    """By status."""
    json = {"Content-Type": "application/json"}
    got = [
        await http.get("/healthz"),
        await http.post("/api/checkout", content=b"{", headers=signed_in | json),
        await http.get("/api/cart"),
        await http.get("/api/nothing"),
        await http.patch("/api/cart"),
        await http.post("/api/checkout", content=b"[" * 65_537, headers=signed_in | json),
        await http.post("/api/checkout", content=b"{}", headers=signed_in | json),
        await http.get("/api/fail"),
        await http.post("/api/webhooks/stripe"),
        *[await http.get("/api/cart", headers=signed_in) for _ in range(2)],
    ]
    found = {answer.status_code: answer for answer in got}
    assert found.keys() == {200, 400, 401, 404, 405, 413, 422, 429, 500, 503}
    return found


async def test_cors_is_off_until_origins_are_named(gateway: Opener) -> None:
    async with gateway() as http:
        answer = await http.get("/healthz", headers={"Origin": SHOP})
        preflight = await http.options(
            "/api/cart", headers={"Origin": SHOP, "Access-Control-Request-Method": "PUT"}
        )
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert preflight.status_code == 405


async def test_named_origins_may_read_every_answer_errors_too_and_others_none(
    gateway: Opener, signed_in: dict[str, str]
) -> None:
    limits = {"rate_limit_user": "4, 0.01/s", "cors_origins": f"{SHOP}, https://two.example:8443"}
    for origin, allowed in ((SHOP, SHOP), (EVIL, None)):
        async with gateway(**limits) as http:
            http.headers["Origin"] = origin
            for status, answer in (await answers_of_all_kinds(http, signed_in)).items():
                assert answer.headers.get("access-control-allow-origin") == allowed, (origin, status)
                # Tokens travel in a header: no cookie of the browser's is wanted.
                assert "access-control-allow-credentials" not in answer.headers
                assert answer.headers["vary"] == "Origin", (origin, status)
                if allowed:
                    assert "Retry-After" in answer.headers["access-control-expose-headers"]
            for other, expected in (
                ("https://two.example:8443",) * 2,
                ("null", None),
                (f"{SHOP}.evil", None),
            ):
                answer = await http.get("/healthz", headers={"Origin": other})
                assert answer.headers.get("access-control-allow-origin") == expected


async def test_a_preflight_allows_what_the_api_takes_and_nothing_more(gateway: Opener) -> None:
    async with gateway(cors_origins=SHOP) as http:

        async def ask(origin: str, method: str, header: str) -> httpx.Response:
            asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": header}
            answer: httpx.Response = await http.options("/api/cart", headers={"Origin": origin, **asked})
            return answer

        for method, header in (("PUT", "authorization, if-match"), ("POST", "idempotency-key, content-type")):
            allowed = await ask(SHOP, method, header)
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == SHOP
            assert method in allowed.headers["access-control-allow-methods"]
            assert allowed.headers["x-frame-options"] == "DENY"
        assert (await ask(SHOP, "PUT", "x-strange")).status_code == 400
        assert (await ask(SHOP, "TRACE", "authorization")).status_code == 400
        refused = await ask(EVIL, "PUT", "authorization")
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    "origins", ["*", f"{SHOP},*", "null", f"{SHOP}/", f"{SHOP}/path", "shop.example", "https://*.example"]
)
def test_what_is_no_origin_is_refused(settings_with: Callable[..., GatewaySettings], origins: str) -> None:
    with pytest.raises(ValidationError, match="must be origins"):
        settings_with(cors_origins=origins)


async def test_every_answer_says_how_little_may_be_done_with_it(
    gateway: Opener, signed_in: dict[str, str]
) -> None:
    async with gateway(rate_limit_user="4, 0.01/s") as http:
        answers = [*(await answers_of_all_kinds(http, signed_in)).values()]
        answers += [await http.get(page) for page in PAGES]
    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in answer.headers["permissions-policy"]
        [policy] = answer.headers.get_list("content-security-policy")
        assert policy.startswith("default-src 'none'; frame-ancestors 'none'; base-uri 'none'")
        assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize(("shop_url", "is_https"), [("https://shop.example", True), ("http://x", False)])
async def test_only_a_shop_with_https_tells_browsers_to_stay_with_it(
    gateway: Opener, shop_url: str, is_https: bool
) -> None:
    async with gateway(shop_url=shop_url) as http:
        answer = await http.get("/healthz")
    assert answer.headers.get("strict-transport-security") == ("max-age=63072000" if is_https else None)


@pytest.mark.parametrize("path", PAGES)
async def test_the_policy_of_a_page_lets_in_what_it_is_made_of_and_nothing_else(
    client: httpx.AsyncClient, path: str
) -> None:
    page = await client.get(path)
    policy = {
        name: set(allowed.split())
        for name, _, allowed in (
            part.strip().partition(" ") for part in page.headers["content-security-policy"].split(";")
        )
    }
    assert not [
        allowed for allowed in policy.values() if any("unsafe" in each or "*" in each for each in allowed)
    ]
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        inline = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline}
        allowed = policy.get(directive, set())
        assert {f"'sha256-{digest}'" for digest in digests} == allowed - {"'self'"}, tag
    assert not re.findall(r"\s(?:on\w+|style)=", page.text), "inline handlers and styles would be stopped"
    for url in re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"([^\"]+)\"", page.text):
        assert url.startswith(("/", "data:")), "everything comes from here"


async def test_the_documentation_works_offline(client: httpx.AsyncClient) -> None:
    for path, media_type, words in (
        ("/docs/swagger-ui-bundle.js", "text/javascript", b"SwaggerUIBundle"),
        ("/docs/swagger-ui.css", "text/css", b".swagger-ui"),
    ):
        answer = await client.get(path)
        assert answer.headers["content-type"].startswith(media_type)
        assert answer.headers["cache-control"] == "public, max-age=86400"
        assert words in answer.content
