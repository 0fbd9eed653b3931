"""I3 and I5 where two databases must agree: holds against orders, orders against payments."""

from collections.abc import Iterator

from deploy.local.audit.snapshot import Check, Finding, Row, Snapshots

_ENDED = ("failed", "cancelled")


class PointsOrders:
    """I5: a completed points order has its capture, or a run that has yet to capture; no other order has."""

    proves = ("I5",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        holds = {row["order_id"]: row for row in databases.rows("wallet", _HOLDS)}
        orders = {row["id"]: row for row in databases.rows("orders", _POINTS_ORDERS)}
        for order_id, order in orders.items():
            hold = holds.get(order_id)
            if order["status"] in ("completed", "refunded"):
                if not _is_paid_by(order, hold):
                    yield _finding("a completed order has no capture of its total", order, hold)
            elif hold and hold["status"] == "captured":
                yield _finding("an order that is not completed has spent points", order, hold)
        for order_id in holds.keys() - orders.keys():
            if holds[order_id]["status"] == "captured":
                yield Finding(
                    "I5", "points were spent on no order", f"order {order_id}", str(holds[order_id])
                )


class HoldsResolve:
    """I3: no hold stays open behind an order that has ended, unless its saga is still giving it back."""

    proves = ("I3",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        orders = {row["id"]: row for row in databases.rows("orders", _POINTS_ORDERS)}
        for hold in databases.rows("wallet", _HOLDS):
            order = orders.get(hold["order_id"])
            if hold["status"] == "held" and order and order["status"] in _ENDED and not order["at_work"]:
                found = f"order {order['status']}, {hold['points']} points held"
                yield Finding("I3", "a hold outlives its order", f"order {hold['order_id']}", found)


class HoldsAreForOrders:
    """I3: no hold stays open for an order that does not exist: orders, asked, would have released it."""

    proves = ("I3",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        known = {row["id"] for row in databases.rows("orders", "SELECT id FROM orders")}
        for hold in databases.rows("wallet", _OVERDUE_HOLDS):
            if hold["order_id"] not in known:
                found = f"{hold['points']} points held"
                yield Finding("I3", "a hold is for no order", f"order {hold['order_id']}", found)


class CardOrders:
    """I5: a completed card order has its payment, of its total less its discount and of its currency, and
    gave back no more than went back of it. A free one has a checkout that promotion codes paid for."""

    proves = ("I5",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        payments = {row["payment_intent_id"]: row for row in databases.rows("payments", _PAYMENTS)}
        free = {row["order_id"]: row for row in databases.rows("payments", _FREE)}
        for order in databases.rows("orders", _CARD_ORDERS):
            is_free = order["paid_cents"] == 0
            paid = free.get(order["id"]) if is_free else payments.get(order["stripe_payment_intent_id"])
            if paid is None:
                yield _finding("a completed card order has no payment", order, None)
            elif (paid["order_id"], paid["amount_cents"], paid["currency"]) != (
                order["id"],
                order["paid_cents"],
                order["currency"],
            ):
                yield _finding("an order's payment is of another amount or order", order, paid)
            elif order["refunded_cents"] > paid["back_cents"]:
                yield _finding("an order gave back more than went back of its payment", order, paid)


class PaidOrders:
    """I4, the other way round: each fulfilled payment of an order has its order, which gives what was paid
    for, or the money back."""

    proves = ("I4",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        # Read first: the order of what is seen here was there before.
        payments = databases.rows("payments", _PAID_ORDERS)
        orders = {row["id"]: row for row in databases.rows("orders", _ALL_CARD_ORDERS)}
        for payment in payments:
            what = _order_is_missing(payment, orders.get(payment["order_id"]))
            if what:
                where = f"payment {payment['payment_intent_id']} of order {payment['order_id']}"
                yield Finding("I4", what, where, str(orders.get(payment["order_id"], "nothing")))


def _order_is_missing(payment: Row, order: Row | None) -> str | None:
    if order is None:
        return "an order was paid that is not there"
    if order["user_id"] != payment["user_id"]:
        return "an order was paid by another customer"
    gives_nothing = order["status"] in ("pending", *_ENDED) and not payment["goes_back"]
    return "an order was paid and gives nothing" if gives_nothing and payment["is_late"] else None


def _is_paid_by(order: Row, hold: Row | None) -> bool:
    if hold is None or hold["points"] != order["total_points"] or hold["user_id"] != order["user_id"]:
        return False
    return hold["status"] == "captured" or (hold["status"] == "held" and bool(order["at_work"]))


def _finding(what: str, order: Row, other: Row | None) -> Finding:
    found = ", ".join(f"{name} {value}" for name, value in (other or {"nothing": ""}).items())
    return Finding("I5", what, f"order {order['id']} ({order['status']})", found)


_HOLDS = "SELECT order_id, user_id, points, status FROM holds"
_OVERDUE_HOLDS = """
    SELECT order_id, points FROM holds
    WHERE status = 'held' AND due_at < now() - interval '5 minutes'"""
_POINTS_ORDERS = """
    SELECT o.id, o.user_id, o.status, o.total_points,
        EXISTS (SELECT FROM saga_runs r WHERE r.order_id = o.id AND r.status IN ('running', 'undoing'))
            AS at_work
    FROM orders o WHERE o.payment_method = 'points'"""
_CARD_ORDERS = """
    SELECT id, status, coalesce(paid_cents, total_cents) AS paid_cents, currency,
        stripe_payment_intent_id, refunded_cents FROM orders
    WHERE payment_method = 'stripe' AND status IN ('completed', 'refunded')"""
_PAYMENTS = """
    SELECT p.payment_intent_id, p.amount_cents, p.currency, c.order_id,
        greatest(p.refunded_cents, p.requested_cents) + p.disputed_cents AS back_cents
    FROM payments p JOIN checkouts c ON c.id = p.checkout_id"""
_FREE = """
    SELECT order_id, 0 AS amount_cents, currency, 0 AS back_cents FROM checkouts
    WHERE status = 'paid' AND order_id IS NOT NULL AND discount_cents = amount_cents"""

# Late: orders has heard of it by any measure.
_PAID_ORDERS = """
    SELECT payment_intent_id, order_id, user_id,
        refunded_cents + requested_cents + disputed_cents > 0 AS goes_back,
        created_at < now() - interval '10 minutes' AS is_late
    FROM payments WHERE standing = 'fulfilled' AND order_id IS NOT NULL"""
_ALL_CARD_ORDERS = "SELECT id, user_id, status FROM orders WHERE payment_method = 'stripe'"

CHECKS: tuple[Check, ...] = (
    PointsOrders(),
    HoldsResolve(),
    HoldsAreForOrders(),
    CardOrders(),
    PaidOrders(),
)
