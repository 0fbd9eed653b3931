"""One trace for whatever a request causes, in every process: W3C trace context through OpenTelemetry.

The current span lives in a context variable, so that tasks inherit it. Its trace travels as gRPC metadata, in
the outbox and as a NATS header, and in the rows that others go on with later (saga runs, checkouts). With no
collector to tell (trace_export.py) a span is only its place in a trace: ids go on and nothing is recorded.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from opentelemetry import context, trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict, WrappedLogger

from services.chassis.errors import DomainError, Unavailable

HEADER = "traceparent"
Attributes = Mapping[str, str | int]
RPC_STATUS = "rpc.response.status_code"
_W3C = TraceContextTextMapPropagator()
_NOTHING = context.Context()
_TRACER = trace.get_tracer("aishop")


@contextmanager
def continued(
    traceparent: str | None,
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
    causes: Sequence[str | None] = (),
) -> Iterator[Span]:
    """What the block does is one span of the trace that is named; of a new trace when none is, or none that
    can be read. `causes` are traceparents of whatever one piece of work is done for at once."""
    parent = _read(traceparent)
    span = _TRACER.start_span(
        name,
        trace.set_span_in_context(NonRecordingSpan(parent), _NOTHING),
        kind=kind,
        attributes=attributes,
        links=[Link(cause) for cause in map(_read, causes) if cause.is_valid],
    )
    if not span.get_span_context().is_valid:
        span = NonRecordingSpan(_new())
    with _current(span):
        yield span


@contextmanager
def within(
    name: str, *, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None
) -> Iterator[Span]:
    """What the block does is one span below the current one."""
    with _current(_TRACER.start_span(name, kind=kind, attributes=attributes)) as span:
        yield span


def annotate(attributes: Attributes) -> None:
    """Says more of the current span, by OpenTelemetry's conventions."""
    trace.get_current_span().set_attributes(attributes)


def fail(reason: str) -> None:
    """The current span did not do what it was begun for. `reason` is a code or the name of a class, never a
    message: that may tell who somebody is."""
    span = trace.get_current_span()
    span.set_attribute("error.type", reason)
    span.set_status(StatusCode.ERROR)


def refuse(error: DomainError) -> None:
    """The current span answered no. That is work well done, unless we could not do it."""
    if isinstance(error, Unavailable):
        fail(error.reason)
    else:
        trace.get_current_span().set_attribute("aishop.refused", error.reason)


def carried() -> dict[str, str]:
    """The headers that name the current span to whoever goes on; none outside of any."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier


def current() -> str | None:
    """The W3C traceparent of the current span; None outside of any."""
    return carried().get(HEADER)


def trace_id() -> str | None:
    """32 hex digits; None outside of any trace."""
    return _hex(trace.get_current_span().get_span_context())


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace that a traceparent names; None when it names none."""
    return _hex(_read(traceparent))


def add_trace_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor of structlog."""
    if (found := trace_id()) is not None:
        event["trace_id"] = found
    return event


def messaging(operation: Literal["send", "process"], subject: str, message_id: str) -> Attributes:
    """What OpenTelemetry's conventions tell of a message."""
    return {
        "messaging.system": "nats",
        "messaging.operation.type": operation,
        "messaging.operation.name": "publish" if operation == "send" else operation,
        "messaging.destination.name": subject,
        "messaging.message.id": message_id,
    }


def rpc(method: str) -> Attributes:
    """And of a call; `method` is the whole name, package.Service/Method."""
    return {"rpc.system.name": "grpc", "rpc.method": method}


@contextmanager
def _current(span: Span) -> Iterator[Span]:
    """Ends the span with the block. What was raised is for `fail`: an exception's text may hold anything."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        yield span


def _read(traceparent: str | None) -> SpanContext:
    carrier = {HEADER: traceparent} if traceparent else {}
    return trace.get_current_span(_W3C.extract(carrier, _NOTHING)).get_span_context()


def _hex(span: SpanContext) -> str | None:
    return format(span.trace_id, "032x") if span.is_valid else None


def _new() -> SpanContext:
    return SpanContext(
        trace_id=_number(16), span_id=_number(8), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )


def _number(size_bytes: int) -> int:
    """Random, and never 0, which W3C takes for none."""
    return int.from_bytes(os.urandom(size_bytes), "big") or 1
