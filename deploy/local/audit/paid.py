"""I4 from the money's end: whose payment completed an order, and for whom each page of Stripe is.

With PaidOrders of across.py the other way round than CardOrders: what a database restored from an older state
has lost is seen from here only.
"""

from collections.abc import Iterator

from deploy.local.audit.snapshot import Check, Finding, Snapshots


class OrdersOfPayments:
    """I4: a completed card order was completed by the payment that says so."""

    proves = ("I4",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        orders = {row["id"]: row for row in databases.rows("orders", _COMPLETED)}
        for payment in databases.rows("payments", _PAYMENTS):
            order = orders.get(payment["order_id"])
            if order is not None and order["payment_intent_id"] != payment["payment_intent_id"]:
                where = f"payment {payment['payment_intent_id']}"
                yield Finding("I4", "an order was completed by another payment", where, str(order))


class CheckoutsOfOrders:
    """I4: a page of Stripe that was paid, or still can be, is for an order that exists."""

    proves = ("I4",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        known = {row["id"] for row in databases.rows("orders", "SELECT id FROM orders")}
        for checkout in databases.rows("payments", _CHECKOUTS):
            if checkout["order_id"] not in known:
                found = f"order {checkout['order_id']}, {checkout['status']}"
                yield Finding("I4", "a checkout is for no order", f"checkout {checkout['id']}", found)


_COMPLETED = """
    SELECT id, stripe_payment_intent_id AS payment_intent_id FROM orders
    WHERE payment_method = 'stripe' AND status IN ('completed', 'refunded')"""
_PAYMENTS = """
    SELECT payment_intent_id, order_id FROM payments WHERE order_id IS NOT NULL AND standing = 'fulfilled'"""
_CHECKOUTS = """
    SELECT id, order_id, status FROM checkouts
    WHERE order_id IS NOT NULL AND status IN ('open', 'processing', 'paid')"""

CHECKS: tuple[Check, ...] = (OrdersOfPayments(), CheckoutsOfOrders())
