"""Composition root: settings → backends → app → server. Exits 0 after SIGTERM, when it has drained."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop
from fastapi import FastAPI

from gateway.app import create_api, guarded
from gateway.backends import connect
from gateway.gate import DEADLINE_SECONDS
from gateway.settings import GatewaySettings
from services.chassis import failpoints, logs
from services.chassis.workers import run_until_signal


class _Server(uvicorn.Server):
    """Leaves the signals to us: uvicorn would close the port at once, and raise them again at its end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT, then drains: unready, a pause, no new connections, finish."""
    async with connect(settings) as backends:
        api = create_api(settings, backends)
        server = _server(api, settings)
        serving = asyncio.create_task(server.serve())
        stopping = asyncio.create_task(run_until_signal())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        api.state.is_draining = True
        if not serving.done():
            await asyncio.sleep(settings.drain_delay_seconds)
        server.should_exit = True
        stopping.cancel()
        await serving


def _server(api: FastAPI, settings: GatewaySettings) -> _Server:
    host, port = settings.address
    return _Server(
        uvicorn.Config(
            guarded(api, settings),
            host=host,
            port=port,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            # Longer than the idle time of common load balancers, or they reuse a connection as it closes.
            timeout_keep_alive=75,
            # Longer than any request may take; an endless stream must not keep us from stopping.
            timeout_graceful_shutdown=int(DEADLINE_SECONDS) + 1,
        )
    )


def main() -> None:
    settings = GatewaySettings()
    logs.configure("gateway", settings.log_level)
    failpoints.arm(settings.failpoints, settings.failpoints_fired)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(settings))


if __name__ == "__main__":
    main()
