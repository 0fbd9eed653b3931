"""Durable pull consumers: each message is handled in one transaction with its inbox row, then acked.

States of a message: delivered → handled (commit, ack) | parked (dead letter, term) | again (nak with a
growing delay of at most 60 s, for ever: `max_deliver=-1`, since JetStream drops a message silently
when its deliveries are used up). Only what cannot be decoded, or what a handler rejects for good with a
DomainError, is parked. A crash before the commit changes nothing; a crash before the ack delivers
again and the inbox row turns it away. A watchdog subscribes again when messages wait but none is seen.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.message import DecodeError, Message
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import failpoints, inbox, logs, metrics, rounds, tracing
from services.chassis.bus import Bus
from services.chassis.db import Database
from services.chassis.errors import DomainError, Unavailable
from services.chassis.outages import Outage, is_outage, lasting
from services.chassis.sampling import TICK_SECONDS, Sampler

log = logs.get(__name__)

_BATCH = 50
_AT_ONCE = 4
_FETCH_SECONDS = 5.0
_MAX_DELAY_SECONDS = 60.0
_RETRY_SECONDS = 0.5
_ALERT_AFTER = 10
_OUTCOMES = ("handled", "known", "retried", "parked")

Handler = Callable[[AsyncConnection, Any], Awaitable[None]]


@dataclass(frozen=True)
class Subscription:
    """What one consumer listens to. `durable` is `<consumer>__<noun>` and must never change."""

    stream: str
    subject: str
    durable: str
    event: type[Message]
    handle: Handler


async def subscribe(
    jetstream: JetStreamContext, of: Subscription, *, ack_wait_seconds: float
) -> JetStreamContext.PullSubscription:
    """Makes the durable or changes it: a subscription alone keeps what one of an earlier start was told."""
    await jetstream.add_consumer(
        of.stream,
        ConsumerConfig(
            # With a name the broker is asked by a subject that has the filter in it, so that what a service
            # may read can be told in its permissions (deploy/nats/accounts.conf).
            name=of.durable,
            durable_name=of.durable,
            filter_subject=of.subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_seconds,
            max_deliver=-1,
            max_ack_pending=1000,
        ),
    )
    return await jetstream.pull_subscribe(of.subject, durable=of.durable, stream=of.stream)


def watching(database: Database, consumers: "Sequence[Consumer]") -> Sampler:
    """Measures how far the consumers are behind. Beside what is asked of the database, since a broker that is
    away is waited for; not at once, since the durables are still being made."""
    return Sampler(database, consumers, first_after_seconds=TICK_SECONDS)


class Consumer:
    """Runs one subscription; `after_commit` wakes whoever works on what the handler wrote."""

    def __init__(
        self,
        subscription: Subscription,
        *,
        bus: Bus,
        database: Database,
        after_commit: Callable[[], None],
        ack_wait_seconds: float,
    ) -> None:
        """A message whose handler died with its process comes again after `ack_wait_seconds`."""
        self._of = subscription
        self._bus = bus
        self._database = database
        self._after_commit = after_commit
        self._ack_wait_seconds = ack_wait_seconds
        self._outage = Outage(
            log, gone="consumer.interrupted", back="consumer.resumed", durable=subscription.durable
        )
        for outcome in _OUTCOMES:
            metrics.MESSAGES.labels(subscription.durable, outcome)
        for gauge in (metrics.DEAD_LETTERS, metrics.CONSUMER_PENDING, metrics.CONSUMER_UNACKNOWLEDGED):
            gauge.labels(subscription.durable)
        self.name = f"consumer {subscription.durable}"
        self.every_seconds = TICK_SECONDS

    async def take(self, _database: Database) -> None:
        """As a sample (sampling.py): how far this consumer is behind its stream."""
        info = await self._bus.jetstream.consumer_info(self._of.stream, self._of.durable)
        metrics.CONSUMER_PENDING.labels(self._of.durable).set(info.num_pending or 0)
        metrics.CONSUMER_UNACKNOWLEDGED.labels(self._of.durable).set(info.num_ack_pending or 0)

    @lasting
    async def run(self) -> None:
        jetstream = await self._bus.connected()
        while True:
            try:
                await self._pull(jetstream)
            except Exception as error:
                # Of several messages at once, a group: their acks fail together.
                if not is_outage(error):
                    raise
                # At a first start the other service has yet to make its stream.
                self._outage.tell(error, is_expected=isinstance(error, NotFoundError))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _pull(self, jetstream: JetStreamContext) -> None:
        subscription = await subscribe(jetstream, self._of, ack_wait_seconds=self._ack_wait_seconds)
        try:
            while True:
                messages: list[Msg] = []
                with suppress(TimeoutError):
                    # nats-py's own timeout does not fire when the broker stays silent.
                    async with asyncio.timeout(_FETCH_SECONDS + 2):
                        messages = await subscription.fetch(_BATCH, timeout=_FETCH_SECONDS)
                if messages:
                    await self._handle_all(messages)
                elif await self._is_stalled(jetstream):
                    raise TimeoutError("messages wait but none arrives")
                self._outage.end()
        finally:
            with suppress(NatsError, TimeoutError):
                await asyncio.wait_for(subscription.unsubscribe(), 2)

    async def _is_stalled(self, jetstream: JetStreamContext) -> bool:
        info = await jetstream.consumer_info(self._of.stream, self._of.durable)
        return bool(info.num_pending)

    async def _handle_all(self, messages: list[Msg]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(message: Msg) -> None:
            async with slots:
                with rounds.under_way(self.name):
                    await self._settle(message)

        async with asyncio.TaskGroup() as group:
            for message in messages:
                group.create_task(one(message))

    async def _settle(self, message: Msg) -> None:
        """Handles one message, in its own trace, and tells the broker what became of it."""
        headers = message.headers or {}
        told = tracing.messaging("process", message.subject, headers.get("Nats-Msg-Id", ""))
        with tracing.continued(
            headers.get(tracing.HEADER),
            f"process {message.subject}",
            kind=SpanKind.CONSUMER,
            attributes={**told, "messaging.consumer.group.name": self._of.durable},
        ):
            await self._settle_traced(message)

    async def _settle_traced(self, message: Msg) -> None:
        try:
            await self._handle(message)
        except (DecodeError, ValueError) as error:
            await self._park(message, f"undecodable: {error}")
        except Unavailable as error:
            await self._again(message, error)
        except DomainError as error:
            await self._park(message, f"{error.reason}: {error.message} {error.fields}")
        except Exception as error:  # noqa: BLE001 - nak'd: the broker brings it again
            await self._again(message, error)
        else:
            failpoints.hit(f"consumer.{self._of.durable}.committed")
            await message.ack()

    async def _handle(self, message: Msg) -> None:
        message_id = UUID((message.headers or {}).get("Nats-Msg-Id", ""))
        event = self._of.event.FromString(message.data)
        async with self._database.worker() as connection:
            if not await inbox.is_new(connection, consumer=self._of.durable, message_id=message_id):
                self._count("known")
                return
            await self._of.handle(connection, event)
            failpoints.hit(f"consumer.{self._of.durable}.handled")
        self._count("handled")
        self._after_commit()

    def _count(self, outcome: str) -> None:
        metrics.MESSAGES.labels(self._of.durable, outcome).inc()

    async def _again(self, message: Msg, error: Exception) -> None:
        tracing.fail(type(error).__name__)
        deliveries = message.metadata.num_delivered or 1
        delay = min(_MAX_DELAY_SECONDS, 0.25 * 2.0 ** min(deliveries, 12))
        report = log.error if deliveries > _ALERT_AFTER else log.warning
        report(
            "consumer.retry",
            durable=self._of.durable,
            deliveries=deliveries,
            delay_seconds=delay,
            error=repr(error),
        )
        self._count("retried")
        await message.nak(delay=delay)

    async def _park(self, message: Msg, error: str) -> None:
        """Keeps what can never be handled, with its inbox row, and tells the broker not to bring it again."""
        tracing.fail("dead_letter")
        headers: Mapping[str, str] = message.headers or {}
        message_id = headers.get("Nats-Msg-Id") or f"seq:{message.metadata.sequence.stream}"
        try:
            async with self._database.worker() as connection:
                with suppress(ValueError):
                    await inbox.is_new(connection, consumer=self._of.durable, message_id=UUID(message_id))
                await inbox.bury(
                    connection,
                    consumer=self._of.durable,
                    message_id=message_id,
                    subject=message.subject,
                    payload=message.data,
                    headers=dict(headers),
                    error=error,
                )
        except Exception as failure:  # noqa: BLE001 - nak'd: parked at the next delivery
            await self._again(message, failure)
            return
        self._count("parked")
        log.error("consumer.dead_letter", durable=self._of.durable, error=error)
        await message.term()
