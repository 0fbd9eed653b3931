"""What orders tells Prometheus beside what every process does."""

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.sampling import MESSAGING, Reading, Row, Sample, Tally
from services.orders.mails.mail import IN_DOUBT, PUT_OFF
from services.orders.rules import Method, Status

# A product of which fewer can be bought is low on stock.
LOW_STOCK = 5

_METHODS = tuple(str(method) for method in Method)
_DECIDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.REFUNDED)
# Why orders end as they do; a reason that this version does not know counts as `other`.
REASONS = frozenset(
    {
        *("points_reserved", "paid", "refunded", "dispute_lost", "refund_returned", "dispute_won"),
        *("insufficient_points", "out_of_stock", "checkout_expired", "payment_failed", "checkout_refused"),
        "free_session",
        *("cancelled_by_customer", "compensated_by_operator", "hold_overdue", "hold_released"),
        *("reserve_points_unavailable", "open_checkout_unavailable", "await_payment_unavailable"),
    }
)

CARTS = Counter("aishop_orders_carts_total", "Carts that got their first line.")
_PLACED = Counter(
    "aishop_orders_placed_total", "Orders that were placed, in whatever they ended.", ["payment_method"]
)
_DECISIONS = Counter(
    "aishop_orders_decided_total",
    "Orders that became completed, failed, cancelled or refunded, and why.",
    ["payment_method", "status", "reason"],
)
_POINTS = Histogram(
    "aishop_orders_completed_points",
    "Completed orders by the points that were paid.",
    buckets=(10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000),
)
_CENTS = Histogram(
    "aishop_orders_completed_cents",
    "Completed orders by the money that was paid, in minor units of the shop's currency.",
    buckets=(100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000),
)
for _method in _METHODS:
    _PLACED.labels(_method)
    for _status, _reason in (
        (Status.COMPLETED, "points_reserved" if _method == Method.POINTS else "paid"),
        (Status.FAILED, "out_of_stock"),
        (Status.CANCELLED, "cancelled_by_customer"),
        (Status.REFUNDED, "refunded"),
    ):
        _DECISIONS.labels(_method, _status, _reason)


def _count_move(row: Row) -> None:
    """One row of an order's history."""
    method, status = row["payment_method"], row["to_status"]
    if row["from_status"] is None:
        _PLACED.labels(method).inc()
    # What a bank takes back of its word was counted when it was completed.
    if status not in _DECIDED or row["from_status"] == Status.REFUNDED:
        return
    _DECISIONS.labels(method, status, row["reason"] if row["reason"] in REASONS else "other").inc()
    if status == Status.COMPLETED:
        _observe_amount(row)


def _observe_amount(row: Row) -> None:
    if row["total_points"]:
        _POINTS.observe(row["total_points"])
    else:
        _CENTS.observe(row["total_cents"])


_HISTORY = """
    SELECT h.id, h.from_status, h.to_status, h.reason, o.payment_method, o.total_points,
        coalesce(o.paid_cents, o.total_cents) AS total_cents
    FROM order_history h JOIN orders o ON o.id = h.order_id
    WHERE h.id > %(after)s AND h.id <= %(until)s"""

# Each half is answered from the partial index that holds just these runs.
_RUNS = """
    SELECT saga, status, count(*) AS runs, max(attempts) AS attempts,
        extract(epoch FROM now() - min(created_at)) AS oldest,
        extract(epoch FROM now() - min(next_attempt_at)
            FILTER (WHERE next_attempt_at < now() AND coalesce(lease_until, now()) <= now())) AS late
    FROM saga_runs WHERE status IN ('running', 'undoing') GROUP BY saga, status
    UNION ALL
    SELECT saga, status, count(*), 0, extract(epoch FROM now() - min(created_at)), 0
    FROM saga_runs WHERE status = 'stuck' GROUP BY saga, status"""

