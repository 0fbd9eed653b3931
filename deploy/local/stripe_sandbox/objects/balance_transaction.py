"""docs.stripe.com/api/balance_transactions/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_SEVEN_DAYS = 7 * 24 * 3600


def build(
    source: dict[str, Any],
    *,
    kind: str,
    amount: int,
    now: int,
    currency: str | None = None,
    exchange_rate: float | None = None,
    fee: int = 0,
    category: str | None = None,
    description: str | None = None,
) -> dict[str, Any]:
    """Money of the account that `source` (a charge, a refund, a dispute) moved; `amount` is what it was in
    the currency in which the account is settled, and below zero when it left."""
    settled = currency or source["currency"]
    detail = {
        "amount": fee,
        "application": None,
        "currency": settled,
        "description": "Dispute fee",
        "type": "stripe_fee",
    }
    return {
        "id": new_id("txn_3"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": now + _SEVEN_DAYS,
        "balance_type": "payments",
        "created": now,
        "currency": settled,
        "description": description,
        "exchange_rate": exchange_rate,
        "fee": fee,
        "fee_details": [detail] if fee else [],
        "net": amount - fee,
        "reporting_category": category or kind,
        "source": source["id"],
        "status": "pending",
        "type": kind,
    }
