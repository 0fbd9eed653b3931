"""Whether a listing of Stripe's may be believed: what it has shown before does not go away."""

from collections.abc import Set

from prometheus_client import Counter

from services.chassis import logs
from services.payments.stripe_objects import Incomplete

log = logs.get(__name__)

_REFUSED = Counter(
    "aishop_payments_snapshots_refused_total",
    "Listings of Stripe's that lacked what it had shown before, and were not believed.",
    ["kind"],
)
for _kind in ("refunds", "disputes", "invoice_payments"):
    _REFUSED.labels(_kind)


def refused(kind: str, why: str) -> Incomplete:
    """Counts a listing that is not to be believed."""
    _REFUSED.labels(kind).inc()
    log.error("snapshot.refused", kind=kind, why=why)
    return Incomplete(f"the listing of {kind} is cut short: {why}")


def refuse_incomplete(kind: str, *, listed: Set[str], known: Set[str | None]) -> None:
    """Raises Incomplete where a listing lacks what is known: it is cut short, or of another account, and what
    it says of the rest is not believed either."""
    lacks = sorted(each for each in known if each is not None and each not in listed)
    if lacks:
        raise refused(kind, f"it lacks {', '.join(lacks[:5])}")
