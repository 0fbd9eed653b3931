"""docs.stripe.com/api/invoices/object and docs.stripe.com/api/invoice-payment/object"""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id
from deploy.local.stripe_sandbox.objects.subscription import item_of

_EMPTY = (
    "account_name",
    "account_tax_ids",
    "amount_paid_off_stripe",
    "application",
    "automatically_finalizes_at",
    "confirmation_secret",
    "custom_fields",
    "customer_account",
    "customer_address",
    "customer_name",
    "customer_phone",
    "customer_shipping",
    "default_payment_method",
    "default_source",
    "description",
    "due_date",
    "footer",
    "from_invoice",
    "invoice_pdf",
    "last_finalization_error",
    "latest_revision",
    "next_payment_attempt",
    "on_behalf_of",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "status_details",
    "threshold_reason",
    "webhooks_delivered_at",
)


def build(
    subscription: dict[str, Any],
    *,
    customer: dict[str, Any],
    product: str,
    reason: str,
    number: int,
    now: int,
) -> dict[str, Any]:
    """A finalized invoice of the subscription's current period, open until it is paid. `product` is the name
    of what is subscribed to."""
    invoice_id, items = new_id("in_1"), subscription["items"]["data"]
    lines = [_line(invoice_id, subscription, item, product) for item in items]
    total = sum(line["amount"] for line in lines)
    return {
        "id": invoice_id,
        "object": "invoice",
        **dict.fromkeys(_EMPTY),
        "account_country": "US",
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": total,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "disabled_reason": None,
            "enabled": False,
            "liability": None,
            "provider": None,
            "status": None,
        },
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": now,
        "currency": subscription["currency"],
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "effective_at": now,
        "ending_balance": 0,
        "hosted_invoice_url": None,
        "issuer": {"type": "self"},
        "lines": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/invoices/{invoice_id}/lines",
        },
        "livemode": False,
        "metadata": {},
        "number": f"{customer['invoice_prefix']}-{number:04}",
        "parent": {
            "quote_details": None,
            "subscription_details": {
                "metadata": subscription["metadata"],
                "subscription": subscription["id"],
            },
            "type": "subscription_details",
        },
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "period_end": now,
        "period_start": item_of(subscription)["current_period_start"],
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "open",
        "status_transitions": {
            "finalized_at": now,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "test_clock": subscription["test_clock"],
        "total": total,
        "total_discount_amounts": [],
        "total_excluding_tax": total,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    }


def paid(invoice: dict[str, Any], *, now: int) -> dict[str, Any]:
    return invoice | {
        "amount_paid": invoice["amount_due"],
        "amount_remaining": 0,
        "attempt_count": invoice["attempt_count"] + 1,
        "attempted": True,
        "next_payment_attempt": None,
        "status": "paid",
        "status_transitions": invoice["status_transitions"] | {"paid_at": now},
    }


def attempted(invoice: dict[str, Any], *, next_attempt: int | None) -> dict[str, Any]:
    """An attempt that failed."""
    return invoice | {
        "attempt_count": invoice["attempt_count"] + 1,
        "attempted": True,
        "next_payment_attempt": next_attempt,
    }


def payment(invoice: dict[str, Any], *, by: dict[str, str], amount: int, now: int) -> dict[str, Any]:
    """What stands for the invoice, or for a part of it: a payment intent, a charge, a payment record."""
    return {
        "id": new_id("inpay_1"),
        "object": "invoice_payment",
        "amount_paid": None,
        "amount_requested": amount,
        "created": now,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": by,
        "status": "open",
        "status_transitions": {"canceled_at": None, "paid_at": None},
    }


def payment_paid(invoice_payment: dict[str, Any], *, now: int) -> dict[str, Any]:
    return invoice_payment | {
        "amount_paid": invoice_payment["amount_requested"],
        "status": "paid",
        "status_transitions": {"canceled_at": None, "paid_at": now},
    }


def _line(
    invoice_id: str, subscription: dict[str, Any], item: dict[str, Any], product: str
) -> dict[str, Any]:
    total = item["price"]["unit_amount"] * item["quantity"]
    return {
        "id": new_id("il_1"),
        "object": "line_item",
        "amount": total,
        "currency": subscription["currency"],
        "description": f"{item['quantity']} × {product}",
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "metadata": subscription["metadata"],
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": subscription["id"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"end": item["current_period_end"], "start": item["current_period_start"]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": item["price"]["id"], "product": item["price"]["product"]},
            "type": "price_details",
            "unit_amount_decimal": item["price"]["unit_amount_decimal"],
        },
        "quantity": item["quantity"],
        "quantity_decimal": str(item["quantity"]),
        "subscription": subscription["id"],
        "subtotal": total,
        "taxes": [],
    }
