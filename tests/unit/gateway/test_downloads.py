"""What a download's answer says of its file, and how fast it is to be taken."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from gateway.routes import downloads
from gateway.routes.downloads import disposition
from protos.orders.v1 import orders_pb2


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("Sea.png", "attachment; filename=\"Sea.png\"; filename*=UTF-8''Sea.png"),
        ("A b.png", "attachment; filename=\"A b.png\"; filename*=UTF-8''A%20b.png"),
        ("Mür.png", "attachment; filename=\"M_r.png\"; filename*=UTF-8''M%C3%BCr.png"),
        ('x"; y=".png', "attachment; filename=\"x_ y_.png\"; filename*=UTF-8''x%22%3B%20y%3D%22.png"),
        ("a\r\nX: y", "attachment; filename=\"a_X_ y\"; filename*=UTF-8''a%0D%0AX%3A%20y"),
        ("../a\\b", "attachment; filename=\".._a_b\"; filename*=UTF-8''..%2Fa%5Cb"),
    ],
)
def test_a_file_is_an_attachment_under_its_name_and_adds_no_header(name: str, header: str) -> None:
    assert disposition(name) == header


@pytest.mark.parametrize("token", ["ü", "a.b", "x" * 513, "a%2Fb", "a%0d%0a"])
async def test_what_cannot_be_a_link_is_not_found_before_orders_is_asked(
    client: httpx.AsyncClient, signed_in: dict[str, str], token: str
) -> None:
    answer = await client.get(f"/api/downloads/{token}", headers=signed_in)
    assert answer.status_code == 404
    assert answer.json()["code"] in ("download_not_found", "route_not_found")


async def test_a_stranger_hears_401_whatever_the_link(client: httpx.AsyncClient) -> None:
    for token in ("ü", "abc"):
        answer = await client.get(f"/api/downloads/{token}")
        assert (answer.status_code, answer.json()["code"]) == (401, "missing_token")


async def test_a_file_cannot_be_looked_at_without_being_counted(
    client: httpx.AsyncClient, signed_in: dict[str, str]
) -> None:
    answer = await client.head("/api/downloads/abc", headers=signed_in)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


class Reader:
    """Takes each chunk in so many seconds, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float]) -> None:
        self._seconds = iter((0.0, *seconds, 0.0))
        self._now = 0.0
        self.taken = 0
        monkeypatch.setattr(f"{downloads.__name__}.time.monotonic", lambda: self._now)
        monkeypatch.setattr(f"{downloads.__name__}.asyncio.timeout", self._timeout)
        self._left = 0.0

    @asynccontextmanager
    async def _timeout(self, seconds: float) -> AsyncIterator[None]:
        self._left = seconds
        yield

    async def send(self, message: Message) -> None:
        took = next(self._seconds)
        if took > self._left:
            raise TimeoutError
        self._now += took
        self.taken += len(message.get("body", b""))


async def file_of(chunks: int, size_bytes: int) -> AsyncGenerator[Any, None]:
    for _ in range(chunks):
        yield orders_pb2.DownloadResponse(chunk=b"x" * size_bytes)


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ([1.0] * 100, 100),
        ([6.0] * 100, 100),
        # As slow as may be for a while, then slower than that.
        ([10.0] * 3, 3),
        ([10.0] * 100, 3),
        # A pause after a quick start.
        ([0.1] * 50 + [19.0] + [0.1] * 49, 100),
        ([0.1] * 50 + [21.0], 50),
    ],
)
async def test_a_file_is_taken_fast_enough_on_the_whole_or_not_to_its_end(
    monkeypatch: pytest.MonkeyPatch, seconds: list[float], taken: int
) -> None:
    """Chunks of 64 KiB, a minimum of 10 KiB/s: 6.4 s for each, and 20 s to spare."""
    size = 64 * 1024
    reader = Reader(monkeypatch, seconds)
    head = orders_pb2.DownloadResponse.Head(size_bytes=size * len(seconds), content_type="image/png")
    file = downloads._File(head, file_of(len(seconds), size), min_bytes_per_second=10 * 1024)
    with suppress(TimeoutError):
        await file.stream_response(reader.send)
    assert reader.taken == taken * size


async def test_a_file_that_is_not_to_be_had_leaves_its_route_in_the_log_and_never_its_key(
    client: httpx.AsyncClient, signed_in: dict[str, str]
) -> None:
    key = "AQf3Zm9vYmFyYmF6cXV4cXV1eA"
    with capture_logs() as lines:
        answer = await client.get(f"/api/downloads/{key}", headers=signed_in)
    assert answer.status_code == 503
    assert "/api/downloads/{token}" in {line.get("route") for line in lines}
    assert key not in str(lines)
