"""docs.stripe.com/api/disputes/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id
from deploy.local.stripe_sandbox.objects import balance_transaction

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


def build(
    charge: dict[str, Any], *, amount: int, currency: str, reason: str, status: str, now: int
) -> dict[str, Any]:
    """The cardholder's bank questions a charge; a `warning_*` is an inquiry that moves no money."""
    return {
        "id": new_id("du_1"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": now,
        "currency": currency,
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


def withdrawn(
    dispute: dict[str, Any], *, settled: int, of_charge: dict[str, Any], now: int
) -> dict[str, Any]:
    """The disputed amount and the fee are taken from the account; `settled` is that amount in the currency
    of the balance, as the charge's balance transaction has it."""
    what = "Chargeback withdrawal"
    return _with_moved(dispute, what, amount=-settled, fee=_FEE, of_charge=of_charge, now=now)


def reinstated(
    dispute: dict[str, Any], *, settled: int, of_charge: dict[str, Any], now: int
) -> dict[str, Any]:
    """So much comes back; the fee does not."""
    what = "Chargeback reversal"
    return _with_moved(dispute, what, amount=settled, fee=0, of_charge=of_charge, now=now)


def taken(dispute: dict[str, Any]) -> int:
    """What the dispute holds of the balance by now."""
    back: int = sum(moved["amount"] for moved in dispute["balance_transactions"])
    return -back


def _with_moved(
    dispute: dict[str, Any], what: str, *, amount: int, fee: int, of_charge: dict[str, Any], now: int
) -> dict[str, Any]:
    moved = balance_transaction.build(
        dispute,
        kind="adjustment",
        amount=amount,
        currency=of_charge["currency"],
        exchange_rate=_rate(dispute, amount, of_charge["currency"]),
        fee=fee,
        category="dispute" if amount < 0 else "dispute_reversal",
        description=f"{what} for {dispute['charge']}",
        now=now,
    )
    return dispute | {"balance_transactions": [*dispute["balance_transactions"], moved]}


def _rate(dispute: dict[str, Any], amount: int, currency: str) -> float | None:
    """Banks dispute in a currency of their own."""
    return None if dispute["currency"] == currency else round(abs(amount) / dispute["amount"], 6)


def moved(dispute: dict[str, Any], status: str) -> dict[str, Any]:
    return dispute | {"is_charge_refundable": status.startswith("warning"), "status": status}
