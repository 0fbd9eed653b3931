"""A broker that could not write once: it takes nothing until it is started again, and it is."""

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import nats
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from services.chassis.bus import Bus, ensure_stream
from services.chassis.consumer import Consumer, Subscription
from services.chassis.db import Database
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


async def test_an_outage_is_told_when_it_begins_and_when_it_ends(
    url: str,
    servers: Servers,
    bus: Bus,
    database: Database,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not at each try; and nothing of it as an error, by asyncio neither."""
    write(url, "TRUNCATE outbox, inbox, relay")
    monkeypatch.setattr("services.chassis.relay._ACK_SECONDS", 0.2)
    monkeypatch.setattr("services.chassis.consumer._FETCH_SECONDS", 0.2)
    relay = Relay(database_url=SecretStr(url), bus=bus, source="test", poll_seconds=0.02)
    subject = f"{stream.lower()}.a.b"
    consumer = Consumer(
        Subscription(stream, subject, "test__outage", StringValue, ignore),
        bus=bus,
        database=database,
        after_commit=lambda: None,
        ack_wait_seconds=10,
    )
    refused = value("aishop_outbox_refusals_total")

    async def was_tried_often() -> bool:
        return value("aishop_outbox_refusals_total") > refused + 3

    async def is_handled() -> bool:
        return rows(url, "SELECT count(*) FROM inbox WHERE consumer = 'test__outage'") == [(1,)]

    async def is_told() -> bool:
        return {"relay.resumed", "bus.reconnected"} <= {entry["event"] for entry in logs}

    with capture_logs() as logs:
        async with background(relay.run(), consumer.run()):
            await asyncio.to_thread(servers.stack.hold, "nats")
            write(url, "INSERT INTO outbox (subject, payload) VALUES (%s, '')", subject)
            await eventually(was_tried_often, "tried in vain, again and again", seconds=30)
            await asyncio.to_thread(servers.stack.release, "nats")
            await eventually(is_handled, "it goes on", seconds=30)
            await eventually(is_told, "and says so")
    told = Counter(entry["event"] for entry in logs if entry["log_level"] == "warning")
    # What each says of it may change once: from a lost connection to one that is refused, say.
    assert set(told) <= {"bus.disconnected", "bus.error", "relay.interrupted", "consumer.interrupted"}, told
    assert told["relay.interrupted"] in (1, 2), told
    assert max(told.values()) <= 3, told
    assert [entry for entry in logs if entry["log_level"] == "error"] == []
    # The test's own connection tells of itself, too.
    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def ignore(_connection: AsyncConnection, _event: StringValue) -> None:
    """That it came is enough."""
