"""Calls to another service: a deadline and the current trace on each, retries of UNAVAILABLE only, domain
errors back.

Retrying is the channel's own (gRPC service config) and safe since every command carries its id. A
deadline that ran out is an OutcomeUnknown, never a failure: whoever called decides what to do with it.
With TLS a channel is replaced by one with the new certificate when the files are (transport.py).
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.descriptor import Descriptor
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry.trace import SpanKind

from services.chassis import tracing
from services.chassis.errors import (
    Conflict,
    DomainError,
    Invalid,
    NotFound,
    OutcomeUnknown,
    Rejected,
    Unavailable,
)
from services.chassis.transport import LOOPBACK, ClientIdentity, Transport

_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)
_OPTIONS = [
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A service that comes back is found at once, not after a minute of backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A name is looked up again when a replica goes, within half a minute not twice by default: a rollout that
    # replaces two of them would leave nobody to call.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
]
# What a stream that began on a replaced channel still has.
_LAST_CALLS_SECONDS = 600.0
_CLASSES: dict[grpc.StatusCode, type[DomainError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Invalid,
    grpc.StatusCode.FAILED_PRECONDITION: Rejected,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
    # Our own table or certificates are wrong: nothing was done, and it passes when they are mended.
    grpc.StatusCode.PERMISSION_DENIED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: OutcomeUnknown,
    grpc.StatusCode.CANCELLED: OutcomeUnknown,
    # The callee failed in the middle of something.
    grpc.StatusCode.INTERNAL: OutcomeUnknown,
    grpc.StatusCode.UNKNOWN: OutcomeUnknown,
}


def channel(target: str, transport: Transport = LOOPBACK) -> grpc.aio.Channel:
    """A channel to every replica behind `target` (`host:port`, `dns:///headless:port`, or
    `ipv4:host:port,host:port`).

    Raises InsecureTransportError where `transport` does not suit the target.
    """
    transport.require_safe(target)
    if transport.files is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    identity = ClientIdentity(transport.files)

    def connect() -> grpc.aio.Channel:
        return grpc.aio.secure_channel(target, identity.credentials(), options=_OPTIONS)

    return _RenewedChannel(connect, identity.is_renewed)


class _RenewedChannel(grpc.aio.Channel):
    """Whichever channel has the current certificate: credentials of a channel never change."""

    def __init__(self, connect: Callable[[], grpc.aio.Channel], is_renewed: Callable[[], bool]) -> None:
        self._connect = connect
        self._is_renewed = is_renewed
        self._channel = connect()
        self._closing: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        if self._is_renewed():
            closing = asyncio.ensure_future(self._channel.close(_LAST_CALLS_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self._channel = self._connect()
        return self._channel

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _RenewedMethod(self.current, lambda channel: channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _RenewedMethod(self.current, lambda channel: channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _RenewedMethod(self.current, lambda channel: channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _RenewedMethod(self.current, lambda channel: channel.stream_stream(*args, **kwargs))

    async def close(self, grace: float | None = None) -> None:
        for closing in self._closing:
            closing.cancel()
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.current().channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()


class _RenewedMethod:
    """A stub's method, of whichever channel is current."""

    def __init__(
        self, current: Callable[[], grpc.aio.Channel], method_of: Callable[[grpc.aio.Channel], Any]
    ) -> None:
        self._current = current
        self._method_of = method_of
        self._channel = current()
        self._method = method_of(self._channel)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        channel = self._current()
        if channel is not self._channel:
            self._channel, self._method = channel, self._method_of(channel)
        return self._method(*args, **kwargs)


async def call(method: Any, request: Any, *, timeout_seconds: float) -> Any:
    """One unary call; raises the callee's DomainError, Unavailable, or OutcomeUnknown."""
    name, attributes = _told(request.DESCRIPTOR)
    with tracing.within(name, kind=SpanKind.CLIENT, attributes=attributes):
        try:
            answer = await method(request, timeout=timeout_seconds, metadata=_metadata())
            tracing.annotate({tracing.RPC_STATUS: grpc.StatusCode.OK.name})
            return answer
        except grpc.aio.AioRpcError as error:
            failure = as_domain_error(error)
            tracing.annotate({tracing.RPC_STATUS: error.code().name})
            tracing.refuse(failure)
            raise failure from error


@cache
def _told(request: Descriptor) -> tuple[str, tracing.Attributes]:
    """The name of the call that has such a request, and what to tell of it."""
    name = request.name.removesuffix("Request")
    services = request.file.services_by_name.values()
    service = next((each.full_name for each in services if name in each.methods_by_name), "")
    return name, tracing.rpc(f"{service}/{name}")


@asynccontextmanager
async def open_stream(
    method: Any, request: Any, *, timeout_seconds: float
) -> AsyncIterator[AsyncIterator[Any]]:
    """One call that is answered by many messages, cancelled at the block's end. Opened when the callee has
    accepted it, before its first message. Raises as `call` does, then and while the messages are read."""
    running = method(request, timeout=timeout_seconds, metadata=_metadata())
    try:
        await running.wait_for_connection()
        yield _messages(running)
    except grpc.aio.AioRpcError as error:
        raise as_domain_error(error) from error
    finally:
        running.cancel()


async def stream(method: Any, request: Any, *, timeout_seconds: float) -> AsyncGenerator[Any, None]:
    """The messages of one streaming call, which ends with this generator; raises as `call` does."""
    async with open_stream(method, request, timeout_seconds=timeout_seconds) as messages:
        async for message in messages:
            yield message


async def _messages(running: Any) -> AsyncIterator[Any]:
    try:
        async for message in running:
            yield message
    except grpc.aio.AioRpcError as error:
        raise as_domain_error(error) from error


def _metadata() -> tuple[tuple[str, str], ...]:
    return tuple(tracing.carried().items())


def as_domain_error(error: grpc.aio.AioRpcError) -> DomainError:
    kind = _CLASSES.get(error.code(), OutcomeUnknown)
    reason, fields = _error_info(error)
    return kind(reason or error.code().name, error.details() or error.code().name, **fields)


def _error_info(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    # rpc_status.from_call takes an AioRpcError as well; its annotation knows only grpc.Call.
    status: Any = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}
