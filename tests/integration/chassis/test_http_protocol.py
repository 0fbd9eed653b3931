"""What one connection may hold of the process that serves it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.chassis.http_protocol import ABORT_IN_SCOPE
from services.chassis.http_server import serving
from services.chassis.wire_limits import WireLimits
from tests.support.ports import free_port
from tests.support.raw_http import Connection, connected, request

UPGRADE = (
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it was told: the body, the headers' names, or as many bytes as the path asks for."""
    asked = Request(scope, receive)
    if scope["path"].startswith("/bytes/"):
        response = Response(b"x" * int(scope["path"].removeprefix("/bytes/")))
    elif scope["path"] == "/unread":
        response = Response(b"no")
    else:
        try:
            body = await asked.body()
        except ClientDisconnect:
            return
        response = JSONResponse({"body": body.decode("latin-1"), "names": sorted(asked.headers.keys())})
    await response(scope, receive, send)


@asynccontextmanager
async def port(app: ASGIApp = echo, **limits: Any) -> AsyncIterator[str]:
    address = f"127.0.0.1:{free_port()}"
    async with serving(app, address, stop_seconds=1, keep_alive_seconds=60, limits=WireLimits(**limits)):
        yield f"http://{address}"


@asynccontextmanager
async def connection(app: ASGIApp = echo, **limits: Any) -> AsyncIterator[Connection]:
    async with asyncio.timeout(20), port(app, **limits) as url, connected(url) as made:
        yield made


@pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize(
    "head",
    [
        request("GET", "/", ("Authorization", "Bearer " + "x" * 40_000)),
        request("GET", "/", *((f"X-{number}", "y" * 100) for number in range(400))),
        request("GET", "/" + "z" * 40_000),
    ],
    ids=["a token", "many lines", "a path"],
)
async def test_a_head_beyond_the_limit_is_a_431_and_the_end(head: bytes, in_pieces: bool) -> None:
    async with connection() as wire:
        step = 1_000 if in_pieces else len(head)
        for start in range(0, len(head), step):
            await wire.send(head[start : start + step])
        answer = await wire.answer()
        assert (answer.status, answer.code) == (431, "head_too_large")
        assert answer.headers["content-type"] == "application/problem+json"
        assert await wire.is_closed()


async def test_a_head_that_never_ends_is_refused_long_before_it_is_large() -> None:
    async with connection(head_bytes=4096) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 5_000)
        assert (await wire.answer()).code == "head_too_large"


async def test_a_head_within_the_limit_passes_beside_a_large_body() -> None:
    async with connection() as wire:
        token = ("Authorization", "Bearer " + "x" * 30_000)
        for body in (b"b" * 300_000, b"c"):
            await wire.send(request("POST", "/", token, body=body))
            assert len((await wire.answer()).body) > len(body)


@pytest.mark.parametrize(
    "what", [b"5;" + b"x" * 80_000, b"0\r\nX: " + b"y" * 80_000], ids=["extension", "trailer"]
)
async def test_what_comes_with_a_chunk_is_bounded_too(what: bytes) -> None:
    async with connection() as wire:
        await wire.send(request("POST", "/", ("Transfer-Encoding", "chunked")) + b"1\r\na\r\n" + what)
        assert (await wire.answer()).code == "head_too_large"
        assert await wire.is_closed()


async def test_trailers_are_no_headers() -> None:
    async with connection() as wire:
        chunks = b"1\r\na\r\n0\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n"
        await wire.send(request("POST", "/", ("Transfer-Encoding", "chunked")) + chunks)
        assert b"x-forwarded-for" not in (await wire.answer()).body


@pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_the_body_of_an_offered_upgrade_is_not_lost(chunked: bool, in_pieces: bool) -> None:
    whole = request("POST", "/", *UPGRADE, body=b'{"a":1}')
    if chunked:
        head = request("POST", "/", *UPGRADE, ("Transfer-Encoding", "chunked"))
        whole = head + b'3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'
    async with connection() as wire:
        for data in [whole[at : at + 1] for at in range(len(whole))] if in_pieces else [whole]:
            await wire.send(data)
        assert b'{\\"a\\":1}' in (await wire.answer()).body
        # The connection is as good as before.
        await wire.send(request("GET", "/bytes/3", *UPGRADE) + request("GET", "/bytes/2"))
        assert [(await wire.answer()).body for _ in range(2)] == [b"xxx", b"xx"]


@pytest.mark.parametrize(
    "begun", [b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "blank", "cut"]
)
async def test_a_head_that_never_comes_ends(begun: bytes) -> None:
    async with connection(head_seconds=0.2) as wire:
        await wire.send(begun)
        if begun.startswith(b"GET"):
            assert (await wire.answer()).code == "request_timeout"
        assert await wire.is_closed()


async def test_a_second_head_has_no_more_time_than_the_first() -> None:
    async with connection(head_seconds=0.3) as wire:
        await wire.send(request("GET", "/bytes/1") + b"GET / HTTP/1.1\r\n")
        assert (await wire.answer()).body == b"x"
        assert (await wire.answer()).status == 408
        assert await wire.is_closed()


