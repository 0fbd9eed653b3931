"""What the gateway tells Prometheus beside what every process does."""

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.metrics import REQUEST_SECONDS

ANSWER_SECONDS = Histogram(
    "aishop_http_request_duration_seconds",
    "Requests until their answer begins, so that files and streams count as what they are asked for."
    " `route` is the pattern that matched, `none` when none did or nothing was looked up.",
    ["method", "route", "status"],
    buckets=REQUEST_SECONDS,
)
RUNNING = Gauge("aishop_http_requests_running", "Requests that have a place now.", ["lane"])
REFUSED = Counter(
    "aishop_http_requests_refused_total", "Requests that found no place, and were answered 503.", ["lane"]
)
TIMEOUTS = Counter(
    "aishop_http_request_timeouts_total",
    "Requests whose answer did not begin within the deadline of their lane.",
    ["lane"],
)
