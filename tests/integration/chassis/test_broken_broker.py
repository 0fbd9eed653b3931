"""A broker that could not write once: it takes nothing until it is started again, and it is."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from pydantic import SecretStr

from services.chassis.bus import Bus, ensure_stream
from services.chassis.relay import Relay
from services.chassis.workers import background
from tests.integration.chassis.support import eventually, rows, write
from tests.support.metrics import value
from tests.support.servers import Servers

# JetStream keeps a stream in files of 8 MB: after so much it has to open the next one.
_BIG, _FILES_FULL = b"x" * 900_000, 10


@contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """It keeps what it has open. As good as a full disk, which needs a disk of one's own."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


async def break_stream(servers: Servers, jetstream: JetStreamContext, subject: str) -> int:
    """What it could not write once it does not write again, whatever it may open by now. Returns its pid."""
    pid = servers.stack.file.pids["nats"]
    assert pid is not None
    with without_descriptors(pid):
        try:
            for _ in range(_FILES_FULL):
                await jetstream.publish(subject, _BIG, timeout=1)
        except (NatsError, TimeoutError):
            return pid
    raise AssertionError("NATS wrote everything")


async def test_a_broker_that_cannot_write_is_started_again_and_facts_go_on(
    url: str, servers: Servers, bus: Bus, jetstream: JetStreamContext, stream: str
) -> None:
    write(url, "TRUNCATE outbox, relay")
    refused = value("aishop_outbox_refusals_total")
    relay = Relay(database_url=SecretStr(url), bus=bus, source="test", poll_seconds=0.02)
    broken = await break_stream(servers, jetstream, f"{stream.lower()}.big")
    write(url, "INSERT INTO outbox (subject, payload) VALUES (%s, 'x')", f"{stream.lower()}.a.b")

    async def is_sent() -> bool:
        return rows(url, "SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL") == [(1,)]

    async with background(relay.run()):
        await eventually(is_sent, "published", seconds=30)
    assert servers.stack.file.pids["nats"] != broken
    assert value("aishop_outbox_refusals_total") > refused
    assert "says that it is sick" in servers.stack.log("supervisor")
    # Tidily, for the tests that come after: the connection of the fixture may still be on its way back.
    client = await nats.connect(servers.nats_url)
    await ensure_stream(client.jetstream(), stream)
    await client.close()
