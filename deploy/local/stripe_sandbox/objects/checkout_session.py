"""docs.stripe.com/api/checkout/sessions/object"""

from dataclasses import dataclass
from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_EMPTY = (
    "after_expiration",
    "allowed_payment_method_types",
    "billing_address_collection",
    "branding_settings",
    "client_secret",
    "collected_information",
    "consent",
    "consent_collection",
    "currency_conversion",
    "customer",
    "customer_account",
    "excluded_payment_method_types",
    "integration_identifier",
    "invoice",
    "locale",
    "managed_payments",
    "name_collection",
    "optional_items",
    "origin_context",
    "payment_intent",
    "payment_link",
    "payment_method_configuration_details",
    "permissions",
    "presentment_details",
    "recovered_from",
    "redirect_on_completion",
    "return_url",
    "saved_payment_method_options",
    "setup_intent",
    "shipping_address_collection",
    "shipping_cost",
    "submit_type",
    "subscription",
    "tax_id_collection",
    "wallet_options",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the shop asked for; times in Unix seconds."""

    amount_total: int
    currency: str
    success_url: str
    cancel_url: str | None
    client_reference_id: str | None
    customer_email: str | None
    metadata: dict[str, str]
    expires_at: int
    mode: str = "payment"
    customer: str | None = None
    allow_promotion_codes: bool | None = None


def build(wanted: Wanted, *, public_url: str, now: int) -> dict[str, Any]:
    """An open session. Its payment intent, or its subscription, comes when the customer pays."""
    session_id = new_id("cs_test_a1", 58)
    is_subscription = wanted.mode == "subscription"
    return {
        "id": session_id,
        "object": "checkout.session",
        **dict.fromkeys(_EMPTY),
        "adaptive_pricing": {"enabled": False},
        "allow_promotion_codes": wanted.allow_promotion_codes,
        "amount_subtotal": wanted.amount_total,
        "amount_total": wanted.amount_total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "cancel_url": wanted.cancel_url,
        "client_reference_id": wanted.client_reference_id,
        "created": now,
        "currency": wanted.currency,
        "custom_fields": [],
        "custom_text": dict.fromkeys(
            ("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")
        ),
        "customer": wanted.customer,
        "customer_creation": None if is_subscription else "if_required",
        "customer_details": _customer(wanted.customer_email) if wanted.customer_email else None,
        "customer_email": wanted.customer_email,
        "discounts": [],
        "expires_at": wanted.expires_at,
        "invoice_creation": None if is_subscription else _no_invoice(),
        "livemode": False,
        "metadata": wanted.metadata,
        "mode": wanted.mode,
        "payment_method_collection": "always" if is_subscription else "if_required",
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "status": "open",
        "success_url": wanted.success_url,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{public_url}/c/pay/{session_id}",
    }


def discounted(session: dict[str, Any], *, percent_off: int) -> dict[str, Any]:
    """With one promotion code, in the place of any other."""
    discount = session["amount_subtotal"] * percent_off // 100
    return session | {
        "amount_total": session["amount_subtotal"] - discount,
        "discounts": [{"coupon": None, "promotion_code": new_id("promo_", 24)}],
        "total_details": session["total_details"] | {"amount_discount": discount},
    }


def completed(session: dict[str, Any], *, intent_id: str | None, email: str) -> dict[str, Any]:
    return session | {
        "customer_details": _customer(email),
        "payment_intent": intent_id,
        "payment_status": "paid" if intent_id else "no_payment_required",
        "status": "complete",
        "url": None,
    }


def subscribed(session: dict[str, Any], subscription: dict[str, Any], *, email: str) -> dict[str, Any]:
    """Complete: its money came by the subscription's first invoice."""
    return session | {
        "customer": subscription["customer"],
        "customer_details": _customer(email),
        "invoice": subscription["latest_invoice"],
        "payment_status": "paid",
        "status": "complete",
        "subscription": subscription["id"],
        "url": None,
    }


def expired(session: dict[str, Any]) -> dict[str, Any]:
    return session | {"status": "expired", "url": None}


def _customer(email: str) -> dict[str, Any]:
    return {
        "address": None,
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": None,
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": None,
    }


def _no_invoice() -> dict[str, Any]:
    data = ("account_tax_ids", "custom_fields", "description", "footer", "issuer", "rendering_options")
    return {"enabled": False, "invoice_data": dict.fromkeys(data) | {"metadata": {}}}
