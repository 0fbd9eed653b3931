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


@pytest.fixture(autouse=True)
def emptied(url: str) -> None:
    write(url, "TRUNCATE outbox, inbox, dead_letters, effects, relay")


async def test_a_stream_that_is_lost_under_us_is_made_again_and_filled_from_the_outbox(
    url: str, watchful: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    service = Service(url, watchful, database, stream)
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
                await eventually(
                    lambda: service.effects("1 heard", "2 missed", "3 after"), "all took effect, each once"
                )
                await eventually(lambda: filled(url), "nothing is left to fill")
                await eventually(service.all_sent, "all are in the stream")
    assert (await jetstream.stream_info(stream)).state.messages == 3
    assert [entry["stream"] for entry in logs if entry["event"] == "relay.stream_lost"] == [stream]
    assert rows(url, "SELECT stream_lost_at > now() - interval '1 minute' FROM relay") == [(True,)]


async def test_a_stream_that_was_lost_while_nobody_ran_is_filled(
    url: str, servers: Servers, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    """The broker's disk, or its volume: the next start makes a stream that looks as good as the old one."""
    first = Bus(SecretStr(servers.nats_url), name="test", stream=stream)
    service = Service(url, first, database, stream)
    async with background(first.run(), service.relay.run()):
        service.emit("1 missed")
        await eventually(service.all_sent, "it is in the stream")
    await jetstream.delete_stream(stream)
    second = Bus(SecretStr(servers.nats_url), name="test", stream=stream)
    service = Service(url, second, database, stream)
    async with background(second.run(), service.relay.run(), service.consumer.run()):
        await eventually(lambda: service.effects("1 missed"), "it took effect")
    lost = rows(url, "SELECT stream_lost_at IS NOT NULL FROM relay")
    # Another start finds the stream that it knows.
    third = Bus(SecretStr(servers.nats_url), name="test", stream=stream)
    with capture_logs() as logs:
        async with background(third.run(), Service(url, third, database, stream).relay.run()):
            await eventually(lambda: led_again(url), "it leads")
            service.emit("2 fresh")
            await eventually(service.all_sent, "it works")
    assert lost == [(True,)]
    assert [entry for entry in logs if entry["event"] == "relay.stream_lost"] == []


async def filled(url: str) -> bool:
    return rows(url, "SELECT refill_until FROM relay") == [(None,)]


async def led_again(url: str) -> bool:
    return rows(url, "SELECT token FROM relay") == [(3,)]


@pytest.mark.parametrize(
    ("remembers", "is_lost"),
    [("stream_created_at - interval '1 day'", True), ("NULL", False), ("stream_created_at", False)],
)
async def test_only_another_stream_than_the_one_that_was_published_into_is_lost(
    url: str, watchful: Bus, database: Database, stream: str, remembers: str, is_lost: bool
) -> None:
    """A database that remembers none is new, or of the release before: its oldest fact tells."""
    service = Service(url, watchful, database, stream)
    async with background(service.relay.run()):
        service.emit("1")
        await eventually(service.all_sent, "it is in the stream")
    write(url, f"UPDATE relay SET stream_created_at = {remembers}")
    async with background(service.relay.run()):
        service.emit("2")
        await eventually(service.all_sent, "the next is, too")
    assert rows(url, "SELECT stream_lost_at IS NOT NULL FROM relay") == [(is_lost,)]


async def test_a_database_that_remembers_no_stream_tells_by_its_oldest_fact(
    url: str, watchful: Bus, database: Database, stream: str
) -> None:
    service = Service(url, watchful, database, stream)
    service.emit("1 of an older stream")
    write(url, "UPDATE outbox SET sent_at = now() - interval '1 day'")
    async with background(service.relay.run(), service.consumer.run()):
        await eventually(lambda: service.effects("1 of an older stream"), "it is published again")


async def test_a_big_stream_is_filled_a_few_at_a_time(
    url: str, watchful: Bus, database: Database, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a fresh fact does not wait for all that is old."""
    monkeypatch.setattr("services.chassis.refill._BATCH", 10)
    monkeypatch.setattr("services.chassis.refill._PAUSE_SECONDS", 0.5)
    service = Service(url, watchful, database, stream)
    for number in range(100, 150):
        service.emit(str(number))
    write(url, "UPDATE outbox SET sent_at = now() - interval '1 day'")

    async def is_heard() -> bool:
        return rows(url, "SELECT 1 FROM effects WHERE note = 'fresh'") == [(1,)]

    async with background(service.relay.run(), service.consumer.run()):
        await eventually(lambda: begun(url), "filling has begun")
        service.emit("fresh")
        await eventually(is_heard, "the fresh one is heard")
        await eventually(
            lambda: service.effects(*(str(number) for number in range(100, 150)), "fresh"), "all of them"
        )
    behind = """
        WITH heard AS (SELECT o.payload, i.received_at FROM inbox i JOIN outbox o ON o.id = i.message_id)
        SELECT count(*) > 0 FROM heard WHERE received_at >
            (SELECT received_at FROM heard WHERE position('fresh'::bytea IN payload) > 0)"""
    assert rows(url, behind) == [(True,)]


async def begun(url: str) -> bool:
    return rows(url, "SELECT 1 FROM relay WHERE refill_after IS NOT NULL") == [(1,)]


async def test_what_is_published_again_by_hand_is_known_to_who_had_it(
    url: str, watchful: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    service = Service(url, watchful, database, stream)
    began = datetime.now(UTC)
    async with background(service.relay.run(), service.consumer.run()):
        service.emit("1")
        await eventually(lambda: service.effects("1"), "it took effect")
        with psycopg.connect(url) as connection:
            assert republish(connection, datetime.now(UTC) + timedelta(minutes=1)) == 0
            assert republish(connection, began - timedelta(minutes=1)) == 1
        await eventually(service.all_sent, "sent once more")
    assert rows(url, "SELECT count(*) FROM effects") == [(1,)]
