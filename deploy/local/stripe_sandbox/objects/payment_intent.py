"""docs.stripe.com/api/payment_intents/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_EMPTY = (
    "allowed_payment_method_types",
    "application",
    "application_fee_amount",
    "automatic_payment_methods",
    "canceled_at",
    "cancellation_reason",
    "customer",
    "customer_account",
    "excluded_payment_method_types",
    "hooks",
    "last_payment_error",
    "latest_charge",
    "managed_payments",
    "next_action",
    "on_behalf_of",
    "payment_details",
    "payment_method",
    "payment_method_configuration_details",
    "payment_record",
    "presentment_details",
    "processing",
    "receipt_email",
    "review",
    "setup_future_usage",
    "shipping",
    "source",
    "statement_descriptor",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
)


def build(
    *, amount: int, currency: str, metadata: dict[str, str], description: str | None, now: int
) -> dict[str, Any]:
    """As it is before the first attempt to pay."""
    intent_id = new_id("pi_3")
    return {
        "id": intent_id,
        "object": "payment_intent",
        **dict.fromkeys(_EMPTY),
        "amount": amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "capture_method": "automatic_async",
        "client_secret": f"{intent_id}_secret_{new_id('', 25)}",
        "confirmation_method": "automatic",
        "created": now,
        "currency": currency,
        "description": description,
        "livemode": False,
        "metadata": metadata,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "status": "requires_payment_method",
    }


def succeeded(intent: dict[str, Any], charge: dict[str, Any]) -> dict[str, Any]:
    return intent | {
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "latest_charge": charge["id"],
        "payment_method": charge["payment_method"],
        "status": "succeeded",
    }


def declined(intent: dict[str, Any], charge: dict[str, Any]) -> dict[str, Any]:
    return intent | {
        "last_payment_error": {
            "advice_code": "try_again_later",
            "charge": charge["id"],
            "code": charge["failure_code"],
            "decline_code": "generic_decline",
            "doc_url": "https://docs.stripe.com/error-codes/card-declined",
            "message": charge["failure_message"],
            "payment_method": None,
            "type": "card_error",
        },
        "latest_charge": charge["id"],
    }


def canceled(intent: dict[str, Any], *, now: int, reason: str = "expired") -> dict[str, Any]:
    return intent | {"canceled_at": now, "cancellation_reason": reason, "status": "canceled"}
