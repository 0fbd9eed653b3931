"""The connection to NATS JetStream, and the streams that a service owns."""

import asyncio
from contextlib import suppress

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import BadRequestError
from pydantic import SecretStr

from services.chassis import logs

log = logs.get(__name__)

_KEEP_SECONDS = 30 * 24 * 3600
# Longer than any outage of the relay that we plan for; behind it stands the inbox.
_DEDUPE_SECONDS = 600
_FLUSH_SECONDS = 1


class Bus:
    """Connects in the background and for ever: a shop without NATS sells, and publishes later."""

    def __init__(self, url: SecretStr, *, name: str, stream: str, replicas: int = 1) -> None:
        """`stream` is the service's own, kept on `replicas` servers."""
        self._url = url
        self._name = name
        self._stream = stream
        self._replicas = replicas
        self._connected = asyncio.Event()
        self._client: Client = Client()
        self.jetstream: JetStreamContext = self._client.jetstream()

    async def run(self) -> None:
        """Connects, makes sure of the own stream, then keeps the client until cancelled."""
        try:
            while not self._connected.is_set():
                await self._connect()
            await asyncio.Event().wait()
        finally:
            # The last acks leave; there is nothing to drain, since consumers pull.
            with suppress(NatsError, TimeoutError):
                await self._client.flush(_FLUSH_SECONDS)
            await self._client.close()

    async def connected(self) -> JetStreamContext:
        """Waits until the bus was reached for the first time."""
        await self._connected.wait()
        return self.jetstream

    async def _connect(self) -> None:
        try:
            await self._client.connect(
                self._url.get_secret_value(),
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
            await ensure_stream(self.jetstream, self._stream, replicas=self._replicas)
            self._connected.set()
        except (OSError, NatsError, TimeoutError) as error:
            # What the broker said is in the text of its errors only, and a timeout has none.
            log.warning("bus.connect_failed", error=f"{type(error).__name__}: {error}")
            with suppress(NatsError):
                await self._client.close()
            await asyncio.sleep(0.5)
            # Last: a client that was never asked to connect can be neither flushed nor closed.
            self._client = Client()

    async def _on_error(self, error: Exception) -> None:
        log.warning("bus.error", error=repr(error))

    async def _on_disconnected(self) -> None:
        log.warning("bus.disconnected")

    async def _on_reconnected(self) -> None:
        log.info("bus.reconnected")


async def ensure_stream(jetstream: JetStreamContext, stream: str, *, replicas: int = 1) -> None:
    """Creates the stream that holds every `<service>.>` subject, or changes what stands to this."""
    config = StreamConfig(
        name=stream,
        subjects=[f"{stream.lower()}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        num_replicas=replicas,
        max_age=_KEEP_SECONDS,
        duplicate_window=_DEDUPE_SECONDS,
    )
    try:
        await jetstream.add_stream(config)
    except BadRequestError:
        # It stands with an older configuration.
        await jetstream.update_stream(config)
