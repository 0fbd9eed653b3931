"""The stream that a service keeps at NATS."""

from nats.js import JetStreamContext
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.chassis.bus import Bus, ensure_stream
from services.chassis.workers import background
from tests.integration.chassis.support import eventually
from tests.support.servers import Servers


async def test_a_stream_for_three_servers_is_not_made_on_one(servers: Servers, stream: str) -> None:
    """The shared server stands alone: it says no, and the service waits for its cluster."""

    async def is_refused() -> bool:
        return any("replicas > 1" in entry.get("error", "") for entry in logs)

    with capture_logs() as logs:
        bus = Bus(SecretStr(servers.nats_url), name="test", stream=stream, replicas=3)
        async with background(bus.run()):
            await eventually(is_refused, "the server's refusal")


async def test_a_stream_that_stands_otherwise_is_changed(jetstream: JetStreamContext, stream: str) -> None:
    info = await jetstream.stream_info(stream)
    assert info.config.num_replicas == 1
    await jetstream.update_stream(info.config.evolve(duplicate_window=60))
    await ensure_stream(jetstream, stream)
    assert (await jetstream.stream_info(stream)).config.duplicate_window == info.config.duplicate_window
