"""Composition root: settings → backends → app → server. Exits 0 after SIGTERM, when it has drained."""

import asyncio
import sys

import uvloop

from gateway.app import create_api, guarded
from gateway.backends import connect
from gateway.load_shedding import DEADLINE_SECONDS
from gateway.settings import GatewaySettings
from services.chassis import failpoints, logs
from services.chassis.http_server import serving
from services.chassis.metrics import serving_metrics
from services.chassis.settings import load
from services.chassis.signals import run_until_signal
from services.chassis.tasks import background
from services.chassis.trace_export import exporting
from services.chassis.usage import end_with_usage

# Longer than the idle time of common load balancers, or they reuse a connection as it closes.
_KEEP_ALIVE_SECONDS = 75
# Longer than any request may take; streams end at once.
_STOP_SECONDS = int(DEADLINE_SECONDS) + 1


async def run(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT, then drains: unready, a pause, no new connections, finish."""
    async with connect(settings) as backends:
        api = create_api(settings, backends)
        async with (
            background(*api.state.authenticator.work()),
            serving(
                guarded(api, settings),
                settings.listen,
                stop_seconds=_STOP_SECONDS,
                keep_alive_seconds=_KEEP_ALIVE_SECONDS,
                limits=settings.wire_limits,
            ),
        ):
            await run_until_signal()
            api.state.is_draining = True
            await asyncio.sleep(settings.drain_delay_seconds)
            api.state.closing.set()
        await api.state.limiter.close()


def main() -> None:
    if sys.argv[1:]:
        end_with_usage("gateway")
    settings = load(GatewaySettings)
    logs.configure("gateway", settings.log_level)
    failpoints.arm(settings.failpoints, settings.failpoints_fired)
    with (
        exporting("gateway", settings),
        serving_metrics(settings.metrics_listen, settings.transport.certificates),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(run(settings))


if __name__ == "__main__":
    main()
