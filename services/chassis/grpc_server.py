"""A gRPC server with health, reflection, one error mapping, and a drain at the end.

Every handler runs as a task of its own that outlives a cancelled call: a short transaction is never
torn in the middle because a client went away (FAILURES.md, 31). Of a stream this holds for each step from one
message to the next. At SIGTERM the server says NOT_SERVING, refuses new calls, waits for the running ones,
then stops. It says so too while background work of this process is stuck (rounds.py).

With TLS each method is open to the callers that the service's table names (`services/<name>/callers.py`);
health is open to whoever has a certificate, and reflection is not offered.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Set
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import grpc
import psycopg
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import Span, SpanKind
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.chassis import logs, metrics, rounds, tracing
from services.chassis.errors import DomainError, NotAllowed, Unavailable
from services.chassis.transport import LOOPBACK, ServerIdentity, Transport, caller_of

log = logs.get(__name__)

STATUS_CODES = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "rejected": grpc.StatusCode.FAILED_PRECONDITION,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "conflict": grpc.StatusCode.ABORTED,
    "not_allowed": grpc.StatusCode.PERMISSION_DENIED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    # Which the client does not try again at once.
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
ERROR_DOMAIN = "aishop"
_STATUS_DETAILS = "grpc-status-details-bin"
_MAX_MESSAGE_BYTES = 1 << 20
_MAX_CONCURRENT_CALLS = 256
_DRAIN_SECONDS = 8.0
_LOOK_SECONDS = 1.0

_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # Clients ping every 30 s; whoever pings more often than this is cut off.
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A replica that starts on a port still held by another must fail, not share it.
    ("grpc.so_reuseport", 0),
]

# A certificate is looked at when a connection begins: none outlives its certificate for long.
_TLS_OPTIONS = [
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 10 * 60_000),
]

Method = Callable[[Any, Any], Awaitable[Any]]
StreamMethod = Callable[[Any, Any], AsyncGenerator[Any, None]]
# Who may call what: {full name of the service: {method: callers}}.
Callers = Mapping[str, Mapping[str, Set[str]]]


class GrpcServer:
    """Serves the given servicers on one address until `stop()`.

    `callers` must have every method of every servicer. `max_streams` calls that last may run beside those
    that do not. Raises InsecureTransportError where `transport` does not suit the address.
    """

    def __init__(
        self,
        listen: str,
        *,
        transport: Transport = LOOPBACK,
        callers: Callers | None = None,
        max_streams: int = 0,
    ) -> None:
        transport.require_safe(listen)
        self._listen = listen
        self._identity = ServerIdentity(transport.files) if transport.files else None
        self._callers = callers or {}
        self._server = grpc.aio.server(
            options=[*_OPTIONS, *(_TLS_OPTIONS if self._identity else ())],
            maximum_concurrent_rpcs=_MAX_CONCURRENT_CALLS + max_streams,
        )
        self._health = HealthServicer()
        self._names = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        self._running: set[asyncio.Future[Any]] = set()
        self._watching: asyncio.Task[None] | None = None
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def add(
        self,
        servicer: Any,
        register: Callable[[Any, grpc.aio.Server], None],
        descriptor: ServiceDescriptor,
    ) -> None:
        """Registers a servicer with every method guarded, and with TLS open to its callers only."""
        for method in descriptor.methods:
            guard = self._guarded_stream if method.server_streaming else self._guarded
            guarded = guard(getattr(servicer, method.name), f"{descriptor.full_name}/{method.name}")
            if self._identity:
                guarded = _for_callers(self._callers[descriptor.full_name][method.name], guarded)
            name = f"{descriptor.name}/{method.name}"
            measured = _counted if method.server_streaming else _timed
            setattr(servicer, method.name, measured(name, guarded))
        register(servicer, self._server)
        self._names.append(descriptor.full_name)

    async def start(self) -> None:
        if self._identity:
            self._server.add_secure_port(self._listen, self._identity.credentials)
        else:
            reflection.enable_server_reflection([*self._names, reflection.SERVICE_NAME], self._server)
            self._server.add_insecure_port(self._listen)
        await self._server.start()
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        self._watching = asyncio.create_task(self._watch_rounds())
        log.info("grpc.serving", address=self._listen, tls=self._identity is not None)

    async def stop(self) -> None:
        """Drains: unready, refuse new calls, finish the running ones."""
        if self._watching:
            self._watching.cancel()
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.stop(_DRAIN_SECONDS)
        if self._running:
            await asyncio.wait(self._running, timeout=_DRAIN_SECONDS)

    async def _watch_rounds(self) -> None:
        """Says NOT_SERVING as long as some background work does not come to its end."""
        overdue: set[str] = set()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            before, overdue = overdue, rounds.overdue()
            if overdue - before:
                log.error("process.stuck", work=sorted(overdue))
            if bool(overdue) != bool(before):
                is_well = health_pb2.HealthCheckResponse.SERVING
                await self._report(health_pb2.HealthCheckResponse.NOT_SERVING if overdue else is_well)

    async def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)

    def _guarded(self, method: Method, name: str) -> Method:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with _span(context, name):
                task = self._started(method(request, context))
                try:
                    answer = await asyncio.shield(task)
                    tracing.annotate({tracing.RPC_STATUS: grpc.StatusCode.OK.name})
                    return answer
                except asyncio.CancelledError:
                    task.add_done_callback(_log_late_failure)
                    raise
                except Exception as error:  # noqa: BLE001 - answered, and a defect is logged
                    await _answer(context, error, method.__name__)

        return call

    def _guarded_stream(self, method: StreamMethod, name: str) -> Method:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            with _span(context, name):
                messages = method(request, context)
                step = self._started(_following(messages))
                try:
                    while (message := await asyncio.shield(step)) is not None:
                        # Returns when the client has room for more.
                        await context.write(message)
                        step = self._started(_following(messages))
                except Exception as error:  # noqa: BLE001 - answered, and a defect is logged
                    await _answer(context, error, method.__name__)
                finally:
                    # Not waited for: whoever waits for news is told of the call's end only after this.
                    self._started(_wound_up(step, messages))

        return call

    def _started(self, work: Awaitable[Any]) -> "asyncio.Future[Any]":
        """A task that stop() waits for."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def _timed(name: str, method: Method) -> Method:
    metrics.RPC_SECONDS.labels(name, grpc.StatusCode.OK.name)

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        began = time.perf_counter()
        # What grpc makes of an exception that nobody answered.
        code = grpc.StatusCode.UNKNOWN.name
        try:
            answer = await method(request, context)
            code = grpc.StatusCode.OK.name
            return answer
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except grpc.aio.AbortError:
            code = context.code().name
            raise
        finally:
            metrics.RPC_SECONDS.labels(name, code).observe(time.perf_counter() - began)

    return call


