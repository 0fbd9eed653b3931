"""The relay: every committed fact reaches the stream, whatever dies and however late it commits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from nats.js import JetStreamContext
from pydantic import SecretStr

from services.chassis import failpoints
from services.chassis.bus import Bus
from services.chassis.relay import Relay
from tests.integration.chassis.support import eventually, rows, write

_INSERT = "INSERT INTO outbox (subject, payload) VALUES (%s, %s)"


@pytest.fixture(autouse=True)
def emptied(url: str) -> None:
    write(url, "TRUNCATE outbox")


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def relay_of(url: str, bus: Bus) -> Relay:
    return Relay(database_url=SecretStr(url), bus=bus, source="test", poll_seconds=0.02)


async def count(jetstream: JetStreamContext, stream: str) -> int:
    return int((await jetstream.stream_info(stream)).state.messages)


async def sent(url: str, number: int) -> bool:
    return rows(url, "SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL") == [(number,)]


async def test_facts_are_published_with_their_id_and_attributes(
    url: str, bus: Bus, jetstream: JetStreamContext, stream: str
) -> None:
    subject = f"{stream.lower()}.thing.happened"
    write(url, _INSERT, subject, b"payload")
    async with running(relay_of(url, bus)):
        await eventually(lambda: sent(url, 1), "sent")
    [(id,)] = rows(url, "SELECT id FROM outbox")
    message = await jetstream.get_msg(stream, 1)
    assert (message.subject, message.data) == (subject, b"payload")
    assert message.headers is not None
    assert message.headers["Nats-Msg-Id"] == message.headers["ce-id"] == str(id)
    assert (message.headers["ce-type"], message.headers["ce-source"]) == (subject, "test")


async def test_a_relay_that_dies_between_ack_and_mark_publishes_no_second_message(
    url: str, bus: Bus, jetstream: JetStreamContext, stream: str
) -> None:
    write(url, _INSERT, f"{stream.lower()}.a.b", b"x")
    failpoints.arm("relay.acknowledged=error")
    task = asyncio.create_task(relay_of(url, bus).run())
    with pytest.raises(failpoints.FailpointError):
        await task
    assert rows(url, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == [(1,)]
    assert await count(jetstream, stream) == 1
    async with running(relay_of(url, bus)):
        await eventually(lambda: sent(url, 1), "sent at last")
    assert await count(jetstream, stream) == 1


async def test_a_transaction_that_commits_late_is_not_skipped(
    url: str, bus: Bus, jetstream: JetStreamContext, stream: str
) -> None:
    subject = f"{stream.lower()}.a.b"
    async with running(relay_of(url, bus)):
        with psycopg.connect(url) as late:
            late.execute(_INSERT.encode(), (subject, b"late"))
            write(url, _INSERT, subject, b"early")
            await eventually(lambda: sent(url, 1), "the early one is sent")
        await eventually(lambda: sent(url, 2), "the late one is sent, too")
    assert await count(jetstream, stream) == 2


async def test_of_two_relays_one_works_and_the_other_takes_over(url: str, bus: Bus, stream: str) -> None:
    subject = f"{stream.lower()}.a.b"
    async with running(relay_of(url, bus)):
        write(url, _INSERT, subject, b"1")
        await eventually(lambda: sent(url, 1), "sent by the first")
        async with running(relay_of(url, bus)):
            lockers = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            own = "(SELECT oid FROM pg_database WHERE datname = current_database())"
            assert rows(url, f"{lockers} {own}") == [(1,)]
            write(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'test-relay' AND datname = current_database()",
            )
            write(url, _INSERT, subject, b"2")
            await eventually(lambda: sent(url, 2), "sent after the leader's connection died")


async def test_facts_wait_while_the_bus_refuses_them(
    url: str, bus: Bus, jetstream: JetStreamContext, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def was_refused() -> bool:
        return "relay.interrupted" in capsys.readouterr().out

    await jetstream.delete_stream(stream)
    write(url, _INSERT, f"{stream.lower()}.a.b", b"x")
    async with running(relay_of(url, bus)):
        await eventually(was_refused, "refused")
        assert rows(url, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == [(1,)]
        await jetstream.add_stream(name=stream, subjects=[f"{stream.lower()}.>"])
        await eventually(lambda: sent(url, 1), "sent once the stream is back")
