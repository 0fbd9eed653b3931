"""The consumer: an effect once, poison parked, everything else again and again until it works."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from nats.js import JetStreamContext
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import failpoints
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer, Handler, Subscription
from services.chassis.db import Database
from services.chassis.errors import Rejected, Unavailable
from tests.integration.chassis.support import eventually, rows, write
from tests.support.metrics import value


@pytest.fixture(autouse=True)
def emptied(url: str) -> None:
    write(url, "TRUNCATE inbox, dead_letters, effects")


class Effects:
    """A handler that writes one row for each message; `errors` are raised first, one by one."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.calls = 0

    async def handle(self, connection: AsyncConnection, event: StringValue) -> None:
        self.calls += 1
        values = {"id": uuid4(), "note": event.value}
        await connection.execute(text("INSERT INTO effects (id, note) VALUES (:id, :note)"), values)
        if self._errors:
            raise self._errors.pop(0)


@asynccontextmanager
async def consuming(
    bus: Bus, database: Database, stream: str, handle: Handler, *, ack_wait_seconds: float = 10
) -> AsyncIterator[Subscription]:
    subscription = Subscription(stream, f"{stream.lower()}.a.b", "test__thing", StringValue, handle)
    consumer = Consumer(
        subscription,
        bus=bus,
        database=database,
        after_commit=lambda: None,
        ack_wait_seconds=ack_wait_seconds,
    )
    task = asyncio.create_task(consumer.run())
    try:
        yield subscription
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.5)


async def publish(jetstream: JetStreamContext, stream: str, note: str, **headers: str) -> None:
    payload = StringValue(value=note).SerializeToString()
    sent = {"Nats-Msg-Id": str(uuid4())} | headers
    await jetstream.publish(f"{stream.lower()}.a.b", payload, headers=sent)


async def effects(url: str, *notes: str) -> bool:
    return rows(url, "SELECT note FROM effects ORDER BY note") == [(note,) for note in notes]


async def at_rest(jetstream: JetStreamContext, stream: str) -> bool:
    info = await jetstream.consumer_info(stream, "test__thing")
    return (info.num_pending, info.num_ack_pending) == (0, 0)


