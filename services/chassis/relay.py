"""Publishes the outbox to JetStream, in order of commit as far as one can see, each fact at least once.

States of a row: unsent (`sent_at` null) → sent. One relay per database leads, by a lease (leadership.py), on
a connection of its own, so that replicas take over when it dies, freezes or is cut off. A round reads up to
100 unsent rows, publishes them with `Nats-Msg-Id` = row id, awaits every ack, and marks the acknowledged ones
in one UPDATE, which only the leader's can. A crash between ack and mark publishes again: JetStream drops the
copy inside its dedupe window and the consumer's inbox for ever. Rows are claimed by `sent_at IS NULL`,
never by `id > last`: a transaction that commits late is not skipped.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn
from uuid import UUID

import psycopg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from opentelemetry.trace import SpanKind
from prometheus_client import Counter
from psycopg.rows import class_row
from pydantic import SecretStr

from services.chassis import connections, failpoints, logs, rounds, tracing
from services.chassis.bus import Bus
from services.chassis.connections import WORKER, Pooling, deadline
from services.chassis.leadership import LEASE_SECONDS, RENEWAL, Connection, DeposedError, Leadership
from services.chassis.outages import Outage, lasting
from services.chassis.refill import Refill

log = logs.get(__name__)

_BATCH = 100
_ACK_SECONDS = 5.0
_RETRY_SECONDS = 0.5
_STANDBY_SECONDS = 1.0
# The server ends a statement after 5 s; one that is still unanswered then has lost its connection.
_SQL_SECONDS = 7.0
_GOODBYE_SECONDS = 0.3

_UNSENT = """
    SELECT id, subject, payload, traceparent, created_at FROM outbox
    WHERE sent_at IS NULL ORDER BY id LIMIT %s"""
_MARK = f"""
    WITH lease AS ({RENEWAL}),
    marked AS (UPDATE outbox SET sent_at = now() WHERE id = ANY(%(ids)s) AND EXISTS (SELECT FROM lease))
    SELECT token FROM lease"""
_REFUSED = Counter(
    "aishop_outbox_refusals_total", "Rounds in which the broker did not acknowledge every fact in time."
)
_SENT = Counter("aishop_outbox_sent_total", "Facts that the broker has acknowledged.")


@dataclass(frozen=True, slots=True)
class _Unsent:
    id: UUID
    subject: str
    payload: bytes
    traceparent: str | None
    created_at: datetime


class Relay:
    """`run()` is a background task of the service; `wake()` spares a fresh event the poll."""

    def __init__(
        self,
        *,
        database_url: SecretStr,
        bus: Bus,
        source: str,
        poll_seconds: float,
        pooling: Pooling = "session",
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._database_url = database_url
        self._bus = bus
        self._source = source
        self._poll_seconds = poll_seconds
        self._pooling = pooling
        self._woken = asyncio.Event()
        self._outage = Outage(log, gone="relay.interrupted", back="relay.resumed")
        self._leadership = Leadership(lease_seconds=lease_seconds)

    @property
    def leads(self) -> bool:
        """Whether this process has the relay's lease: one for each database at a time."""
        return self._leadership.is_leader

    def wake(self) -> None:
        self._woken.set()

    @lasting
    async def run(self) -> None:
        jetstream = await self._bus.connected()
        while True:
            try:
                await self._relay(jetstream)
            except DeposedError:
                log.warning("relay.deposed")
            except (psycopg.OperationalError, NatsError, TimeoutError) as error:
                self._outage.tell(error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _relay(self, jetstream: JetStreamContext) -> None:
        connection = await connections.connect(
            self._database_url, WORKER, name=f"{self._source}-relay", pooling=self._pooling, autocommit=True
        )
        async with connection:
            while not await self._is_leader(connection):
                await asyncio.sleep(_STANDBY_SECONDS)
            try:
                await self._lead(connection, jetstream)
            finally:
                with suppress(psycopg.Error), deadline(connection, _GOODBYE_SECONDS):
                    await self._leadership.end(connection)

    async def _is_leader(self, connection: Connection) -> bool:
        with deadline(connection, _SQL_SECONDS):
            return await self._leadership.take(connection)

    async def _lead(self, connection: Connection, jetstream: JetStreamContext) -> NoReturn:
        refill = Refill(self._bus, self._leadership)
        while True:
            self._woken.clear()
            with rounds.under_way("relay"):
                with deadline(connection, _SQL_SECONDS):
                    await self._leadership.keep(connection)
                    await refill.go_on(connection)
                published = await self._publish_batch(connection, jetstream)
            if published < _BATCH:
                await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), self._poll_seconds)

    async def _publish_batch(self, connection: Connection, jetstream: JetStreamContext) -> int:
        with deadline(connection, _SQL_SECONDS):
            async with connection.cursor(row_factory=class_row(_Unsent)) as cursor:
                rows = await (await cursor.execute(_UNSENT, (_BATCH,))).fetchall()
        if not rows:
            self._outage.end()
            return 0
        acks = await self._send_all(jetstream, rows)
        failpoints.hit("relay.sent")
        done, late = await asyncio.wait(acks, timeout=_ACK_SECONDS)
        for ack in late:
            ack.cancel()
        sent = [
            row.id for row, ack in zip(rows, acks, strict=True) if ack in done and ack.exception() is None
        ]
        failpoints.hit("relay.acknowledged")
        with deadline(connection, _SQL_SECONDS):
            await self._mark(connection, sent)
        _SENT.inc(len(sent))
        if len(sent) < len(rows):
            _REFUSED.inc()
            raise TimeoutError("not every event was acknowledged")
        self._outage.end()
        return len(rows)

    async def _send_all(
        self, jetstream: JetStreamContext, rows: Sequence[_Unsent]
    ) -> list["asyncio.Future[PubAck]"]:
        acks: list[asyncio.Future[PubAck]] = []
        try:
            for row in rows:
                acks.append(await self._send(jetstream, row))
                # Whatever becomes of this round: asyncio complains of an error that nobody looked at.
                acks[-1].add_done_callback(_look_at)
        except BaseException:
            # Nobody waits for them any more.
            for ack in acks:
                ack.cancel()
            raise
        return acks

    async def _mark(self, connection: Connection, sent: list[UUID]) -> None:
        asked_at = time.monotonic()
        marked = await connection.execute(_MARK.encode(), self._leadership.fence | {"ids": sent})
        self._leadership.confirm(await marked.fetchone() is not None, asked_at=asked_at)

    async def _send(self, jetstream: JetStreamContext, row: _Unsent) -> "asyncio.Future[PubAck]":
        """The broker's promise to acknowledge."""
        told = tracing.messaging("send", row.subject, str(row.id))
        with tracing.continued(
            row.traceparent, f"publish {row.subject}", kind=SpanKind.PRODUCER, attributes=told
        ):
            return await jetstream.publish_async(
                row.subject, row.payload, headers=self._headers(row), wait_stall=_ACK_SECONDS
            )

    def _headers(self, row: _Unsent) -> dict[str, str]:
        """CloudEvents attributes in NATS headers."""
        headers = {
            "Nats-Msg-Id": str(row.id),
            "ce-specversion": "1.0",
            "ce-id": str(row.id),
            "ce-type": row.subject,
            "ce-source": self._source,
            "ce-time": row.created_at.isoformat(),
            "content-type": "application/protobuf",
        }
        return headers | tracing.carried()


def _look_at(ack: "asyncio.Future[PubAck]") -> None:
    if not ack.cancelled():
        ack.exception()
