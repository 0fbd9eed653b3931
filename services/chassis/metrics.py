"""/metrics for Prometheus, on a port of its own: what is counted is nobody's business outside."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server


@contextmanager
def serving(listen: str) -> Iterator[None]:
    """Answers scrapes at `host:port` from a thread; nothing when `listen` is empty. A busy port is an
    OSError."""
    if not listen:
        yield
        return
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
