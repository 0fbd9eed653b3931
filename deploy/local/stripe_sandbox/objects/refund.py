"""docs.stripe.com/api/refunds/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_EMPTY = (
    "customer",
    "customer_account",
    "description",
    "failure_balance_transaction",
    "failure_reason",
    "instructions_email",
    "next_action",
    "pending_reason",
    "presentment_details",
    "receipt_number",
    "source_transfer_reversal",
    "transfer_reversal",
)


def build(
    charge: dict[str, Any],
    *,
    amount: int,
    status: str,
    reason: str | None,
    metadata: dict[str, str],
    now: int,
) -> dict[str, Any]:
    """Money of a charge on its way back to the card."""
    return {
        "id": new_id("re_3"),
        "object": "refund",
        **dict.fromkeys(_EMPTY),
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "destination_details": {
            "card": {
                "reference_status": "pending",
                "reference_type": "acquirer_reference_number",
                "type": "refund",
            },
            "type": "card",
        },
        "metadata": metadata,
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "pending_reason": "processing" if status == "pending" else None,
        "reason": reason,
        "status": status,
    }


def moved(refund: dict[str, Any], status: str, *, failure_reason: str | None = None) -> dict[str, Any]:
    return refund | {
        "failure_reason": (failure_reason or "lost_or_stolen_card") if status == "failed" else None,
        "pending_reason": "processing" if status == "pending" else None,
        "status": status,
    }
