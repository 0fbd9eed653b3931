"""How many at once, and how long."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from starlette import exceptions
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from gateway.admission import CALLER_IN_SCOPE
from gateway.app import guarded
from gateway.gate import Gate
from gateway.load_shedding import Lane, LoadShedding
from gateway.problems import KEY_IN_SCOPE, ProblemError
from gateway.settings import GatewaySettings
from services.chassis.errors import Unavailable
from services.chassis.http_protocol import ABORT_IN_SCOPE
from tests.support.metrics import value
from tests.support.plain_http import NO_TLS


class Door:
    """An app whose requests stay until it is opened; counts them."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.inside = 0
        self._came_in = asyncio.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[KEY_IN_SCOPE] = "my key"
        self.inside += 1
        async with self._came_in:
            self._came_in.notify_all()
        await self.opened.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def holds(self, count: int) -> None:
        async with self._came_in, asyncio.timeout(5):
            await self._came_in.wait_for(lambda: self.inside == count)


def bounded(app: ASGIApp, settings: GatewaySettings, **changes: float) -> Gate:
    return Gate(LoadShedding(app, settings, **changes))


@asynccontextmanager
async def client_of(gate: Gate) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(gate), base_url="http://shop.test", verify=NO_TLS
    ) as http:
        yield http


async def test_beyond_those_that_run_and_those_that_wait_the_rest_hears_503_at_once(
    settings_with: Callable[..., GatewaySettings],
) -> None:
    door = Door()
    gate = bounded(door, settings_with(max_running_requests=2, max_waiting_requests=3))
    async with client_of(gate) as http, asyncio.TaskGroup() as group:
        answers = [group.create_task(http.get("/api/cart")) for _ in range(5)]
        await door.holds(2)
        refused = await http.get("/api/cart")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        # The platform still hears that we live, and Stripe has a lane of its own.
        others = [
            group.create_task(http.get("/docs")),
            group.create_task(http.post("/api/webhooks/stripe")),
        ]
        await door.holds(4)
        door.opened.set()
    assert [(await answer).status_code for answer in [*answers, *others]] == [200] * 7


async def test_files_on_their_way_keep_nobody_else_waiting(
    settings_with: Callable[..., GatewaySettings],
) -> None:
    door = Door()
    bounds = settings_with(max_running_requests=1, max_waiting_requests=0, max_running_downloads=2)
    async with client_of(bounded(door, bounds)) as http, asyncio.TaskGroup() as group:
        files = [group.create_task(http.get(f"/api/downloads/{number}")) for number in range(2)]
        await door.holds(2)
        refused = await http.get("/api/downloads/3")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        others = group.create_task(http.get("/api/cart"))
        await door.holds(3)
        door.opened.set()
    assert [(await answer).status_code for answer in [*files, others]] == [200] * 3


async def test_a_file_may_take_longer_than_a_request(settings: GatewaySettings) -> None:
    door = Door()
    async with (
        client_of(bounded(door, settings, deadline_seconds=0.05)) as http,
        asyncio.TaskGroup() as group,
    ):
        file = group.create_task(http.get("/api/downloads/x"))
        assert (await http.get("/api/cart")).json()["code"] == "outcome_unknown"
        door.opened.set()
    assert (await file).status_code == 200


async def test_who_follows_something_takes_no_place_of_a_request_and_hears_503_when_all_are_taken(
    settings_with: Callable[..., GatewaySettings],
) -> None:
    door = Door()
    gate = bounded(door, settings_with(max_running_requests=1, max_waiting_requests=0, max_streams=2))
    async with client_of(gate) as http, asyncio.TaskGroup() as group:
        paths = (f"/api/{what}/{uuid4()}/events" for what in ("orders", "checkouts"))
        following = [group.create_task(http.get(path)) for path in paths]
        await door.holds(2)
        refused = await http.get(f"/api/orders/{uuid4()}/events")
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        request = group.create_task(http.get(f"/api/orders/{uuid4()}"))
        await door.holds(3)
        door.opened.set()
    assert [(await answer).status_code for answer in [*following, request]] == [200] * 3


async def test_an_answer_names_its_trace_which_is_never_a_strangers(settings: GatewaySettings) -> None:
    door, trace = Door(), "4bf92f3577b34da6a3ce929d0e0e4736"
    door.opened.set()
    async with client_of(bounded(door, settings)) as http:
        traceparents = [f"00-{trace}-00f067aa0ba902b7-01"] * 2 + ["00-zz"]
        answers = [await http.get("/api/cart", headers={"traceparent": each}) for each in traceparents]
    named = {answer.headers["X-Trace-Id"] for answer in answers}
    assert len(named) == 3
    assert trace not in named
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in named)


async def test_answers_are_measured_by_route_and_whoever_found_no_place_is_counted(
    settings_with: Callable[..., GatewaySettings],
) -> None:
    api = FastAPI()

    @api.get("/api/orders/{order_id}")
    async def order(order_id: str) -> None:
        raise HTTPException(404)

    name = "aishop_http_request_duration_seconds_count"
    route = {"method": "GET", "route": "/api/orders/{order_id}", "status": "404"}
    unknown = {"method": "other", "route": "none", "status": "404"}
    before = value(name, **route), value(name, **unknown)
    async with client_of(bounded(api, settings_with())) as http:
        for id in ("1", "2"):
            await http.get(f"/api/orders/{id}")
        await http.request("BREW", "/api/coffee")
    assert (value(name, **route), value(name, **unknown)) == (before[0] + 2, before[1] + 1)

    lane = Lane("downloads", running=1, waiting=0, patience_seconds=0, deadline_seconds=1)
    refused = value("aishop_http_requests_refused_total", lane="downloads")
    assert await lane.enter()
    assert not await lane.enter()
    assert value("aishop_http_requests_running", lane="downloads") == 1
    lane.leave()
    assert value("aishop_http_requests_running", lane="downloads") == 0
    assert value("aishop_http_requests_refused_total", lane="downloads") == refused + 1


