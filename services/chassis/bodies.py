"""Bodies of requests, read before there is a place to work on them: waiting for a wire is not work.

Bounded in bytes, in time, and in how much may be under way, from one source and from all together: a thousand
bodies of half a megabyte that never end would be the end of the process.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

MIB = 1024 * 1024


class BodyTooLarge(Exception):
    """More than one request may bring."""


class BodyTooSlow(Exception):
    """It did not come in time."""


class TooManyBodies(Exception):
    """More than may be under way at once, from this source or from all."""


class Bodies:
    """See the module. One source may have half of what all may have under way."""

    def __init__(self, *, max_bytes: int, seconds: float, max_bytes_under_way: int) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._max_under_way = max_bytes_under_way
        self._under_way = 0
        self._by_source: Counter[str] = Counter()

    @asynccontextmanager
    async def reading(self, scope: Scope, receive: Receive, source: str) -> AsyncIterator[bytes]:
        """The whole body, counted as under way until the block ends. Raises the errors of this module, or
        ClientDisconnect."""
        if declared_bytes(scope) > self._max_bytes:
            raise BodyTooLarge
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._read(receive, source, body)
            except TimeoutError as error:
                raise BodyTooSlow from error
            yield bytes(body)
        finally:
            self._count(source, -len(body))

    async def _read(self, receive: Receive, source: str, body: bytearray) -> None:
        is_whole = False
        while not is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            body += chunk
            self._count(source, len(chunk))
            is_whole = not message.get("more_body", False)
            if len(body) > self._max_bytes:
                raise BodyTooLarge
            if self._under_way > self._max_under_way or self._by_source[source] > self._max_under_way // 2:
                raise TooManyBodies

    def _count(self, source: str, size_bytes: int) -> None:
        self._under_way += size_bytes
        self._by_source[source] += size_bytes
        if not self._by_source[source]:
            del self._by_source[source]


def has_body(scope: Scope) -> bool:
    """Whether one is announced."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def declared_bytes(scope: Scope) -> int:
    """Content-Length, 0 when there is none; the server has refused one that is no number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
