"""One HTTP port in the event loop of a process: bound before it says so, stopped when the block ends."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from services.chassis.at_once import AtOnce
from services.chassis.http_protocol import BoundedProtocol
from services.chassis.wire_limits import WireLimits

# Connections of a burst that wait to be accepted; the kernel's own limit may be lower.
_BACKLOG = 2048


@asynccontextmanager
async def serving(
    app: ASGIApp,
    listen: str,
    *,
    stop_seconds: int,
    keep_alive_seconds: int = 5,
    limits: WireLimits | None = None,
) -> AsyncIterator[None]:
    """Serves `app` at `host:port`; at the end refuses new connections and gives running requests
    `stop_seconds`. An idle connection is closed after `keep_alive_seconds`, one that breaks `limits` at once.
    A busy port is an OSError."""
    # Bound here: uvicorn would end the process with sys.exit and no name for the port.
    listener = bound_socket(listen)
    limits = limits or WireLimits()
    connections = AtOnce(limits.connections_per_address)
    config = uvicorn.Config(
        app,
        http=partial(BoundedProtocol, limits=limits, connections=connections),  # type: ignore[arg-type]
        # uvicorn listens again on a socket that it is given, with a backlog of its own.
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        lifespan="off",
        # Nobody asks who called, and what a client says about that is not to be believed.
        proxy_headers=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=stop_seconds,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await running


def bound_socket(listen: str) -> socket.socket:
    """A listening socket at `host:port` (`[host]:port` for IPv6), and nowhere else."""
    host, _, port = listen.rpartition(":")
    address = host.strip("[]")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, int(port)), family=family, backlog=_BACKLOG)
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which these do not;
    # without it the body of an answer waits up to 40 ms for the acknowledgement of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the composition root's: uvicorn would raise them again at its end."""
        yield
