"""A lean HTTP/1.1 client: the load must cost less than what it loads."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


class Connection:
    """One kept connection, one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> Answer:
        return await self._send("GET", path, "", b"")

    async def post(self, path: str, headers: str, body: bytes) -> Answer:
        return await self._send("POST", path, headers, body)

    async def _send(self, method: str, path: str, headers: str, body: bytes) -> Answer:
        reader, writer = self._streams or await self._connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{headers}"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer_head = await reader.readuntil(b"\r\n\r\n")
        length = answer_head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return Answer(int(answer_head[9:12]), await reader.readexactly(int(length)))

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await asyncio.open_connection(self._host, self._port)
        return self._streams
