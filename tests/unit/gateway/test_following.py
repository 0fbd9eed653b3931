"""Server-sent events of something that is followed: ids, the end, and what is made of a Last-Event-ID."""

import asyncio
import base64
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi.sse import ServerSentEvent

from gateway.following import Kind, events_of, last_seen
from gateway.schemas import ApiModel
from protos.orders.v1 import orders_pb2 as pb
from services.chassis.errors import Unavailable


class Shown(ApiModel):
    order_id: str


KIND = Kind("order", lambda order: Shown(order_id=order.id))


def news(version: int, *, is_final: bool = False) -> pb.WatchOrderResponse:
    order = pb.Order(id="o", version=version) if version else None
    return pb.WatchOrderResponse(order=order, is_final=is_final)


async def told(*messages: pb.WatchOrderResponse, broken: bool = False) -> list[ServerSentEvent]:
    async def stream() -> AsyncIterator[pb.WatchOrderResponse]:
        for message in messages:
            yield message
        if broken:
            raise Unavailable("UNAVAILABLE", "it restarts")

    return [event async for event in events_of(KIND, stream(), closing=asyncio.Event(), expires_at=math.inf)]


async def test_each_version_is_an_event_and_the_last_one_is_followed_by_the_end() -> None:
    first, *rest = await told(news(2), news(3, is_final=True))
    assert (first.comment, first.event) == ("following", None)
    assert first.retry
    assert [(event.event, event.id, event.raw_data) for event in rest] == [
        ("order", "2", '{"orderId":"o"}'),
        ("order", "3", '{"orderId":"o"}'),
        ("end", None, "{}"),
    ]


async def test_nothing_new_and_nothing_to_come_is_the_end_at_once() -> None:
    assert [event.event for event in await told(news(0, is_final=True))] == [None, "end"]


async def test_a_service_that_goes_away_ends_the_stream_without_an_end_event() -> None:
    assert [event.event for event in await told(news(2), broken=True)] == [None, "order"]


async def test_we_close_in_the_middle_of_waiting() -> None:
    closing, is_closed = asyncio.Event(), asyncio.Event()

    async def silent() -> AsyncIterator[pb.WatchOrderResponse]:
        try:
            yield news(2)
            closing.set()
            await asyncio.Event().wait()
        finally:
            is_closed.set()

    async with asyncio.timeout(5):
        events = [
            event.event async for event in events_of(KIND, silent(), closing=closing, expires_at=math.inf)
        ]
        await is_closed.wait()
    assert events == [None, "order"]


@pytest.mark.parametrize("ends_in_seconds", [0.05, -1.0])
async def test_a_stream_ends_with_its_token(ends_in_seconds: float) -> None:
    async def silent() -> AsyncIterator[pb.WatchOrderResponse]:
        await asyncio.Event().wait()
        yield news(2)

    expires_at = time.time() + ends_in_seconds
    async with asyncio.timeout(5):
        stream = events_of(KIND, silent(), closing=asyncio.Event(), expires_at=expires_at)
        assert [event.event async for event in stream] == [None]


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        ("12", 12),
        ("", 7),
        ("0", 0),
        ("-1", 7),
        ("1.5", 7),
        ("\u0661", 7),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, 7),
    ],
)
def test_a_header_that_is_no_id_of_ours_says_nothing(header: str, seen: int) -> None:
    assert last_seen(header, 7) == seen


@pytest.mark.parametrize("after", ["x", "-1", "1.5", str(2**63)])
async def test_a_bad_after_is_a_problem_before_the_stream(
    client: httpx.AsyncClient, signed_in: dict[str, str], after: str
) -> None:
    path = "/api/orders/01920000-0000-7000-8000-000000000001/events"
    answer = await client.get(path, params={"after": after}, headers=signed_in)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert (await client.get(path, params={"after": after})).status_code == 401


async def test_a_service_that_is_away_is_a_problem_before_the_stream(
    client: httpx.AsyncClient, signed_in: dict[str, str]
) -> None:
    for what in ("orders", "checkouts"):
        path = f"/api/{what}/01920000-0000-7000-8000-000000000001/events"
        answer = await client.get(path, headers=signed_in)
        assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")


async def test_a_timeline_says_who_was_away(client: httpx.AsyncClient, make_token: object) -> None:
    token = make_token(app_metadata={"role": "operator"})  # type: ignore[operator]
    answer = await client.get(
        "/api/admin/timeline",
        params={"userId": "01920000-0000-7000-8000-000000000001"},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.json() == {"entries": [], "unavailable": ["orders", "payments", "wallet"]}


async def test_the_success_page_runs_its_own_script_and_no_other(client: httpx.AsyncClient) -> None:
    page = await client.get("/checkout/success")
    scripts = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
    [digest] = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = page.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", f"script-src 'sha256-{digest}'", "connect-src 'self'"} <= set(policy)
    assert "script-src" not in (await client.get("/checkout/cancel")).headers["Content-Security-Policy"]
