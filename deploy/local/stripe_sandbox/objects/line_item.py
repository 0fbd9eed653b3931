"""docs.stripe.com/api/checkout/sessions/line_items, with the price that `price_data` makes on the way."""

from dataclasses import dataclass
from typing import Any

from deploy.local.stripe_sandbox.ids import new_id


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a checkout as it was asked for."""

    name: str
    currency: str
    unit_amount: int
    quantity: int
    # {interval, interval_count} of a subscription; None for what is paid once.
    recurring: dict[str, Any] | None = None


def build(line: Line, *, now: int) -> dict[str, Any]:
    total = line.unit_amount * line.quantity
    return {
        "id": new_id("li_1"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": total,
        "amount_tax": 0,
        "amount_total": total,
        "currency": line.currency,
        "description": line.name,
        "metadata": {},
        "price": _price(line, now),
        "quantity": line.quantity,
    }


def _price(line: Line, now: int) -> dict[str, Any]:
    return {
        "id": new_id("price_1"),
        "object": "price",
        # Prices made by price_data cannot be used again.
        "active": False,
        "billing_scheme": "per_unit",
        "created": now,
        "currency": line.currency,
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": {},
        "nickname": None,
        "product": new_id("prod_", 14),
        "recurring": _recurring(line),
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring" if line.recurring else "one_time",
        "unit_amount": line.unit_amount,
        "unit_amount_decimal": str(line.unit_amount),
    }


def _recurring(line: Line) -> dict[str, Any] | None:
    if line.recurring is None:
        return None
    return {**line.recurring, "meter": None, "trial_period_days": None, "usage_type": "licensed"}