_SAGAS = {
    "runs": Gauge("aishop_orders_saga_runs", "Runs that have not ended.", ["saga", "status"]),
    "oldest": Gauge(
        "aishop_orders_saga_oldest_seconds",
        "Age of the oldest run that has not ended; one of a card order may wait for 46 minutes.",
        ["saga", "status"],
    ),
    "attempts": Gauge(
        "aishop_orders_saga_attempts",
        "How often the step that was tried most was tried in vain.",
        ["saga", "status"],
    ),
    "late": Gauge(
        "aishop_orders_saga_late_seconds",
        "How long the run has been due that is due the longest and that nobody drives.",
        ["saga", "status"],
    ),
}

READINGS: tuple[Reading, ...] = (
    Reading("sagas", _RUNS, _SAGAS),
    Reading(
        "mails",
        f"""
        SELECT count(*) FILTER (WHERE handed_at IS NULL AND refused_at IS NULL) AS unsent,
            extract(epoch FROM now() - min(created_at) FILTER (
                WHERE handed_at IS NULL AND refused_at IS NULL AND NOT coalesce({PUT_OFF}, false))) AS oldest,
            count(*) FILTER (WHERE {PUT_OFF}) AS put_off,
            count(*) FILTER (WHERE refused_at IS NOT NULL) AS refused,
            count(*) FILTER (WHERE {IN_DOUBT}) AS in_doubt
        FROM mails WHERE sent_at IS NULL""",
        {
            "unsent": Gauge("aishop_orders_mails_unsent", "Mails that are yet to be sent."),
            "oldest": Gauge(
                "aishop_orders_mail_oldest_seconds",
                "Age of the oldest mail that is yet to be sent and that the mail server has not put off.",
            ),
            "put_off": Gauge(
                "aishop_orders_mails_put_off",
                "Mails that the mail server has put off for so long that they are tried every few hours.",
            ),
            "refused": Gauge(
                "aishop_orders_mails_refused",
                "Mails that the mail server will never take: an operator decides.",
            ),
            "in_doubt": Gauge(
                "aishop_orders_mails_in_doubt",
                "Mails of which nobody knows whether the mail server took them: an operator decides.",
            ),
        },
    ),
    Reading(
        "owed",
        """
        SELECT (SELECT count(*) FROM orders WHERE owed_cents > 0) AS orders,
            (SELECT coalesce(sum(owed_cents), 0) FROM orders WHERE owed_cents > 0) AS cents,
            (SELECT count(*) FROM refunds
                WHERE status = 'failed' AND finished_at > now() - interval '1 day') AS failed""",
        {
            "orders": Gauge(
                "aishop_orders_owed",
                "Orders of which a customer is owed money: a refund that came back, say.",
            ),
            "cents": Gauge("aishop_orders_owed_cents", "What customers are owed, in minor units."),
            "failed": Gauge(
                "aishop_orders_refunds_failed", "Refunds that failed or came back within the last day."
            ),
        },
    ),
    Reading(
        "stock",
        f"""
        SELECT CASE WHEN i.stock_quantity IS NULL THEN 'unlimited'
            WHEN i.stock_quantity <= i.reserved_quantity THEN 'none'
            WHEN i.stock_quantity - i.reserved_quantity < {LOW_STOCK} THEN 'low' ELSE 'enough' END AS stock,
            count(*) AS products
        FROM products p JOIN product_inventory i ON i.product_id = p.id
        WHERE p.active GROUP BY 1""",
        {
            "products": Gauge(
                "aishop_orders_products",
                f"Products that are sold, by what is left of them: low is fewer than {LOW_STOCK}.",
                ["stock"],
            )
        },
        # It reads the whole catalogue.
        every_seconds=60.0,
    ),
)


def samples(sagas: Sequence[str]) -> Sequence[Sample]:
    """What is asked of the database, for one Sampler. Of each saga no run is stuck from the beginning, so
    that the first one is seen."""
    for gauge in _SAGAS.values():
        for saga in sagas:
            for status in ("running", "undoing", "stuck"):
                gauge.labels(saga, status)
    return (*MESSAGING, *READINGS, Tally("order history", _HISTORY, _count_move))
