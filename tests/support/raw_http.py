"""HTTP by hand, for what no client library would send."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of a problem."""
        code: str = json.loads(self.body)["code"]
        return code


class Connection:
    """One connection; `answer` reads the next response whole."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Ends quietly when the other side has had enough."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            return

    async def answer(self) -> Answer:
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(status.split(" ")[1]), headers, body)

    async def is_closed(self, within_seconds: float = 5.0) -> bool:
        """Whether the other side ends it in time, be it hard; what it still says is dropped."""
        try:
            async with asyncio.timeout(within_seconds):
                while await self._reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True


@asynccontextmanager
async def connected(url: str, *, receive_buffer_bytes: int = 0) -> AsyncIterator[Connection]:
    """To the origin of a URL. With a small buffer the other side soon waits for us to read."""
    parts = urlsplit(url)
    wire = socket.socket()
    wire.setblocking(False)
    if receive_buffer_bytes:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    await asyncio.get_running_loop().sock_connect(wire, (parts.hostname, parts.port))
    # Beyond its limit the reader stops reading, too.
    reader, writer = await asyncio.open_connection(sock=wire, limit=2**16)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


def request(
    method: str, path: str, *headers: tuple[str, str], body: bytes = b"", length: int | None = None
) -> bytes:
    """`length` is what it says of its body's, when that is not what it is."""
    declared: list[tuple[str, Any]] = []
    if body or length is not None:
        declared = [("Content-Length", len(body) if length is None else length)]
    lines = [f"{name}: {value}\r\n" for name, value in (("Host", "shop.test"), *headers, *declared)]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1") + body
