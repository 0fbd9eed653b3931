"""A broker that has lost a stream: it is made again, and the outbox fills it again."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from nats.js import JetStreamContext
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from services.chassis.bus import Bus
from services.chassis.consumer import Consumer, Subscription
from services.chassis.db import Database
from services.chassis.relay import Relay
from services.chassis.republish import republish
from services.chassis.workers import background
from tests.integration.chassis.support import eventually, rows, write
from tests.support.servers import Servers


@pytest.fixture
async def watchful(
    servers: Servers, stream: str, jetstream: JetStreamContext, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bus]:
    """A bus that soon sees what the broker has lost."""
    monkeypatch.setattr("services.chassis.bus._LOOK_SECONDS", 0.2)
    bus = Bus(SecretStr(servers.nats_url), name="test", stream=stream)
    async with background(bus.run()):
        yield bus


async def take_effect(connection: AsyncConnection, event: StringValue) -> None:
    values = {"id": uuid4(), "note": event.value}
    await connection.execute(text("INSERT INTO effects (id, note) VALUES (:id, :note)"), values)


class Service:
    """Its outbox, its relay, and who listens to it."""

    def __init__(self, url: str, bus: Bus, database: Database, stream: str) -> None:
        self._url = url
        self._subject = f"{stream.lower()}.a.b"
        self.relay = Relay(database_url=SecretStr(url), bus=bus, source="test", poll_seconds=0.02)
        self.consumer = Consumer(
            Subscription(stream, self._subject, "test__thing", StringValue, take_effect),
            bus=bus,
            database=database,
            after_commit=lambda: None,
            ack_wait_seconds=10,
        )

    def emit(self, note: str) -> None:
        payload = StringValue(value=note).SerializeToString()
        write(self._url, "INSERT INTO outbox (subject, payload) VALUES (%s, %s)", self._subject, payload)

    async def all_sent(self) -> bool:
        return rows(self._url, "SELECT 1 FROM outbox WHERE sent_at IS NULL") == []

    async def effects(self, *notes: str) -> bool:
        return rows(self._url, "SELECT note FROM effects ORDER BY note") == [(note,) for note in notes]


async def test_a_lost_stream_is_made_again_and_filled_from_the_outbox(
    url: str, watchful: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    write(url, "TRUNCATE outbox, inbox, dead_letters, effects")
    service = Service(url, watchful, database, stream)
    began = datetime.now(UTC)
    async with background(service.relay.run()):
        async with background(service.consumer.run()):
            service.emit("1 heard")
            await eventually(lambda: service.effects("1 heard"), "the first took effect")
        service.emit("2 missed")
        await eventually(service.all_sent, "the second is in the stream")
        with capture_logs() as logs:
            await jetstream.delete_stream(stream)
            service.emit("3 after")
            async with background(service.consumer.run()):
                await eventually(lambda: service.effects("1 heard", "3 after"), "the third took effect")
                with psycopg.connect(url) as connection:
                    assert republish(connection, datetime.now(UTC) + timedelta(minutes=1)) == 0
                    assert republish(connection, began - timedelta(minutes=1)) == 3
                await eventually(
                    lambda: service.effects("1 heard", "2 missed", "3 after"), "the lost one came"
                )
                await eventually(service.all_sent, "all are in the stream")
    assert (await jetstream.stream_info(stream)).state.messages == 3
    assert [entry["stream"] for entry in logs if entry["event"] == "bus.stream_lost"] == [stream]
