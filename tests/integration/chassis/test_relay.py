"""The relay: every committed fact reaches the stream, whatever dies and however late it commits."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
import pytest
from nats.js import JetStreamContext
from pydantic import SecretStr
from structlog.testing import capture_logs

from services.chassis import failpoints
from services.chassis.bus import Bus
from services.chassis.relay import Relay
from tests.integration.chassis.support import eventually, rows, write
from tests.support.relaying import relay_process
from tests.support.servers import Servers

_INSERT = "INSERT INTO outbox (subject, payload) VALUES (%s, %s)"


@pytest.fixture(autouse=True)
def emptied(url: str) -> None:
    write(url, "TRUNCATE outbox, relay")


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[None]:
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def relay_of(url: str, bus: Bus, *, lease_seconds: float = 10.0) -> Relay:
    return Relay(
        database_url=SecretStr(url),
        bus=bus,
        source="test",
        poll_seconds=0.02,
        lease_seconds=lease_seconds,
    )


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
    with capture_logs() as logged:
        async with running(relay_of(url, bus)):
            await eventually(lambda: sent(url, 1), "sent at last")
    assert "background.failed" in [line["event"] for line in logged]
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


async def led(url: str, *, by: str) -> bool:
    query = "SELECT 1 FROM relay JOIN pg_stat_activity ON pid = backend_pid WHERE application_name = %s"
    return rows(url, query, f"{by}-relay") == [(1,)]


async def test_of_two_relays_one_works_and_the_other_takes_over_at_once(
    url: str, bus: Bus, stream: str
) -> None:
    subject = f"{stream.lower()}.a.b"
    async with running(relay_of(url, bus, lease_seconds=60)):
        write(url, _INSERT, subject, b"1")
        await eventually(lambda: sent(url, 1), "sent by the first")
        async with running(relay_of(url, bus, lease_seconds=60)):
            assert rows(url, "SELECT token FROM relay") == [(1,)]
            write(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'test-relay' AND datname = current_database()",
            )
            write(url, _INSERT, subject, b"2")
            # Sooner than a lease ends: its session is gone.
            await eventually(lambda: sent(url, 2), "sent after the leader's connection died", seconds=30)


async def test_a_frozen_leader_is_replaced_and_marks_nothing_when_it_goes_on(
    url: str, servers: Servers, bus: Bus, jetstream: JetStreamContext, stream: str
) -> None:
    """It is frozen after the broker has its facts, before it hears so: the moment in which it would mark."""
    nats_pid = servers.stack.file.pids["nats"]
    assert nats_pid is not None
    options = {"url": url, "nats_url": servers.nats_url, "stream": stream, "lease_seconds": 1.0}
    with relay_process(**options) as other:  # type: ignore[arg-type]
        await eventually(lambda: led(url, by="other"), "the other leads")
        os.kill(nats_pid, signal.SIGSTOP)
        write(url, _INSERT, f"{stream.lower()}.a.b", b"x")
        await eventually(lambda: waits_for_acks(url), "it has read the fact, and waits for the broker")
        other.freeze()
        os.kill(nats_pid, signal.SIGCONT)
        async with running(relay_of(url, bus, lease_seconds=1.0)):
            await eventually(lambda: sent(url, 1), "sent by the one that is well", seconds=10)
        # Somebody wants it published once more, and a third one leads: the first must not say that it was.
        write(url, "UPDATE outbox SET sent_at = NULL")
        with holding_the_lead(url):
            other.thaw()
            await asyncio.to_thread(other.log_until, "relay.deposed")
            assert rows(url, "SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL") == [(0,)]
    assert await count(jetstream, stream) == 1


async def waits_for_acks(url: str) -> bool:
    """Its session has read rows and asks for nothing more, although it polls every 20 ms."""
    query = """
        SELECT 1 FROM pg_stat_activity WHERE application_name = 'other-relay' AND state = 'idle'
            AND position('FROM outbox' IN query) > 0 AND state_change < now() - interval '300 ms'"""
    return rows(url, query) == [(1,)]


@contextmanager
def holding_the_lead(url: str) -> Iterator[None]:
    """A session that leads, as far as others can see."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE relay SET token = token + 1, lease_until = 'infinity', backend_pid = pg_backend_pid()"
        )
        yield


async def test_a_relay_of_the_release_before_does_no_harm_beside_this_one(
    url: str, bus: Bus, jetstream: JetStreamContext, stream: str
) -> None:
    """It leads by its advisory lock, knows no lease and marks without one: each fact is there once."""
    async with running(relay_of(url, bus)), running_as_before(url, jetstream):
        for number in range(200):
            write(url, _INSERT, f"{stream.lower()}.a.b", str(number).encode())
        await eventually(lambda: sent(url, 200), "all are sent")
    assert await count(jetstream, stream) == 200


@asynccontextmanager
async def running_as_before(url: str, jetstream: JetStreamContext) -> AsyncIterator[None]:
    async def relay() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute("SELECT pg_try_advisory_lock(4712)")
            while True:
                unsent = "SELECT id, subject, payload FROM outbox WHERE sent_at IS NULL ORDER BY id LIMIT 100"
                facts = await (await connection.execute(unsent)).fetchall()
                for id, subject, payload in facts:
                    await jetstream.publish(subject, payload, headers={"Nats-Msg-Id": str(id)})
                ids = [id for id, _, _ in facts]
                await connection.execute("UPDATE outbox SET sent_at = now() WHERE id = ANY(%s)", (ids,))
                await asyncio.sleep(0.02)

    task = asyncio.create_task(relay())
    try:
        yield
    finally:
        assert not task.done(), "it was at work all the time"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


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