async def test_whoever_waited_in_vain_is_refused_and_leaves_no_trace() -> None:
    lane = Lane("customers", running=1, waiting=1, patience_seconds=0.01, deadline_seconds=1)
    assert await lane.enter()
    async with asyncio.timeout(0.5):
        assert not await lane.enter()
    lane.leave()
    assert await lane.enter()
    waiting = asyncio.create_task(Lane.enter(lane))
    await asyncio.wait([waiting])
    assert not waiting.result()


async def test_places_come_back_when_a_request_fails(settings_with: Callable[..., GatewaySettings]) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    async with client_of(
        bounded(broken, settings_with(max_running_requests=1, max_waiting_requests=0))
    ) as http:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="broken"):
                await http.get("/api/cart")


async def test_a_request_that_takes_too_long_hears_that_its_outcome_is_unknown(
    settings: GatewaySettings,
) -> None:
    async with client_of(bounded(Door(), settings, deadline_seconds=0.05)) as http, asyncio.timeout(5):
        answer = await http.post("/api/checkout")
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    assert answer.headers["Idempotency-Key"] == "my key"
    assert answer.headers["Retry-After"]


async def test_a_timeout_of_the_app_itself_is_not_taken_for_the_deadline(settings: GatewaySettings) -> None:
    async def impatient(scope: Scope, receive: Receive, send: Send) -> None:
        raise TimeoutError("of its own")

    async with client_of(bounded(impatient, settings)) as http:
        with pytest.raises(TimeoutError, match="of its own"):
            await http.get("/api/cart")


async def test_a_hundred_requests_at_once_pass(client: httpx.AsyncClient, api: Any) -> None:
    """By default 100 requests at once of one user pass, and 1,000 webhooks."""
    door = asyncio.Barrier(100)

    async def together() -> str:
        await door.wait()
        return "here"

    api.add_api_route("/api/together", together)
    answers = await asyncio.gather(*(client.get("/api/together") for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}


async def test_a_thousand_webhooks_at_once_pass(settings: GatewaySettings) -> None:
    async def prompt(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(client_of(bounded(prompt, settings)))
        answers = await asyncio.gather(*(http.post("/api/webhooks/stripe") for _ in range(1_000)))
    assert {answer.status_code for answer in answers} == {200}


async def test_whatever_reads_a_strangers_body_outside_of_webhooks_hears_that_it_is_too_large(
    settings: GatewaySettings,
) -> None:
    read: list[Message] = []

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALLER_IN_SCOPE] = ProblemError("missing_token")
        await bounded_app(scope, receive, send)

    async def greedy(scope: Scope, receive: Receive, send: Send) -> None:
        read.append(await receive())

    bounded_app = LoadShedding(greedy, settings)
    async with client_of(Gate(reading)) as http:
        with pytest.raises(exceptions.HTTPException) as refused:
            await http.post("/api/somewhere", content=b"{}")
    assert (refused.value.status_code, read) == (413, [])


async def test_an_answer_is_written_outside_the_place_it_was_made_in(
    settings_with: Callable[..., GatewaySettings],
) -> None:
    is_writing, goes_on = asyncio.Event(), asyncio.Event()

    async def slowly(message: Message) -> None:
        is_writing.set()
        await goes_on.wait()

    async def prompt(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"{}")(scope, receive, send)

    app = LoadShedding(prompt, settings_with(max_running_requests=1, max_waiting_requests=0))
    scope = {"type": "http", "path": "/api/cart", "method": "GET", "headers": []}
    async with asyncio.TaskGroup() as group:
        group.create_task(app(scope, _nothing, slowly))
        await is_writing.wait()
        async with client_of(Gate(app)) as http:
            assert (await http.get("/api/cart")).status_code == 200
        goes_on.set()


async def _nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("error", [TimeoutError(), Unavailable("GONE", "it went"), OSError()], ids=repr)
async def test_an_answer_that_breaks_off_is_one_quiet_line_and_the_end_of_its_connection(
    api: FastAPI, settings: GatewaySettings, error: Exception
) -> None:
    @api.get("/api/broken")
    async def broken() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            raise error

        return StreamingResponse(chunks())

    cut: list[bool] = []
    answered: list[str] = []

    async def send(message: Message) -> None:
        answered.append(message["type"])

    scope: dict[str, Any] = {"type": "http", "path": "/api/broken", "method": "GET", "headers": []}
    scope.update(scheme="http", http_version="1.1", query_string=b"")
    scope[ABORT_IN_SCOPE] = lambda: cut.append(True)
    with capture_logs() as lines:
        await guarded(api, settings)(scope, _nothing, send)
    assert answered == ["http.response.start", "http.response.body"]
    assert cut == [True]
    [line] = lines
    assert (line["event"], line["log_level"], line["route"]) == ("http.cut", "info", "/api/broken")
    assert "exc_info" not in line


async def test_a_defect_in_the_middle_of_an_answer_stays_one(api: FastAPI, settings: GatewaySettings) -> None:
    @api.get("/api/broken")
    async def broken() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            raise KeyError("a defect")

        return StreamingResponse(chunks())

    transport = httpx.ASGITransport(guarded(api, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.test", verify=NO_TLS) as http:
        with pytest.raises(KeyError):
            await http.get("/api/broken")
