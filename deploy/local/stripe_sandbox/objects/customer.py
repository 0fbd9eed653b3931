"""docs.stripe.com/api/customers/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_EMPTY = ("address", "currency", "default_source", "discount", "name", "phone", "shipping", "test_clock")


def deleted(customer: dict[str, Any]) -> dict[str, Any]:
    """All that is left of a customer (docs.stripe.com/api/customers/delete)."""
    return {"id": customer["id"], "object": "customer", "deleted": True}


def build(
    *,
    email: str | None,
    name: str | None,
    description: str | None,
    metadata: dict[str, str],
    test_clock: str | None,
    now: int,
) -> dict[str, Any]:
    return {
        "id": new_id("cus_", 14),
        "object": "customer",
        **dict.fromkeys(_EMPTY),
        "balance": 0,
        "business_name": None,
        "created": now,
        "customer_account": None,
        "delinquent": False,
        "description": description,
        "email": email,
        "individual_name": None,
        "invoice_prefix": new_id("", 8).upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": metadata,
        "name": name,
        "next_invoice_sequence": 1,
        "preferred_locales": [],
        "tax_exempt": "none",
        "test_clock": test_clock,
    }
