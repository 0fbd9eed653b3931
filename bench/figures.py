"""What both flows print and write."""

import math
from collections.abc import Sequence

# The processes that a purchase is made of; the stand-ins of the outside world are not measured.
MEASURED = ("gateway", "orders", "wallet", "payments", "postgres", "nats", "valkey")


def percentile(values: Sequence[float], percent: float) -> float:
    """By rank, never between two values; not a number when there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else math.nan
