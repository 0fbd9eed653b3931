"""docs.stripe.com/api/disputes/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_SEVEN_DAYS = 7 * 24 * 3600
# What Stripe takes for a dispute, in minor units.
_FEE = 1_500
# Stripe's Dispute.Evidence; all of them texts or files that nobody has sent yet.
_EVIDENCE = (
    "access_activity_log",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
)


def build(charge: dict[str, Any], *, amount: int, reason: str, status: str, now: int) -> dict[str, Any]:
    """The cardholder's bank questions a charge; a `warning_*` is an inquiry that moves no money."""
    return {
        "id": new_id("du_1"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": dict.fromkeys(_EVIDENCE) | {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": now + _SEVEN_DAYS,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "intended_submission_method": None,
        "is_charge_refundable": status.startswith("warning"),
        "livemode": False,
        "metadata": {},
        "network_reason_code": "10.4",
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": "visa",
                "case_type": "chargeback",
                "network": "visa",
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": status,
    }


def withdrawn(dispute: dict[str, Any], *, now: int) -> dict[str, Any]:
    """The disputed amount and the fee are taken from the account."""
    taken = _transaction(dispute, "Chargeback withdrawal", amount=-dispute["amount"], fee=_FEE, now=now)
    return dispute | {"balance_transactions": [*dispute["balance_transactions"], taken]}


def reinstated(dispute: dict[str, Any], *, now: int) -> dict[str, Any]:
    """The amount comes back; the fee does not."""
    given = _transaction(dispute, "Chargeback reversal", amount=dispute["amount"], fee=0, now=now)
    return dispute | {"balance_transactions": [*dispute["balance_transactions"], given]}


def _transaction(dispute: dict[str, Any], what: str, *, amount: int, fee: int, now: int) -> dict[str, Any]:
    detail = {
        "amount": fee,
        "application": None,
        "currency": dispute["currency"],
        "description": "Dispute fee",
        "type": "stripe_fee",
    }
    return {
        "id": new_id("txn_1"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": now + _SEVEN_DAYS,
        "balance_type": "payments",
        "created": now,
        "currency": dispute["currency"],
        "description": f"{what} for {dispute['charge']}",
        "exchange_rate": None,
        "fee": fee,
        "fee_details": [detail] if fee else [],
        "net": amount - fee,
        "reporting_category": "dispute" if amount < 0 else "dispute_reversal",
        "source": dispute["id"],
        "status": "pending",
        "type": "adjustment",
    }


def moved(dispute: dict[str, Any], status: str) -> dict[str, Any]:
    return dispute | {"is_charge_refundable": status.startswith("warning"), "status": status}
