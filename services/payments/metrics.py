"""What payments tells Prometheus beside what every process does."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.metrics import LAG_SECONDS, REQUEST_SECONDS
from services.chassis.sampling import MESSAGING, Reading, Row, Sample, Tally
from services.payments.errors import StripeBusy, StripeKeySpent, StripeRefused, StripeUnknown

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
_EVENT_FAILURES = Counter(
    "aishop_payments_stripe_event_failures_total",
    "Attempts to handle one of Stripe's events that failed, and are repeated.",
    ["type"],
)
_FAILED = Gauge(
    "aishop_payments_stripe_events_failed",
    "Events whose fast tries are spent, and that no operator set aside.",
    ["type"],
)
_QUARANTINED = Counter(
    "aishop_payments_quarantined_total", "Payments that fit nothing, by what is wrong with them.", ["reason"]
)
_WEBHOOKS = Counter(
    "aishop_payments_webhooks_total",
    "Deliveries by what was answered: received, known, refused (not signed by Stripe for us), malformed,"
    " incomplete (the body did not come), limited (429), not_kept, overloaded (both 503).",
    ["outcome"],
)
_DELIVERY_SECONDS = Histogram(
    "aishop_payments_webhook_delivery_seconds",
    "From Stripe's time of an event to its first arrival here; Stripe's clock counts whole seconds.",
    buckets=LAG_SECONDS,
)
_WAIT_SECONDS = Histogram(
    "aishop_payments_webhook_processing_lag_seconds",
    "From an event's arrival to the commit of its effects.",
    buckets=LAG_SECONDS,
)
HANDLING_SECONDS = Histogram(
    "aishop_payments_webhook_processing_seconds",
    "What handling an event took, questions to Stripe included.",
    buckets=REQUEST_SECONDS,
)
_STRIPE_SECONDS = Histogram(
    "aishop_payments_stripe_call_duration_seconds",
    "Calls to Stripe: ok, refused (a definite no), busy (409, 429), key_spent, timeout, failed.",
    ["call", "outcome"],
    buckets=REQUEST_SECONDS,
)
_CHECKOUTS = Counter("aishop_payments_checkouts_total", "Checkouts that were begun.", ["purpose"])
_PAID_CENTS = Histogram(
    "aishop_payments_paid_cents",
    "Payments that gave what was bought, in minor units of the shop's currency.",
    ["purpose"],
    buckets=(100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000),
)
_SOLD_POINTS = Counter("aishop_payments_points_sold_total", "Points that were paid for.")

_WEBHOOK_OUTCOMES = (
    "received",
    "known",
    "refused",
    "malformed",
    "limited",
    "incomplete",
    "not_kept",
    "overloaded",
)
_PURPOSES = ("points", "order", "subscription")
# It stands at 0 until the first one, so that the first one is a rise.
_QUARANTINED.labels("second_subscription")
for _outcome in _WEBHOOK_OUTCOMES:
    _WEBHOOKS.labels(_outcome)
for _purpose in _PURPOSES:
    _CHECKOUTS.labels(_purpose)
    _PAID_CENTS.labels(_purpose)


def count_webhook(outcome: str) -> None:
    _WEBHOOKS.labels(outcome).inc()


def observe_delivery(created: int) -> None:
    """Of an event that is new; `created` is Stripe's, in Unix seconds."""
    _DELIVERY_SECONDS.observe(max(0.0, time.time() - created))


def count_event(event_type: str, outcome: str) -> None:
    _EVENTS.labels(type=event_type, outcome=outcome).inc()


def expect_events(types: Iterable[str]) -> None:
    """Each type stands at 0 until an event of it fails: a series that is missing says nothing."""
    for event_type in types:
        _FAILED.labels(type=event_type)


def observe_lag(received_at: datetime) -> None:
    """Of an event that has just been settled."""
    _WAIT_SECONDS.observe(max(0.0, time.time() - received_at.timestamp()))


def count_event_failure(event_type: str) -> None:
    _EVENT_FAILURES.labels(event_type).inc()


def count_quarantined(reason: str) -> None:
    _QUARANTINED.labels(reason=reason).inc()


def expect_drift(kinds: Iterable[str]) -> None:
    """They stand at 0 until something drifts, so that the first drift is a rise."""
    for kind in kinds:
        _DRIFT.labels(kind)


def count_drift(drift: Mapping[str, int]) -> None:
    for kind, count in drift.items():
        _DRIFT.labels(kind=kind).inc(count)


@contextmanager
def calling_stripe(call: str) -> Iterator[None]:
    """Observes one call by how it ends."""
    began = time.perf_counter()
    outcome = "failed"
    try:
        yield
        outcome = "ok"
    except (StripeRefused, StripeUnknown) as error:
        outcome = _outcome_of(error)
        raise
    finally:
        _STRIPE_SECONDS.labels(call, outcome).observe(time.perf_counter() - began)


