"""docs.stripe.com/api/credit_notes/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_EMPTY = (
    "customer_account",
    "customer_balance_transaction",
    "effective_at",
    "memo",
    "out_of_band_amount",
    "reason",
    "shipping_cost",
    "voided_at",
)


def build(invoice: dict[str, Any], *, amount: int, refund: dict[str, Any] | None, now: int) -> dict[str, Any]:
    """For a part of an invoice; `refund` is the money that goes back with it."""
    is_paid = invoice["status"] == "paid"
    note_id = new_id("cn_1")
    back = refund and {
        "amount_refunded": amount,
        "payment_record_refund": None,
        "refund": refund["id"],
        "type": "refund",
    }
    return {
        "id": note_id,
        "object": "credit_note",
        **dict.fromkeys(_EMPTY),
        "amount": amount,
        "amount_shipping": 0,
        "created": now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "discount_amount": 0,
        "discount_amounts": [],
        "invoice": invoice["id"],
        "lines": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/credit_notes/{note_id}/lines",
        },
        "livemode": False,
        "metadata": {},
        "number": f"{invoice['number']}-CN-01",
        "pdf": f"https://pay.stripe.test/credit_notes/{note_id}/pdf",
        "post_payment_amount": amount if is_paid else 0,
        "pre_payment_amount": 0 if is_paid else amount,
        "pretax_credit_amounts": [],
        "refunds": [back] if back else [],
        "status": "issued",
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "post_payment" if is_paid else "pre_payment",
    }
