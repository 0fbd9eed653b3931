"""A customer of the running shop over REST, who checks every answer against the OpenAPI document."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt

from tests.support.plain_http import NO_TLS

JSON = dict[str, Any]
_PROBLEM = "application/problem+json"
# What a route cannot declare: the path is not one, or has no such method.
_OF_NO_ROUTE = {"route_not_found", "method_not_allowed"}


class Customer:
    """Somebody with a token; `http` sends it."""

    def __init__(self, http: httpx.AsyncClient, *, user_id: UUID) -> None:
        self.http = http
        self.user_id = user_id

    async def profile(self) -> JSON:
        return await self.read("/api/profile")

    async def read(self, path: str) -> JSON:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def order(self, order_id: str) -> JSON:
        return await self.read(f"/api/orders/{order_id}")

    async def buy(self, method: str, *, key: str | None = None, **body: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return await self.http.post("/api/checkout", json={"paymentMethod": method, **body}, headers=headers)

    async def top_up(self, package_id: str = "basic") -> int:
        """Buys a package the way customers do; returns the points that arrived."""
        before = (await self.profile())["points"]
        opened = await self.http.post("/api/checkout/points", json={"packageId": package_id})
        assert opened.status_code == 201, opened.text
        await pay(await self.page_of(opened.json()["checkoutId"]))
        return int((await until(self.profile, lambda profile: profile["points"] > before))["points"] - before)

    async def page_of(self, checkout_id: str) -> str:
        """Stripe's page of a checkout, as soon as it is open."""
        state = await until(
            lambda: self.read(f"/api/checkouts/{checkout_id}"), lambda state: state["url"] is not None
        )
        return str(state["url"])


async def pay(url: str, action: str = "pay") -> None:
    """What a customer does on the hosted page."""
    async with httpx.AsyncClient(trust_env=False, timeout=15, verify=NO_TLS) as browser:
        answer = await browser.post(url, data={"action": action})
    assert answer.status_code == 402 if action == "decline" else answer.status_code < 400, answer.text


async def control(stripe_url: str, what: str, **body: Any) -> JSON:
    """Pulls one of the sandbox's strings."""
    async with httpx.AsyncClient(trust_env=False, timeout=15, verify=NO_TLS) as http:
        answer = await http.post(f"{stripe_url}/_control/{what}", json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


async def until(
    read: Callable[[], Awaitable[JSON]], is_so: Callable[[JSON], bool], *, seconds: float = 30
) -> JSON:
    """Reads until it is so; the last value is in the failure."""
    deadline = time.monotonic() + seconds
    while not is_so(value := await read()):
        assert time.monotonic() < deadline, f"still not so: {value}"
        await asyncio.sleep(0.05)
    return value


class Document:
    """The shop's OpenAPI document, as a judge of answers."""

    def __init__(self, document: JSON) -> None:
        self._routes = [
            (re.compile(re.sub(r"{\w+}", "[^/]+", path)), operations)
            for path, operations in document["paths"].items()
        ]

    async def judge(self, answer: httpx.Response) -> None:
        request = answer.request
        path, method = request.url.path, request.method.lower()
        operation: JSON | None = next(
            (
                operations[method]
                for route, operations in self._routes
                if route.fullmatch(path) and method in operations
            ),
            None,
        )
        if answer.status_code < 400:
            assert operation is None or str(answer.status_code) in operation["responses"], (path, answer)
            return
        assert answer.headers["content-type"] == _PROBLEM, (path, answer.headers)
        await answer.aread()
        code = answer.json()["code"]
        assert answer.json()["status"] == answer.status_code
        if code not in _OF_NO_ROUTE:
            assert operation is not None, (path, code)
            response = operation["responses"].get(str(answer.status_code), {"content": {_PROBLEM: {}}})
            codes = response["content"][_PROBLEM].get("schema", {}).get("properties", {}).get("code", {})
            assert code in codes.get("enum", ()), f"{request.method} {path} does not declare {code}"


_DOCUMENTS: dict[str, Document] = {}


@asynccontextmanager
async def visit(gateway_url: str, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the shop; every answer is judged."""
    document = await _document_of(gateway_url)
    async with httpx.AsyncClient(
        base_url=gateway_url,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        event_hooks={"response": [document.judge]},
        timeout=20,
        trust_env=False,
        verify=NO_TLS,
    ) as http:
        yield http


async def _document_of(gateway_url: str) -> Document:
    """It is the same as long as the shop runs."""
    if gateway_url not in _DOCUMENTS:
        async with httpx.AsyncClient(trust_env=False, verify=NO_TLS) as http:
            _DOCUMENTS[gateway_url] = Document((await http.get(f"{gateway_url}/openapi.json")).json())
    return _DOCUMENTS[gateway_url]


@asynccontextmanager
async def sign_in(gateway_url: str, secret: str, **more_claims: Any) -> AsyncIterator[Customer]:
    """Somebody new."""
    user_id = uuid4()
    claims = {
        "sub": str(user_id),
        "aud": "authenticated",
        "exp": int(time.time()) + 600,
        "email": f"{user_id}@example.com",
        **more_claims,
    }
    async with visit(gateway_url, jwt.encode(claims, secret)) as http:
        yield Customer(http, user_id=user_id)


def unknown_code(odd: str, code: str) -> str:
    """What a name that is none is answered; one with a control character leads to no route at all."""
    return "route_not_found" if odd.lower().endswith(("%00", "%0a")) else code
