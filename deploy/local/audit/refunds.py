"""I5 after the sale: what went back of an order, in orders, and what wallet and payments know of it."""

from collections.abc import Iterator

from deploy.local.audit.snapshot import Check, Finding, Snapshots


class RefundedPoints:
    """I5: each points refund that succeeded stands once in the ledger, and no other does."""

    proves = ("I5",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        posted = {row["refund_id"]: row for row in databases.rows("wallet", _POSTED)}
        asked = {row["id"]: row for row in databases.rows("orders", _POINTS_REFUNDS)}
        for refund_id, refund in asked.items():
            entry = posted.get(refund_id)
            if entry is None and refund["status"] == "succeeded":
                yield _finding("a refund of points is not in the ledger", refund_id, refund)
            elif entry and (entry["amount"], entry["order_id"]) != (refund["amount"], refund["order_id"]):
                yield _finding("a refund of points is of another amount or order", refund_id, entry)
            elif entry and refund["status"] == "failed":
                yield _finding("a refund that failed gave points back", refund_id, entry)
        for refund_id in posted.keys() - asked.keys():
            yield _finding("points went back that no order knows of", refund_id, posted[refund_id])


class RefundedMoney:
    """I5: orders never says that more, or something else, went back than payments has at Stripe."""

    proves = ("I5",)

    def __call__(self, databases: Snapshots) -> Iterator[Finding]:
        at_stripe = {row["id"]: row for row in databases.rows("payments", _MONEY_AT_STRIPE)}
        for refund in databases.rows("orders", _MONEY_REFUNDS):
            theirs = at_stripe.get(refund["id"])
            if theirs is None or theirs["amount"] != refund["amount"]:
                yield _finding("a refund of money is not the one at Stripe", refund["id"], theirs or refund)
        asked = {row["id"] for row in databases.rows("orders", "SELECT id FROM refunds")}
        for refund_id, refund in at_stripe.items():
            if refund["is_of_order"] and refund_id not in asked:
                yield _finding("money went back that no order knows of", refund_id, refund)
        standing = {row["order_id"]: row for row in databases.rows("payments", _STANDING)}
        for order in databases.rows("orders", _TOLD):
            payment = standing.get(order["id"])
            if payment is None or payment["version"] < order["payment_version"]:
                yield _finding("an order was told of a payment that is not so", order["id"], order)
            elif payment["version"] == order["payment_version"] and (
                min(payment["refunded_cents"], order["total_cents"]),
                payment["dispute"],
            ) != (order["refunded_cents"], order["dispute"]):
                yield _finding("an order and its payment tell of other refunds", order["id"], payment)


def _finding(what: str, of: object, found: object) -> Finding:
    return Finding("I5", what, str(of), str(found))


_POSTED = """
    SELECT (metadata->>'refund_id')::uuid AS refund_id, order_id, amount FROM points_transactions
    WHERE type = 'refund'"""
_POINTS_REFUNDS = """
    SELECT id, order_id, status, amount_points AS amount FROM refunds WHERE amount_points > 0"""
_MONEY_REFUNDS = """
    SELECT id, order_id, status, amount_cents AS amount FROM refunds
    WHERE amount_cents > 0 AND status IN ('pending', 'succeeded')"""
# What is in quarantine goes back by an operator's decision there, and no order asks for it.
_MONEY_AT_STRIPE = """
    SELECT r.id, r.amount_cents AS amount, r.order_id, p.standing = 'fulfilled' AND r.order_id IS NOT NULL
        AND NOT EXISTS (SELECT FROM quarantine q WHERE q.refund_id = r.id) AS is_of_order
    FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.is_ours"""
_TOLD = """
    SELECT id, payment_version, refunded_cents, total_cents, dispute FROM orders WHERE payment_version > 0"""
_STANDING = """
    SELECT order_id, version, refunded_cents, dispute FROM payments
    WHERE order_id IS NOT NULL AND standing = 'fulfilled'"""

CHECKS: tuple[Check, ...] = (
    RefundedPoints(),
    RefundedMoney(),
)