def _counted(name: str, method: Method) -> Method:
    streams = metrics.RPC_STREAMS.labels(name)

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        with streams.track_inprogress():
            await method(request, context)

    return call


def _for_callers(allowed: Set[str], method: Method) -> Method:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        caller = caller_of(context.auth_context())
        if caller not in allowed:
            log.warning("grpc.caller_refused", caller=caller, peer=context.peer())
            await abort(context, NotAllowed("CALLER_NOT_ALLOWED", f"not for {caller or 'a nameless caller'}"))
        return await method(request, context)

    return call


async def _following(messages: AsyncGenerator[Any, None]) -> Any:
    """The stream's next message, None at its end."""
    return await anext(messages, None)


async def _wound_up(step: "asyncio.Future[Any]", messages: AsyncGenerator[Any, None]) -> None:
    """The step that still runs comes to its end, then the stream to its own."""
    if not step.done():
        step.add_done_callback(_log_late_failure)
        await asyncio.wait([step])
    await messages.aclose()


def _span(context: "grpc.aio.ServicerContext[Any, Any]", name: str) -> AbstractContextManager[Span]:
    """grpc gives each call a task of its own; its span goes on with the caller's trace."""
    metadata = context.invocation_metadata() or ()
    traceparent = next((str(value) for name, value in metadata if name == tracing.HEADER), None)
    method = name.rpartition("/")[2]
    return tracing.continued(traceparent, method, kind=SpanKind.SERVER, attributes=tracing.rpc(name))


async def _answer(context: "grpc.aio.ServicerContext[Any, Any]", error: Exception, method: str) -> NoReturn:
    """What a failed handler answers; nothing inside is told of a defect."""
    if isinstance(error, DomainError):
        await abort(context, error)
    if isinstance(error, (psycopg.OperationalError, DBAPIError, PoolTimeout)):
        await abort(context, _database_error(error))
    tracing.fail(type(error).__name__)
    tracing.annotate({tracing.RPC_STATUS: grpc.StatusCode.INTERNAL.name})
    log.error("grpc.unexpected_error", method=method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, type(error).__name__)


def _log_late_failure(task: "asyncio.Future[Any]") -> None:
    """Nobody waits for the answer of a cancelled call; its failure is still worth a line."""
    if not task.cancelled() and task.exception() is not None:
        log.warning("grpc.cancelled_call_failed", error=repr(task.exception()))


def _database_error(error: Exception) -> DomainError:
    """Commands are idempotent, so that a lost database is answered with "again", even at COMMIT."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(cause, (psycopg.OperationalError, PoolTimeout)):
        log.error("grpc.database_error", error=repr(error))
        raise error
    log.warning("grpc.database_unavailable", error=repr(cause))
    if isinstance(cause, (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)):
        return Unavailable("BUSY", "someone else is changing the same thing; try again")
    return Unavailable("DATABASE_UNAVAILABLE", "the database does not answer; try again")


async def abort(context: "grpc.aio.ServicerContext[Any, Any]", error: DomainError) -> NoReturn:
    """Answers a domain error as its gRPC code with google.rpc.ErrorInfo {reason, metadata}."""
    code = STATUS_CODES[error.category]
    tracing.refuse(error)
    tracing.annotate({tracing.RPC_STATUS: code.name})
    info = AnyMessage()
    info.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.fields))
    status = status_pb2.Status(code=code.value[0], message=error.message, details=[info])
    await context.abort(
        code, error.message, trailing_metadata=((_STATUS_DETAILS, status.SerializeToString()),)
    )
