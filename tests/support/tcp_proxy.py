"""A TCP proxy between a client and a server, for what a network or a hung machine does to connections."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from deploy.local.ports import HOST

_CHUNK = 65_536
_SECONDS = 10.0


class _Link:
    """One connection's two directions."""

    def __init__(self, *, is_silent: bool) -> None:
        self.is_silent = is_silent
        self.writers: list[asyncio.StreamWriter] = []

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if not self.is_silent:
                    writer.write(data)
                    await writer.drain()
        if not self.is_silent:
            writer.close()


class TcpProxy:
    """Its loop runs in a thread of its own, so that a test may block. Use `tcp_proxy`."""

    def __init__(self, port: int) -> None:
        """Leads to that port of this machine."""
        self.port = 0
        self._target = port
        self._is_silent = False
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()

    def silence(self) -> None:
        """What is open stays open, and no byte comes through any more; a new connection works."""
        self._do(self._silence)

    def freeze(self) -> None:
        """Like a machine that hangs: what is open goes silent, and so does what is opened until `lead_to`."""
        self._do(self._freeze)

    def cut(self) -> None:
        """Hangs up on everybody."""
        self._do(self._cut)

    def lead_to(self, port: int) -> None:
        """New connections lead there from now on."""
        self._do(lambda: self._lead_to(port))

    def open_links(self) -> int:
        return len(self._links)

    def _do(self, what: Callable[[], None]) -> None:
        done = threading.Event()

        def call() -> None:
            what()
            done.set()

        self._loop.call_soon_threadsafe(call)
        assert done.wait(_SECONDS), "the proxy's loop hangs"

    def _silence(self) -> None:
        for link in self._links:
            link.is_silent = True

    def _freeze(self) -> None:
        self._is_silent = True
        self._silence()

    def _cut(self) -> None:
        for link in self._links:
            for writer in link.writers:
                writer.transport.abort()

    def _lead_to(self, port: int) -> None:
        self._target, self._is_silent = port, False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(is_silent=self._is_silent)
        self._links.add(link)
        link.writers.append(writer)
        try:
            # Cancelled: the proxy ends.
            with suppress(OSError, asyncio.CancelledError):
                there, back = await asyncio.open_connection(HOST, self._target)
                link.writers.append(back)
                await asyncio.gather(link.pump(reader, back), link.pump(there, writer))
        finally:
            for each in link.writers:
                each.close()
            self._links.discard(link)

    def run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@contextmanager
def tcp_proxy(port: int) -> Iterator[TcpProxy]:
    proxy = TcpProxy(port)
    ready = threading.Event()
    thread = threading.Thread(target=proxy.run, args=[ready], daemon=True)
    thread.start()
    assert ready.wait(_SECONDS), "the proxy did not start"
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(_SECONDS)
