"""Where spans go: a collector that speaks OTLP over HTTP and keeps what it is sent."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


@dataclass(frozen=True)
class ReceivedSpan:
    """`parent` is empty for the first span of a trace; `links` are the traces that it was done for."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    is_failed: bool
    attributes: dict[str, str]


class Collector:
    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.spans: list[ReceivedSpan] = []

    def of(self, trace_id: str) -> dict[str, ReceivedSpan]:
        """The spans of one trace by their ids."""
        return {span.id: span for span in list(self.spans) if span.trace == trace_id}

    def keep(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [
                    ReceivedSpan(
                        service=attributes["service.name"],
                        name=span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        links=tuple(link.trace_id.hex() for link in span.links),
                        is_failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        attributes={each.key: _text(each.value) for each in span.attributes},
                    )
                    for span in scope.spans
                ]


def _text(value: AnyValue) -> str:
    return str(getattr(value, value.WhichOneof("value") or "string_value"))


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listens on a free port of the loopback address until the block's end."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            is_zipped = self.headers.get("Content-Encoding") == "gzip"
            collector.keep(gzip.decompress(body) if is_zipped else body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
