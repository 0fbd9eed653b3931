"""Charges (https://docs.stripe.com/api/charges/object)."""

from deploy.local.stripe_sandbox.objects import Fields, new_id, nulls

_NULLS = nulls(
    "application application_fee application_fee_amount authorization_code customer description"
    " failure_balance_transaction failure_code failure_message level3 on_behalf_of presentment_details"
    " radar_options receipt_email receipt_number refunds review shipping source source_transfer"
    " statement_descriptor statement_descriptor_suffix transfer transfer_data transfer_group"
)


def build(intent: Fields, *, email: str | None, now: int) -> Fields:
    """A card that was charged at once."""
    id = new_id("ch")
    address = nulls("city country line1 line2 postal_code state")
    card = {
        "brand": "visa",
        "country": "US",
        "exp_month": 12,
        "exp_year": 2034,
        "funding": "credit",
        "last4": "4242",
    }
    return _NULLS | {
        "id": id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"],
        "amount_refunded": 0,
        "balance_transaction": new_id("txn"),
        "billing_details": {"address": address, "email": email, "name": None, "phone": None, "tax_id": None},
        "calculated_statement_descriptor": "AI SHOP",
        "captured": True,
        "created": now,
        "currency": intent["currency"],
        "disputed": False,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "outcome": {"network_status": "approved_by_network", "risk_level": "normal", "type": "authorized"},
        "paid": True,
        "payment_intent": intent["id"],
        "payment_method": new_id("pm"),
        "payment_method_details": {"type": "card", "card": card},
        "receipt_url": None,
        "refunded": False,
        "status": "succeeded",
    }