def _outcome_of(error: StripeRefused | StripeUnknown) -> str:
    match error:
        case StripeRefused():
            return "refused"
        case StripeBusy():
            return "busy"
        case StripeKeySpent():
            return "key_spent"
        case _:
            return "timeout" if isinstance(error.__cause__, TimeoutError) else "failed"


def _count_checkout(row: Row) -> None:
    _CHECKOUTS.labels(row["purpose"]).inc()


def _count_payment(row: Row) -> None:
    _PAID_CENTS.labels(row["purpose"]).observe(row["amount_cents"])
    _SOLD_POINTS.inc(row["points"])


READINGS: tuple[Reading, ...] = (
    Reading(
        "stripe events",
        """
        SELECT count(*) AS waiting, extract(epoch FROM now() - min(received_at)) AS oldest,
            max(attempts) AS attempts
        FROM stripe_events WHERE status = 'received'""",
        {
            "waiting": Gauge(
                "aishop_payments_stripe_events_waiting",
                "Events that are yet to be settled, without those that failed.",
            ),
            "oldest": Gauge(
                "aishop_payments_stripe_event_oldest_seconds",
                "Age of the event that has been waiting the longest since it came.",
            ),
            "attempts": Gauge(
                "aishop_payments_stripe_event_attempts",
                "How often the waiting event that was tried most was tried.",
            ),
        },
    ),
    Reading(
        "failed stripe events",
        "SELECT type, count(*) AS failed FROM stripe_events WHERE status = 'failed' GROUP BY type",
        {"failed": _FAILED},
    ),
    Reading(
        "stripe events set aside",
        """
        SELECT count(*) AS unseen FROM stripe_events
        WHERE status = 'set_aside' AND acknowledged_at IS NULL""",
        {
            "unseen": Gauge(
                "aishop_payments_stripe_events_set_aside_unseen",
                "Events that a rule set aside and no operator acknowledged.",
            )
        },
    ),
    Reading(
        "checkouts",
        """
        SELECT count(*) AS creating, extract(epoch FROM now() - min(created_at)) AS oldest
        FROM checkouts WHERE status = 'creating'""",
        {
            "creating": Gauge(
                "aishop_payments_checkouts_creating", "Checkouts that Stripe has not confirmed."
            ),
            "oldest": Gauge(
                "aishop_payments_checkout_creating_oldest_seconds",
                "Age of the oldest checkout that Stripe has not confirmed.",
            ),
        },
    ),
    Reading(
        "refunds",
        """
        SELECT count(*) AS creating, extract(epoch FROM now() - min(created_at)) AS oldest
        FROM refunds WHERE status = 'creating'""",
        {
            "creating": Gauge("aishop_payments_refunds_creating", "Refunds that Stripe has not confirmed."),
            "oldest": Gauge(
                "aishop_payments_refund_creating_oldest_seconds",
                "Age of the oldest refund that Stripe has not confirmed.",
            ),
        },
    ),
    Reading(
        "quarantine",
        """
        SELECT count(*) AS parked, extract(epoch FROM now() - min(created_at)) AS oldest
        FROM quarantine WHERE status = 'parked'""",
        {
            "parked": Gauge(
                "aishop_payments_quarantine_parked", "Payments that fit nothing and wait for an operator."
            ),
            "oldest": Gauge(
                "aishop_payments_quarantine_oldest_seconds", "Age of the payment that has waited the longest."
            ),
        },
    ),
    Reading(
        "reconciliation",
        """
        SELECT extract(epoch FROM finished_at) AS finished FROM reconciliations
        WHERE status = 'done' ORDER BY started_at DESC LIMIT 1""",
        {
            "finished": Gauge(
                "aishop_payments_reconciled_timestamp_seconds",
                "When the last comparison with Stripe was done.",
            )
        },
    ),
)


def samples() -> Sequence[Sample]:
    """What is asked of the database, for one Sampler."""
    begun = Tally(
        "checkouts begun",
        """
        SELECT id, CASE WHEN order_id IS NOT NULL THEN 'order' WHEN plan_id IS NOT NULL THEN 'subscription'
            ELSE 'points' END AS purpose
        FROM checkouts WHERE id > %(after)s AND id <= %(until)s AND amount_cents > 0""",
        _count_checkout,
    )
    paid = Tally(
        "payments",
        """
        SELECT id, amount_cents, points, CASE WHEN order_id IS NOT NULL THEN 'order'
            WHEN invoice_id IS NOT NULL THEN 'subscription' ELSE 'points' END AS purpose
        FROM payments WHERE id > %(after)s AND id <= %(until)s AND standing = 'fulfilled'""",
        _count_payment,
    )
    return (*MESSAGING, *READINGS, begun, paid)
