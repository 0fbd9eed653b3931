"""Objects of events as older API versions rendered them (docs.stripe.com/changelog).

An event has the version that its endpoint, or the account, had when it was written, whatever version the
reader pins; `api_version` says which. Two changes matter to who reads invoices: 2025-03-31.basil moved an
invoice's subscription below `parent` and its payments into objects of their own; 2022-11-15 took the charges
out of a payment intent and the refunds out of a charge.
"""

from collections.abc import Callable
from typing import Any

from deploy.local.stripe_sandbox.store import Object, Page, Store

_BASIL, _NO_LISTS = "2025-03-31", "2022-11-15"
_NEW_IN_INVOICES = (
    "amount_overpaid",
    "amount_paid_off_stripe",
    "confirmation_secret",
    "parent",
    "total_taxes",
)
_NEW_IN_LINES = ("parent", "pricing", "quantity_decimal", "subtotal", "taxes")
# Objects that there were not.
_NEW_KINDS = ("invoice_payment",)


def is_known(subject: Object, version: str) -> bool:
    """Whether there were such objects, and so their events."""
    return version >= _BASIL or subject["object"] not in _NEW_KINDS


def rendered(store: Store, subject: Object, version: str) -> Object:
    """The object as that version shows it."""
    if version >= _BASIL:
        return subject
    older = _BEFORE_BASIL.get(subject["object"])
    subject = older(store, subject) if older else subject
    if version >= _NO_LISTS:
        return subject
    with_list = _BEFORE_LISTS_LEFT.get(subject["object"])
    return with_list(store, subject) if with_list else subject


def _invoice(store: Store, bill: Object) -> Object:
    kept = {name: value for name, value in bill.items() if name not in _NEW_IN_INVOICES}
    details = (bill["parent"] or {}).get("subscription_details") or {}
    subscription = store.find_any(details.get("subscription") or "")
    paid_by = _paid_by(store, bill)
    intent = store.find_any(paid_by.get("payment_intent") or "")
    taxes = [tax["amount"] for tax in bill["total_taxes"]]
    return kept | {
        "application_fee_amount": None,
        "charge": intent["latest_charge"] if intent else paid_by.get("charge"),
        "discount": None,
        "lines": bill["lines"] | {"data": [_line(line, subscription) for line in bill["lines"]["data"]]},
        "paid": bill["status"] == "paid",
        "paid_out_of_band": "payment_record" in paid_by,
        "payment_intent": paid_by.get("payment_intent"),
        "quote": None,
        "subscription": details.get("subscription"),
        "subscription_details": {"metadata": details["metadata"]} if details else None,
        "tax": sum(taxes) if taxes else None,
        "total_tax_amounts": [_tax_amount(tax) for tax in bill["total_taxes"]],
        "transfer_data": None,
    }


def _line(line: Object, subscription: Object | None) -> Object:
    kept = {name: value for name, value in line.items() if name not in _NEW_IN_LINES}
    details = line["parent"]["subscription_item_details"]
    items = subscription["items"]["data"] if subscription else []
    item: Object = next((each for each in items if each["id"] == details["subscription_item"]), {})
    return kept | {
        "amount_excluding_tax": line["amount"],
        "plan": item.get("plan"),
        "price": item.get("price"),
        "proration": details["proration"],
        "proration_details": details["proration_details"],
        "subscription_item": details["subscription_item"],
        "tax_amounts": [_tax_amount(tax) for tax in line["taxes"]],
        "tax_rates": [],
        "type": "subscription",
        "unit_amount_excluding_tax": line["pricing"]["unit_amount_decimal"],
    }


def _tax_amount(tax: Object) -> Object:
    return {
        "amount": tax["amount"],
        "inclusive": tax["tax_behavior"] == "inclusive",
        "tax_rate": tax["tax_rate_details"]["tax_rate"],
        "taxability_reason": tax["taxability_reason"],
        "taxable_amount": tax["taxable_amount"],
    }


def _subscription(_: Store, subscription: Object) -> Object:
    periods = ("current_period_end", "current_period_start")
    first, *_others = items = subscription["items"]["data"]
    kept = [{name: value for name, value in item.items() if name not in periods} for item in items]
    is_single = len(items) == 1
    return subscription | {
        **{name: first[name] for name in periods},
        "discount": None,
        "items": subscription["items"] | {"data": kept},
        "plan": first["plan"] if is_single else None,
        "quantity": first["quantity"] if is_single else None,
    }


def _with_invoice(store: Store, subject: Object) -> Object:
    """Payment intents and charges named the invoice that they paid."""
    intent_id = subject["id"] if subject["object"] == "payment_intent" else subject["payment_intent"]
    row = store.execute(
        "SELECT json_extract(body, '$.invoice') FROM objects WHERE kind = 'invoice_payment'"
        " AND json_extract(body, '$.payment.payment_intent') = ?",
        intent_id,
    ).fetchone()
    return subject | {"invoice": row[0] if row else None}


def _paid_by(store: Store, bill: Object) -> Object:
    """What an invoice was paid by, the default payment first; older versions knew one."""
    row = store.execute(
        "SELECT id FROM objects WHERE kind = 'invoice_payment' AND json_extract(body, '$.invoice') = ?"
        " ORDER BY json_extract(body, '$.is_default') DESC, seq LIMIT 1",
        bill["id"],
    ).fetchone()
    link = store.find_any(row[0]) if row else None
    return dict(link["payment"]) if link else {}


def _intent_with_charges(store: Store, intent: Object) -> Object:
    return intent | {"charges": _listed(store, "charge", "payment_intent", intent["id"])}


def _charge_with_refunds(store: Store, charge: Object) -> Object:
    return charge | {"refunds": _listed(store, "refund", "charge", charge["id"])}


def _listed(store: Store, kind: str, name: str, value: str) -> dict[str, Any]:
    page = Page(limit=10, conditions=[(f"json_extract(body, '$.{name}') = ?", value)])
    data, has_more = store.page(kind, page)
    return {"object": "list", "data": data, "has_more": has_more, "url": f"/v1/{kind}s?{name}={value}"}


_Older = Callable[[Store, Object], Object]
_BEFORE_BASIL: dict[str, _Older] = {
    "charge": _with_invoice,
    "invoice": _invoice,
    "payment_intent": _with_invoice,
    "subscription": _subscription,
}
_BEFORE_LISTS_LEFT: dict[str, _Older] = {
    "charge": _charge_with_refunds,
    "payment_intent": _intent_with_charges,
}