async def test_a_body_that_nobody_reads_and_that_never_comes_ends_after_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.chassis.http_protocol._LINGER_SECONDS", 0.2)
    async with connection() as wire:
        await wire.send(request("POST", "/unread", length=100))
        assert (await wire.answer()).body == b"no"
        await wire.send(b"y" * 10)
        assert await wire.is_closed()
    async with connection() as wire:
        await wire.send(request("POST", "/unread", length=10))
        assert (await wire.answer()).body == b"no"
        # It does come: the connection stays.
        await wire.send(b"y" * 10 + request("GET", "/bytes/1"))
        assert (await wire.answer()).body == b"x"


async def test_an_answer_that_nobody_reads_cuts_the_connection() -> None:
    is_over = asyncio.Event()

    async def talkative(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2):
            await send({"type": "http.response.body", "body": b"x" * 10_000_000, "more_body": True})
        is_over.set()
        await send({"type": "http.response.body", "body": b""})

    async with connection(talkative, send_seconds=0.2) as wire:
        await wire.send(request("GET", "/"))
        await is_over.wait()
        assert await wire.is_closed()


async def test_more_than_a_few_requests_before_their_answers_are_not_taken() -> None:
    async with connection() as wire:
        await wire.send(request("GET", "/bytes/1") * 10)
        assert [(await wire.answer()).status for _ in range(10)] == [200] * 10
        await wire.send(request("GET", "/bytes/100000") * 1_000)
        assert await wire.is_closed()


async def test_what_is_not_http_is_a_problem_like_all_others() -> None:
    async with connection() as wire:
        await wire.send(b"\x16\x03\x01 hello\r\n\r\n")
        answer = await wire.answer()
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert await wire.is_closed()


BAD_URLS = [b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n"]


@pytest.mark.parametrize("head", BAD_URLS, ids=["no host", "a tunnel"])
async def test_a_url_that_is_none_is_a_400(head: bytes) -> None:
    for before in (b"", request("GET", "/bytes/1")):
        async with connection() as wire:
            if before:
                await wire.send(before)
                assert (await wire.answer()).body == b"x"
            await wire.send(head)
            answer = await wire.answer()
            assert (answer.status, answer.code) == (400, "malformed_request")
            assert await wire.is_closed()


@pytest.mark.parametrize("head", BAD_URLS, ids=["no host", "a tunnel"])
async def test_a_bad_url_is_never_told_as_the_answer_of_the_request_before(head: bytes) -> None:
    async with connection() as wire:
        await wire.send(request("GET", "/bytes/1") + head)
        with pytest.raises(asyncio.IncompleteReadError) as cut:
            await wire.answer()
        assert cut.value.partial == b""


async def test_the_last_bytes_of_a_last_answer_that_nobody_reads_are_dropped() -> None:
    """Too few for the transport to complain, behind what the kernel keeps."""
    ended: asyncio.Queue[asyncio.Transport] = asyncio.Queue()

    async def last(scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope[ABORT_IN_SCOPE].__self__
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        while not transport.get_write_buffer_size():
            await send({"type": "http.response.body", "body": b"x" * 16_384, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.put_nowait(transport)

    async with (
        asyncio.timeout(20),
        port(last, send_seconds=0.2) as url,
        connected(url, receive_buffer_bytes=4096) as wire,
    ):
        await wire.send(request("GET", "/"))
        transport = await ended.get()
        async with asyncio.timeout(5):
            while transport.get_write_buffer_size():
                await asyncio.sleep(0.01)


async def test_an_address_holds_so_many_connections_and_others_are_not_hindered() -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(port(connections_per_address=2))
        first, _ = [await stack.enter_async_context(connected(url)) for _ in range(2)]
        await first.send(request("GET", "/bytes/1"))
        assert (await first.answer()).status == 200
        async with connected(url) as third:
            answer = await third.answer()
            assert (answer.status, answer.code) == (429, "too_many_connections")
            assert answer.headers["retry-after"] == "1"
            assert await third.is_closed()
    async with AsyncExitStack() as stack:
        ours = (ip_network("127.0.0.1"),)
        url = await stack.enter_async_context(port(connections_per_address=1, trusted=ours))
        for _ in range(3):
            wire = await stack.enter_async_context(connected(url))
            await wire.send(request("GET", "/bytes/1"))
            assert (await wire.answer()).status == 200


async def test_whoever_goes_away_with_requests_in_a_queue_is_missed_by_the_first() -> None:
    """uvicorn tells only the request that came last, and the first goes on writing."""
    is_begun, is_told = asyncio.Event(), asyncio.Event()

    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"] == "/first", "nobody waits for an answer to the second"
        is_begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        is_told.set()

    async with asyncio.timeout(20), port(patient) as url:
        async with connected(url) as wire:
            await wire.send(request("GET", "/first") + request("GET", "/second"))
            await is_begun.wait()
        async with asyncio.timeout(5):
            await is_told.wait()
