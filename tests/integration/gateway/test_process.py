"""The gateway as a process: relaying, slow services, readiness, and the way it stops."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from uuid import uuid4

import httpx
import jwt
import pytest

from protos.payments.v1 import payments_pb2 as pb

SECRET = "a secret of the integration tests, long enough"
SIGNATURE = "t=1700000000,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd"


class Running(Protocol):
    http: httpx.AsyncClient

    def terminate(self) -> None: ...

    async def exit_code(self) -> int: ...


Starter = Callable[..., Awaitable[Running]]


def token() -> dict[str, str]:
    claims = {"sub": str(uuid4()), "aud": "authenticated", "exp": int(time.time()) + 60}
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}


@pytest.mark.parametrize(
    "body", [b'{"id": "evt_1",\n  "x": 1.50}', b"\xff\x00 not json", b" " * 512 * 1024], ids=len
)
async def test_a_webhook_arrives_byte_for_byte(start_gateway: Starter, peer: Any, body: bytes) -> None:
    gateway = await start_gateway(PAYMENTS_TARGET=peer.target)
    peer.release.set()
    answer = await gateway.http.post(
        "/api/webhooks/stripe", content=body, headers={"Stripe-Signature": SIGNATURE, "Content-Type": "a/b"}
    )
    assert (answer.status_code, answer.content) == (200, b'{"received":true}')
    [request] = peer.requests
    assert (request.payload, request.signature) == (body, SIGNATURE)


async def test_a_webhook_arrives_with_its_source_whatever_a_stranger_claims(
    start_gateway: Starter, peer: Any
) -> None:
    peer.release.set()
    gateway = await start_gateway(PAYMENTS_TARGET=peer.target)
    for claim in ("198.51.100.1", "198.51.100.1, 127.0.0.1"):
        headers = {"X-Forwarded-For": claim}
        assert (await gateway.http.post("/api/webhooks/stripe", content=b"{}", headers=headers)).is_success
    behind = await start_gateway(PAYMENTS_TARGET=peer.target, TRUSTED_PROXIES="127.0.0.1")
    headers = {"X-Forwarded-For": "203.0.113.7:51234"}
    assert (await behind.http.post("/api/webhooks/stripe", content=b"{}", headers=headers)).is_success
    assert [request.source for request in peer.requests] == ["127.0.0.1"] * 2 + ["203.0.113.7"]


async def test_what_payments_answers_is_passed_on(start_gateway: Starter, peer: Any) -> None:
    peer.answer = pb.ReceiveWebhookResponse(
        status=400,
        content_type="application/problem+json",
        body=b'{"error":"Invalid signature"}',
        retry_after_seconds=7,
    )
    peer.release.set()
    gateway = await start_gateway(PAYMENTS_TARGET=peer.target)
    answer = await gateway.http.post("/api/webhooks/stripe", content=b"{}")
    assert (answer.status_code, answer.json()) == (400, {"error": "Invalid signature"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "7"
    assert peer.requests[0].signature == ""


async def test_a_service_that_says_nothing_is_an_unknown_outcome_in_time(
    start_gateway: Starter, mute: str
) -> None:
    gateway = await start_gateway(WALLET_TARGET=mute, ORDERS_TARGET=mute, PAYMENTS_TARGET=mute)
    started = time.monotonic()
    answers = await asyncio.gather(
        gateway.http.get("/api/profile", headers=token()),
        gateway.http.post(
            "/api/checkout", json={"paymentMethod": "points"}, headers=token() | {"Idempotency-Key": "k"}
        ),
        gateway.http.post("/api/checkout/points", json={"packageId": "basic"}, headers=token()),
        gateway.http.get("/readyz"),
    )
    assert time.monotonic() - started < 8
    assert [answer.status_code for answer in answers] == [503] * 4
    assert [answer.json()["code"] for answer in answers] == ["outcome_unknown"] * 3 + ["not_ready"]
    assert answers[1].headers["Idempotency-Key"] == "k"
    assert answers[2].headers["Idempotency-Key"]
    assert all(answer.headers["Retry-After"] for answer in answers)
    assert answers[3].json()["unavailable"] == ["wallet", "orders", "payments"]


async def test_sigterm_finishes_what_runs_and_exits_0(start_gateway: Starter, peer: Any) -> None:
    gateway = await start_gateway(PAYMENTS_TARGET=peer.target)
    running = asyncio.create_task(gateway.http.post("/api/webhooks/stripe", content=b"{}"))
    async with asyncio.timeout(5):
        await peer.arrived.wait()
    gateway.terminate()
    await _until_refused(gateway.http)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(running), 0.5)
    peer.release.set()
    assert (await running).status_code == 200
    assert await gateway.exit_code() == 0


async def test_sigterm_ends_open_streams_at_once(start_gateway: Starter, silent: str) -> None:
    gateway = await start_gateway(ORDERS_TARGET=silent)
    path = f"/api/orders/{uuid4()}/events"
    async with gateway.http.stream("GET", path, headers=token()) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (
            200,
            "text/event-stream; charset=utf-8",
        )
        lines = answer.aiter_lines()
        assert await anext(lines) == ": following"
        began = time.monotonic()
        gateway.terminate()
        assert [line async for line in lines] == ["retry: 2000", ""]
    assert await gateway.exit_code() == 0
    assert time.monotonic() - began < 3


async def test_sigterm_is_announced_before_the_port_closes(start_gateway: Starter) -> None:
    gateway = await start_gateway(DRAIN_DELAY_SECONDS="1")
    gateway.terminate()
    async with asyncio.timeout(5):
        while (answer := await gateway.http.get("/readyz")).json().get("unavailable") != ["gateway"]:
            pass
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert (await gateway.http.get("/healthz")).status_code == 200
    assert await gateway.exit_code() == 0


async def test_a_garbled_request_is_refused_by_the_server(start_gateway: Starter) -> None:
    gateway = await start_gateway()
    url = gateway.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /api/checkout HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}")
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()


async def _until_refused(http: httpx.AsyncClient) -> None:
    """New connections are no longer taken."""
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)
