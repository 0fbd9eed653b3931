"""The stream that a service keeps at NATS."""

import asyncio
import re

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


async def test_user_and_password_are_read_percent_encoded(servers: Servers, stream: str) -> None:
    """As RFC 3986 writes them: every character may be, and what is no letter must."""
    scheme, sign_in, host = re.split("://|@", servers.nats_url)
    user, password = ("".join(f"%{ord(letter):02x}" for letter in word) for word in sign_in.split(":"))
    bus = Bus(SecretStr(f"{scheme}://{user}:{password}@{host}"), name="test", stream=stream)
    async with background(bus.run()), asyncio.timeout(10):
        assert await bus.connected()


async def test_a_stream_that_stands_otherwise_is_changed(jetstream: JetStreamContext, stream: str) -> None:
    info = await jetstream.stream_info(stream)
    assert info.config.num_replicas == 1
    await jetstream.update_stream(info.config.evolve(duplicate_window=60))
    await ensure_stream(jetstream, stream)
    assert (await jetstream.stream_info(stream)).config.duplicate_window == info.config.duplicate_window
