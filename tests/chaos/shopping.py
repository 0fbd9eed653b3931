"""A customer who keeps at it: every request is repeated under its key until the shop answers."""

import asyncio
import time
from typing import Any
from uuid import uuid4

import httpx

from tests.e2e.rest_client import JSON, Customer, pay

# A request may meet a crash at each boundary, and a service starts slowly on a busy machine.
_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.1


async def insist(customer: Customer, method: str, path: str, body: Any = None) -> httpx.Response:
    """Repeats a request under one key until its answer is neither 5xx, nor in flight, nor lost."""
    key = str(uuid4())
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        answer = await _once(customer, method, path, body, key)
        if answer is not None:
            return answer
        assert time.monotonic() < deadline, f"{method} {path}: no answer in {_PATIENCE_SECONDS} s"
        await asyncio.sleep(_PAUSE_SECONDS)


async def _once(customer: Customer, method: str, path: str, body: Any, key: str) -> httpx.Response | None:
    try:
        answer = await customer.http.request(method, path, json=body, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        return None
    return answer if is_final(answer) else None


def is_final(answer: httpx.Response) -> bool:
    """Not for the shop's being busy, nor for the first request's being on its way."""
    in_flight = answer.status_code == 409 and answer.json()["code"] == "request_in_flight"
    return answer.status_code < 500 and not in_flight


async def see(customer: Customer, path: str) -> JSON:
    answer = await insist(customer, "GET", path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def settled(customer: Customer, order_id: str, *, seconds: float) -> JSON:
    """The order once it is completed, failed or cancelled; fails when it is not so in time."""
    deadline = time.monotonic() + seconds
    while True:
        order = await see(customer, f"/api/orders/{order_id}")
        if order["status"] in ("completed", "failed", "cancelled"):
            return order
        assert time.monotonic() < deadline, f"after {seconds} s: {order}"
        await asyncio.sleep(_PAUSE_SECONDS)


async def buy_points(customer: Customer, package_id: str) -> None:
    """Through the hosted page; repeats until there is a page to pay at."""
    opened = await insist(customer, "POST", "/api/checkout/points", {"packageId": package_id})
    checkout_id = opened.json()["checkoutId"]
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (checkout := await see(customer, f"/api/checkouts/{checkout_id}"))["url"]:
        assert time.monotonic() < deadline, f"no page: {checkout}"
        await asyncio.sleep(_PAUSE_SECONDS)
    await pay(checkout["url"])
