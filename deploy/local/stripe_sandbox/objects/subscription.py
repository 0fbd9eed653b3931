"""docs.stripe.com/api/subscriptions/object, with its one item and that item's plan."""

import calendar
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

_EMPTY = (
    "application",
    "application_fee_percent",
    "billing_cycle_anchor_config",
    "billing_thresholds",
    "cancel_at",
    "canceled_at",
    "customer_account",
    "days_until_due",
    "default_payment_method",
    "default_source",
    "description",
    "ended_at",
    "latest_invoice",
    "managed_payments",
    "next_pending_invoice_item_invoice",
    "on_behalf_of",
    "pause_collection",
    "pending_invoice_item_interval",
    "pending_setup_intent",
    "pending_update",
    "presentment_details",
    "schedule",
    "status_details",
    "test_clock",
    "transfer_data",
    "trial_end",
    "trial_start",
)


def build(
    price: dict[str, Any],
    *,
    quantity: int,
    customer: dict[str, Any],
    metadata: dict[str, str],
    now: int,
) -> dict[str, Any]:
    """An active subscription whose first period begins now."""
    subscription_id = new_id("sub_1")
    return {
        "id": subscription_id,
        "object": "subscription",
        **dict.fromkeys(_EMPTY),
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": now,
        "billing_mode": {"flexible": None, "type": "classic"},
        "billing_schedules": [],
        "cancel_at_period_end": False,
        "cancellation_details": {"comment": None, "feedback": None, "feedback_option": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": now,
        "currency": price["currency"],
        "customer": customer["id"],
        "default_payment_method": new_id("pm_1"),
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {
            "account_tax_ids": None,
            "custom_fields": None,
            "description": None,
            "footer": None,
            "issuer": {"type": "self"},
        },
        "items": {
            "object": "list",
            "data": [_item(subscription_id, price, quantity, now)],
            "has_more": False,
            "url": f"/v1/subscription_items?subscription={subscription_id}",
        },
        "livemode": False,
        "metadata": metadata,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": ["card"],
            "save_default_payment_method": "off",
        },
        "start_date": now,
        "status": "active",
        "test_clock": customer["test_clock"],
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
    }


def item_of(subscription: dict[str, Any]) -> dict[str, Any]:
    item: dict[str, Any] = subscription["items"]["data"][0]
    return item


def moved_on(subscription: dict[str, Any]) -> dict[str, Any]:
    """The next period, from the end of the current one."""
    anchor = subscription["billing_cycle_anchor"]
    later = [
        item
        | {
            "current_period_start": (start := item["current_period_end"]),
            "current_period_end": period_end(item["price"]["recurring"], start, anchor=anchor),
        }
        for item in subscription["items"]["data"]
    ]
    return subscription | {"items": subscription["items"] | {"data": later}}


def with_price(
    subscription: dict[str, Any], *, unit_amount: int | None, interval: str | None
) -> dict[str, Any]:
    """Another price of its first item, from the next period on."""
    first, *others = subscription["items"]["data"]
    price = first["price"] | {"id": new_id("price_1")}
    if unit_amount is not None:
        price |= {"unit_amount": unit_amount, "unit_amount_decimal": str(unit_amount)}
    if interval:
        price |= {"recurring": price["recurring"] | {"interval": interval}}
    changed = first | {"price": price, "plan": _plan(price)}
    return subscription | {"items": subscription["items"] | {"data": [changed, *others]}}


def with_item(subscription: dict[str, Any], *, unit_amount: int, now: int) -> dict[str, Any]:
    """A second thing to bill, as often as the first."""
    first = item_of(subscription)
    price = first["price"] | {
        "id": new_id("price_1"),
        "product": new_id("prod_", 14),
        "unit_amount": unit_amount,
        "unit_amount_decimal": str(unit_amount),
    }
    periods = {name: first[name] for name in ("current_period_end", "current_period_start")}
    added = _item(subscription["id"], price, 1, now) | periods
    return subscription | {"items": subscription["items"] | {"data": [*subscription["items"]["data"], added]}}


def ended(subscription: dict[str, Any], *, reason: str, now: int) -> dict[str, Any]:
    return subscription | {
        "canceled_at": subscription["canceled_at"] or now,
        "cancellation_details": subscription["cancellation_details"] | {"reason": reason},
        "ended_at": now,
        "status": "canceled",
    }


def period_end(recurring: dict[str, Any], start: int, *, anchor: int) -> int:
    """The anchor's day of a later month or year, the last one where there is no such day: from January 31 to
    February 28, and on to March 31 (docs.stripe.com/billing/subscriptions/billing-cycle)."""
    begin, count = datetime.fromtimestamp(start, UTC), recurring["interval_count"]
    match recurring["interval"]:
        case "day" | "week" as interval:
            return int((begin + timedelta(days=count * (7 if interval == "week" else 1))).timestamp())
        case interval:
            months = begin.month - 1 + count * (12 if interval == "year" else 1)
            year, month = begin.year + months // 12, months % 12 + 1
            day = min(datetime.fromtimestamp(anchor, UTC).day, calendar.monthrange(year, month)[1])
            return int(begin.replace(year=year, month=month, day=day).timestamp())


def _item(subscription_id: str, price: dict[str, Any], quantity: int, now: int) -> dict[str, Any]:
    return {
        "id": new_id("si_", 14),
        "object": "subscription_item",
        "billed_until": None,
        "billing_thresholds": None,
        "created": now,
        "current_period_end": period_end(price["recurring"], now, anchor=now),
        "current_period_start": now,
        "current_trial": None,
        "discounts": [],
        "metadata": {},
        "plan": _plan(price),
        "price": price,
        "quantity": quantity,
        "subscription": subscription_id,
        "tax_rates": [],
    }


def _plan(price: dict[str, Any]) -> dict[str, Any]:
    """The price once more, as it was called before there were prices."""
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": "per_unit",
        "created": price["created"],
        "currency": price["currency"],
        "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"],
        "livemode": False,
        "metadata": {},
        "meter": None,
        "nickname": None,
        "product": price["product"],
        "tiers_mode": None,
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }
