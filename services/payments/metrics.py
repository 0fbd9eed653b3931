"""What payments counts for Prometheus, beside what every process does."""

from collections.abc import Mapping

from prometheus_client import Counter

_DRIFT = Counter(
    "aishop_payments_drift_total",
    "What reconciliation found to differ from Stripe, and mended.",
    ["kind"],
)
_EVENTS = Counter(
    "aishop_payments_stripe_events_total",
    "Stripe's events that were handled; other types than the shop handles count as `other`.",
    ["type", "outcome"],
)
_QUARANTINED = Counter(
    "aishop_payments_quarantined_total", "Payments that fit nothing, by what is wrong with them.", ["reason"]
)


def count_event(event_type: str, outcome: str) -> None:
    _EVENTS.labels(type=event_type, outcome=outcome).inc()


def count_quarantined(reason: str) -> None:
    _QUARANTINED.labels(reason=reason).inc()


def count_drift(drift: Mapping[str, int]) -> None:
    for kind, count in drift.items():
        _DRIFT.labels(kind=kind).inc(count)
