"""The connection to NATS JetStream, and the streams that a service owns."""

import asyncio
from contextlib import suppress
from datetime import datetime

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig, StreamInfo
from nats.js.errors import BadRequestError
from pydantic import SecretStr

from services.chassis import logs
from services.chassis.outages import Outage, lasting
from services.chassis.server_url import server_url

log = logs.get(__name__)

# How long a stream keeps a fact: outbox and inbox keep theirs for ever.
STREAM_DAYS = 30
# Longer than any outage of the relay that we plan for; behind it stands the inbox.
_DEDUPE_SECONDS = 600
_FLUSH_SECONDS = 1
# How soon a broker that has lost its disk has the stream again.
_LOOK_SECONDS = 5.0


class Bus:
    """Connects in the background and for ever: a shop without NATS sells, and publishes later.

    The URL may name several hosts, comma separated: the servers of one cluster.
    """

    def __init__(self, url: SecretStr, *, name: str, stream: str, replicas: int = 1) -> None:
        """`stream` is the service's own, kept on `replicas` servers."""
        self._url = url
        self._name = name
        self.stream = stream
        self._replicas = replicas
        # When the broker made the stream that it has; another time means another stream (refill.py).
        self.stream_made_at: datetime | None = None
        self._connected = asyncio.Event()
        self._outage = Outage(log, gone="bus.error", back="bus.reconnected")
        self._unknown = Outage(log, gone="bus.stream_unknown", back="bus.stream_known", stream=stream)
        self._client: Client = Client()
        self.jetstream: JetStreamContext = self._client.jetstream()

    async def run(self) -> None:
        """Connects, makes sure of the own stream, then keeps the client until cancelled."""
        try:
            await self._keep_connected()
        finally:
            # The last acks leave; there is nothing to drain, since consumers pull.
            with suppress(NatsError, TimeoutError):
                await self._client.flush(_FLUSH_SECONDS)
            await self._client.close()

    @lasting
    async def _keep_connected(self) -> None:
        while not self._connected.is_set():
            await self._connect()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._restore_stream()

    async def connected(self) -> JetStreamContext:
        """Waits until the bus was reached for the first time."""
        await self._connected.wait()
        return self.jetstream

    async def _connect(self) -> None:
        url = server_url(self._url)
        try:
            await self._client.connect(
                [f"{url.scheme}://{host}" for host in url.hosts],
                # Not in the URLs: those that the cluster tells of more servers have none either.
                user=url.user,
                password=url.password,
                name=self._name,
                # Replies come back where no other user of the broker may listen (deploy/nats/accounts.conf).
                inbox_prefix=f"_INBOX.{self._name}",
                connect_timeout=2,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                max_outstanding_pings=3,
                ping_interval=10,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
            )
            self.jetstream = self._client.jetstream(timeout=5)
            found = await ensure_stream(self.jetstream, self.stream, replicas=self._replicas)
            self.stream_made_at = found.created
            self._connected.set()
            self._outage.end()
        except (OSError, NatsError, TimeoutError) as error:
            self._outage.tell(error)
            with suppress(NatsError):
                await self._client.close()
            await asyncio.sleep(0.5)
            # Last: a client that was never asked to connect can be neither flushed nor closed.
            self._client = Client()

    async def _restore_stream(self) -> None:
        """Makes the own stream again where the broker has lost it; refill.py publishes what it held."""
        if not self._client.is_connected:
            return
        try:
            found = await self.jetstream.add_stream(_config(self.stream, self._replicas))
        except BadRequestError:
            # It stands as another version of us wants it.
            return
        except (NatsError, TimeoutError) as error:
            self._unknown.tell(error)
            return
        self._unknown.end()
        if found.created != self.stream_made_at:
            log.warning("bus.stream_made_again", stream=self.stream)
            self.stream_made_at = found.created

    async def _on_error(self, error: Exception) -> None:
        self._outage.tell(error)

    async def _on_disconnected(self) -> None:
        log.warning("bus.disconnected")

    async def _on_reconnected(self) -> None:
        self._outage.end()


async def ensure_stream(jetstream: JetStreamContext, stream: str, *, replicas: int = 1) -> StreamInfo:
    """Creates the stream that holds every `<service>.>` subject, or changes what stands to this."""
    config = _config(stream, replicas)
    try:
        return await jetstream.add_stream(config)
    except BadRequestError:
        # It stands with an older configuration.
        return await jetstream.update_stream(config)


def _config(stream: str, replicas: int) -> StreamConfig:
    return StreamConfig(
        name=stream,
        subjects=[f"{stream.lower()}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_age=STREAM_DAYS * 24 * 3600,
        duplicate_window=_DEDUPE_SECONDS,
    )
