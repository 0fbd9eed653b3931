"""What wallet tells Prometheus beside what every process does."""

from collections.abc import Sequence

from prometheus_client import Gauge, Histogram

from services.chassis.sampling import MESSAGING, Reading, Row, Sample, Tally

_POINTS = Histogram(
    "aishop_wallet_transaction_points",
    "Transactions of the ledger by their points, without sign.",
    ["type", "direction"],
    buckets=(10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 100_000),
)
for _type, _directions in {
    "purchase": ("in",),
    "spend": ("out",),
    "refund": ("in",),
    "reversal": ("in", "out"),
    "adjustment": ("in", "out"),
}.items():
    for _direction in _directions:
        _POINTS.labels(_type, _direction)


def _count_transaction(row: Row) -> None:
    _POINTS.labels(row["type"], "in" if row["amount"] > 0 else "out").observe(abs(row["amount"]))


READINGS: tuple[Reading, ...] = (
    Reading(
        "holds",
        """
        SELECT count(*) AS open, extract(epoch FROM now() - min(created_at)) AS oldest,
            max(asked) AS asked
        FROM holds WHERE status = 'held'""",
        {
            "open": Gauge("aishop_wallet_holds_open", "Holds that are neither captured nor released."),
            "oldest": Gauge("aishop_wallet_hold_oldest_seconds", "Age of the oldest open hold."),
            "asked": Gauge(
                "aishop_wallet_hold_most_asked",
                "How often orders was asked about the open hold that it was asked about most.",
            ),
        },
    ),
    Reading(
        "balances",
        "SELECT sum(points) AS points, sum(points_held) AS held, sum(points_debt) AS debt FROM profiles",
        {
            "points": Gauge("aishop_wallet_points_outstanding", "Points that customers have, held ones too."),
            "held": Gauge("aishop_wallet_points_held", "Points that are held for orders."),
            "debt": Gauge("aishop_wallet_points_debt", "Points that were spent and whose money went back."),
        },
        # It reads every profile.
        every_seconds=300.0,
    ),
)


def samples() -> Sequence[Sample]:
    """What is asked of the database, for one Sampler."""
    ledger = Tally(
        "ledger",
        "SELECT id, type, amount FROM points_transactions WHERE id > %(after)s AND id <= %(until)s",
        _count_transaction,
    )
    return (*MESSAGING, *READINGS, ledger)
