"""docs.stripe.com/api/charges/object"""

from datetime import UTC, datetime
from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

DECLINED = "Your card was declined."
_EMPTY = (
    "application",
    "application_fee",
    "application_fee_amount",
    "authorization_code",
    "balance_transaction",
    "failure_balance_transaction",
    "failure_code",
    "failure_message",
    "level3",
    "on_behalf_of",
    "presentment_details",
    "receipt_email",
    "receipt_number",
    "receipt_url",
    "review",
    "shipping",
    "source",
    "source_transfer",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer",
    "transfer_data",
    "transfer_group",
)


def build(intent: dict[str, Any], *, email: str | None, paid: bool, now: int) -> dict[str, Any]:
    """One attempt to pay an intent, with a test card."""
    amount = intent["amount"]
    return {
        "id": new_id("ch_3"),
        "object": "charge",
        **dict.fromkeys(_EMPTY),
        "amount": amount,
        "amount_captured": amount if paid else 0,
        "amount_refunded": 0,
        "billing_details": {
            "address": dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state")),
            "email": email,
            "name": None,
            "phone": None,
            "tax_id": None,
        },
        "calculated_statement_descriptor": "AI SHOP",
        "captured": paid,
        "created": now,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_code": None if paid else "card_declined",
        "failure_message": None if paid else DECLINED,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "outcome": _outcome(paid),
        "paid": paid,
        "payment_intent": intent["id"],
        "payment_method": new_id("pm_1"),
        "payment_method_details": {"card": _card(amount, paid, now), "type": "card"},
        "radar_options": {},
        "refunded": False,
        "status": "succeeded" if paid else "failed",
    }


def _outcome(paid: bool) -> dict[str, Any]:
    return {
        "advice_code": None if paid else "try_again_later",
        "network_advice_code": None,
        "network_decline_code": None if paid else "01",
        "network_status": "approved_by_network" if paid else "declined_by_network",
        "reason": None if paid else "generic_decline",
        "risk_level": "normal",
        "risk_score": 12,
        "rule": None,
        "seller_message": "Payment complete."
        if paid
        else "The bank did not return any further details with this decline.",
        "type": "authorized" if paid else "issuer_declined",
    }


def _card(amount: int, paid: bool, now: int) -> dict[str, Any]:
    return {
        "amount_authorized": amount if paid else None,
        "authorization_code": None,
        "brand": "visa",
        "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
        "country": "US",
        "exp_month": 12,
        "exp_year": datetime.fromtimestamp(now, UTC).year + 2,
        "extended_authorization": {"status": "disabled"},
        "fingerprint": "SandboxTestCard1",
        "funding": "credit",
        "incremental_authorization": {"status": "unavailable"},
        "installments": None,
        "last4": "4242" if paid else "0002",
        "mandate": None,
        "multicapture": {"status": "unavailable"},
        "network": "visa",
        "network_token": {"used": False},
        "network_transaction_id": None,
        "overcapture": {"maximum_amount_capturable": amount, "status": "unavailable"},
        "regulated_status": "unregulated",
        "three_d_secure": None,
        "wallet": None,
    }
