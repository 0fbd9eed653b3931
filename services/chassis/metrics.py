"""What a process tells Prometheus, on a port of its own: what is counted is nobody's business outside.

Three kinds of numbers, and where each comes from (docs/observability.md has the list):

    what this process does      counted in memory where it is done: RPCs, requests, messages, calls to Stripe
    what stands in the tables   gauges, read with SQL on a schedule (sampling.py)
    what the shop did           counters of the rows that came into append-only tables (sampling.py)

The last two are true of the database, whichever process reports them and whatever crashed: every replica
reports the same, so that dashboards and alerts take max() of them, and sum() of what a process does. They
are read on a schedule and not at a scrape: a scrape is answered by a thread, while connections belong to the
event loop, and whoever scrapes often, or twice, must not cost the database anything.

Names are `aishop_<what>_<unit>`, with `aishop_<service>_` where only one service has it. Labels are bounded:
methods, states, reasons and kinds that the code names; never a user, an order, a product or a free text. A
time is given as a Unix timestamp, so that it goes on ageing when nobody renews it.

Names that several modules share stand here; each service's own in its metrics.py.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cryptography import x509
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics, start_http_server

# A series for each counter and histogram that says when it began: Prometheus has no use for it.
disable_created_metrics()  # type: ignore[no-untyped-call]

# From a read in one round trip to the deadline of a whole request (8 s).
REQUEST_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a second to the hours after which Stripe has given an event up several times.
LAG_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0)

RPC_SECONDS = Histogram(
    "aishop_rpc_duration_seconds",
    "Answered RPCs, without those that stream.",
    ["method", "code"],
    buckets=REQUEST_SECONDS,
)
RPC_STREAMS = Gauge("aishop_rpc_streams", "Streaming RPCs that are open now.", ["method"])
MESSAGES = Counter(
    "aishop_consumer_messages_total",
    "Messages by what became of them: handled, known (handled before), retried, parked (a dead letter).",
    ["consumer", "outcome"],
)
CONSUMER_PENDING = Gauge(
    "aishop_consumer_pending_messages", "Messages that JetStream has yet to deliver.", ["consumer"]
)
CONSUMER_UNACKNOWLEDGED = Gauge(
    "aishop_consumer_unacknowledged_messages", "Messages delivered, not acknowledged.", ["consumer"]
)
DEAD_LETTERS = Gauge("aishop_dead_letters", "Messages that can never be handled.", ["consumer"])
POOL_IN_USE = Gauge("aishop_database_pool_in_use", "Connections that are in use now.", ["pool"])
POOL_SIZE = Gauge("aishop_database_pool_size", "Connections that may be in use at once.", ["pool"])
DATABASE_DEADLINES = Counter(
    "aishop_database_deadlines_total",
    "Connections to Postgres that were given up while they were waited for.",
)
POOL_TIMEOUTS = Counter(
    "aishop_database_pool_timeouts_total", "Who waited for a connection and got none.", ["pool"]
)
LOG_LINES_LOST = Counter(
    "aishop_log_lines_lost_total", "Lines that could not be written, on a full disk say; nothing else failed."
)
CONNECTIONS_REFUSED = Counter(
    "aishop_http_connections_refused_total",
    "Connections that were ended before, or instead of, an answer: by code (docs/errors.md), or because"
    " nobody read what was answered.",
    ["why"],
)
INVARIANT_VIOLATIONS = Gauge(
    "aishop_invariant_violations",
    "Rows that break an invariant (docs/guarantees.md), seen twice; at most 100 for each check.",
    ["invariant"],
)
SAMPLED_AT = Gauge(
    "aishop_sampled_timestamp_seconds", "When a sample was last taken (sampling.py).", ["sample"]
)
_CERTIFICATE_ENDS_AT = Gauge(
    "aishop_tls_certificate_expiry_timestamp_seconds",
    "When the certificate in the files ends: the process's own, and the authority's. 0: unreadable.",
    ["certificate"],
)


@contextmanager
def serving_metrics(listen: str, certificates: Mapping[str, Path]) -> Iterator[None]:
    """Answers scrapes at `host:port` from a thread; nothing when `listen` is empty. A busy port is an
    OSError. Tells when each of the certificates ends."""
    if not listen:
        yield
        return
    for name, path in certificates.items():
        _CERTIFICATE_ENDS_AT.labels(name).set_function(partial(_end_of, path))
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), host.strip("[]"))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def watch_pool(name: str, *, size: int, in_use: Callable[[], int]) -> None:
    POOL_SIZE.labels(name).set(size)
    POOL_IN_USE.labels(name).set_function(in_use)
    # Counters of what should not happen stand at 0 from the beginning: one that appears with its first
    # count has not risen, as far as Prometheus can tell.
    POOL_TIMEOUTS.labels(name)


@contextmanager
def timing(histogram: Histogram) -> Iterator[None]:
    """Observes how long the block takes, unless it fails."""
    began = time.perf_counter()
    yield
    histogram.observe(time.perf_counter() - began)


def _end_of(path: Path) -> float:
    """Of the files as they are now: what the next handshake uses (transport.py)."""
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return 0.0
    return min(each.not_valid_after_utc.timestamp() for each in certificates)
