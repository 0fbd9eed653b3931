"""What payments counts for Prometheus, beside what every process does."""

from collections.abc import Mapping

from prometheus_client import Counter

_DRIFT = Counter(
    "aishop_payments_drift_total",
    "What reconciliation found to differ from Stripe, and mended.",
    ["kind"],
)


def count_drift(drift: Mapping[str, int]) -> None:
    for kind, count in drift.items():
        _DRIFT.labels(kind=kind).inc(count)
