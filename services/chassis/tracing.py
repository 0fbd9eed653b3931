"""One trace for whatever a request causes, in every process: W3C trace context through OpenTelemetry's API.

The current trace lives in a context variable, so that tasks inherit it. It travels as gRPC metadata, in the
outbox and as a NATS header, and in the rows that others go on with later (saga runs, checkouts). Nothing is
exported here: with OpenTelemetry's SDK installed, spans find their parent in the same context.
"""

import os

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.typing import EventDict, WrappedLogger

HEADER = "traceparent"
_W3C = TraceContextTextMapPropagator()
_NOTHING = context.Context()


def adopt(traceparent: str | None) -> None:
    """From here on the current task, and what it starts, works for the trace that is named; for a new one
    when none is, or none that can be read. For the first line of a task of its own: nobody takes it back."""
    span = _read(traceparent)
    context.attach(trace.set_span_in_context(NonRecordingSpan(span if span.is_valid else _new()), _NOTHING))


def current() -> str | None:
    """The W3C traceparent of the current trace; None outside of any."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get(HEADER)


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