async def test_one_message_has_one_effect_however_often_it_comes(
    url: str, bus: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    id = str(uuid4())
    handler = Effects()
    # Outside of JetStream's own window, so that only the inbox can tell.
    await jetstream.update_stream(name=stream, subjects=[f"{stream.lower()}.>"], duplicate_window=0.1)
    async with consuming(bus, database, stream, handler.handle):
        for number in range(1, 4):
            await eventually(partial(_stored_again, jetstream, stream, id, number), "a copy is stored")
        await publish(jetstream, stream, "two")
        await eventually(lambda: effects(url, "one", "two"), "both took effect")
        await eventually(lambda: at_rest(jetstream, stream), "all acknowledged")
    assert handler.calls == 2


async def _stored_again(jetstream: JetStreamContext, stream: str, id: str, number: int) -> bool:
    """Publishes the message until the stream holds `number` copies of it."""
    await publish(jetstream, stream, "one", **{"Nats-Msg-Id": id})
    return int((await jetstream.stream_info(stream)).state.messages) >= number


async def test_a_crash_before_the_commit_leaves_nothing_and_the_message_comes_again(
    url: str, bus: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    failpoints.arm("consumer.test__thing.handled=error")
    handler = Effects()
    async with consuming(bus, database, stream, handler.handle):
        await publish(jetstream, stream, "one")
        await eventually(lambda: effects(url, "one"), "the second delivery took effect")
    assert handler.calls == 2


@pytest.mark.parametrize("error", [Unavailable("AWAY", "try again"), RuntimeError("a defect")])
async def test_what_may_pass_is_tried_again_and_rolled_back_meanwhile(
    url: str, bus: Bus, database: Database, jetstream: JetStreamContext, stream: str, error: Exception
) -> None:
    handler = Effects(error, error)
    async with consuming(bus, database, stream, handler.handle):
        await publish(jetstream, stream, "one")
        await eventually(lambda: effects(url, "one"), "the third delivery took effect")
    assert handler.calls == 3
    assert rows(url, "SELECT 1 FROM dead_letters") == []


async def test_what_is_rejected_for_good_is_parked_with_its_inbox_row(
    url: str, bus: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    handler = Effects(Rejected("NO_WAY", "never", order_id="7"))
    id = uuid4()
    async with consuming(bus, database, stream, handler.handle):
        await publish(jetstream, stream, "one", **{"Nats-Msg-Id": str(id)})
        await eventually(lambda: _parked(url, 1), "parked")
        await eventually(lambda: at_rest(jetstream, stream), "terminated")
    assert await effects(url)
    [(message_id, error)] = rows(url, "SELECT message_id, error FROM dead_letters")
    assert message_id == str(id)
    assert "NO_WAY" in error
    assert rows(url, "SELECT message_id FROM inbox") == [(UUID(message_id),)]


async def test_what_becomes_of_messages_is_counted_and_so_is_what_waits(
    url: str, bus: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    def counts() -> list[float]:
        name = "aishop_consumer_messages_total"
        return [
            value(name, consumer="test__thing", outcome=outcome)
            for outcome in ("handled", "known", "retried", "parked")
        ]

    before, id = counts(), str(uuid4())
    await jetstream.update_stream(name=stream, subjects=[f"{stream.lower()}.>"], duplicate_window=0.1)
    handler = Effects(Unavailable("AWAY", "once"), Rejected("NO_WAY", "never"))
    async with consuming(bus, database, stream, handler.handle) as subscription:
        await publish(jetstream, stream, "one", **{"Nats-Msg-Id": id})
        await eventually(lambda: _parked(url, 1), "the second delivery is parked")
        await publish(jetstream, stream, "two")
        await eventually(lambda: effects(url, "two"), "the next one took effect")
        await eventually(partial(_stored_again, jetstream, stream, id, 3), "a copy is stored")
        await eventually(lambda: at_rest(jetstream, stream), "nothing left")
    assert [after - b for after, b in zip(counts(), before, strict=True)] == [1, 1, 1, 1]
    # An open pull would take the message, and be gone.
    await eventually(lambda: _nobody_pulls(jetstream, stream), "the broker knows of the end")
    await publish(jetstream, stream, "three")
    stopped = Consumer(
        subscription, bus=bus, database=database, after_commit=lambda: None, ack_wait_seconds=10
    )

    async def seen_waiting() -> bool:
        await stopped.take(database)
        return value("aishop_consumer_pending_messages", consumer="test__thing") == 1

    # The broker tells the consumer of a message after it has told the publisher that it is stored.
    await eventually(seen_waiting, "the third is counted")


async def _nobody_pulls(jetstream: JetStreamContext, stream: str) -> bool:
    info = await jetstream.consumer_info(stream, "test__thing")
    return not info.num_waiting


@pytest.mark.parametrize("headers", [{"Nats-Msg-Id": "not a uuid"}, {}])
async def test_garbage_is_parked_and_does_not_stop_what_follows(
    url: str, bus: Bus, database: Database, jetstream: JetStreamContext, stream: str, headers: dict[str, str]
) -> None:
    handler = Effects()
    async with consuming(bus, database, stream, handler.handle):
        await jetstream.publish(f"{stream.lower()}.a.b", b"\xff\xff\xff", headers=headers or None)
        await publish(jetstream, stream, "fine")
        await eventually(lambda: effects(url, "fine"), "the next one took effect")
        await eventually(lambda: _parked(url, 1), "the garbage is parked")
        await eventually(lambda: at_rest(jetstream, stream), "nothing left")


async def _parked(url: str, number: int) -> bool:
    return rows(url, "SELECT count(*) FROM dead_letters") == [(number,)]


async def test_a_new_consumer_goes_on_where_the_old_one_stopped(
    url: str, bus: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    async with consuming(bus, database, stream, Effects().handle):
        await publish(jetstream, stream, "one")
        await eventually(lambda: effects(url, "one"), "the first took effect")
        await eventually(lambda: at_rest(jetstream, stream), "acknowledged")
    await publish(jetstream, stream, "two")
    second = Effects()
    async with consuming(bus, database, stream, second.handle):
        await eventually(lambda: effects(url, "one", "two"), "the second took effect")
    assert second.calls == 1


async def test_a_durable_of_an_earlier_start_is_told_what_was_set_since(
    url: str, bus: Bus, database: Database, jetstream: JetStreamContext, stream: str
) -> None:
    async def at_work(ack_wait_seconds: float, note: str) -> None:
        handle = Effects().handle
        async with consuming(bus, database, stream, handle, ack_wait_seconds=ack_wait_seconds):
            await publish(jetstream, stream, note)
            await eventually(lambda: _taken(url, note), f"{note} took effect")

    await at_work(10, "one")
    await at_work(2, "two")
    assert (await jetstream.consumer_info(stream, "test__thing")).config.ack_wait == 2


async def _taken(url: str, note: str) -> bool:
    return rows(url, "SELECT count(*) FROM effects WHERE note = %s", note) == [(1,)]
