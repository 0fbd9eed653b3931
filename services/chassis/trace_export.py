"""Spans go to a collector by OTLP over HTTP, in batches, from a thread: nobody waits for it, and while it is
away they are dropped.

A trace that another process has begun is recorded as that one decided; of those begun here, a share.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

from services.chassis.settings import TracedSettings

# Shorter than the grace that a stopping process is given: an absent collector must not use it up.
_SEND_SECONDS = 3


@contextmanager
def exporting(service: str, settings: TracedSettings) -> Iterator[None]:
    """Sends the block's spans to the settings' collector, the last ones at its end; does nothing without one.
    Once in a process."""
    if not settings.otel_exporter_otlp_endpoint:
        yield
        return
    # A quarter of a second to load, for those who want it.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.namespace": "aishop"}),
        sampler=ParentBasedTraceIdRatio(settings.otel_traces_sampler_arg),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_SEND_SECONDS)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
