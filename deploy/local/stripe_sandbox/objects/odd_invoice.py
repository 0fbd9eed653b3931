"""What may be odd about an invoice, and what pays it besides a card: from an invoice to an invoice."""

from typing import Any

from deploy.local.stripe_sandbox.ids import new_id

Invoice = dict[str, Any]


def with_proration(invoice: Invoice, amount: int) -> Invoice:
    """A line for a change in the middle of a period; below zero when it is credited."""
    [first, *_others] = invoice["lines"]["data"]
    details = first["parent"]["subscription_item_details"] | {"proration": True}
    pricing = first["pricing"] | {"unit_amount_decimal": str(amount)}
    line = first | {
        "id": new_id("il_1"),
        "amount": amount,
        "description": "Remaining time" if amount >= 0 else "Unused time",
        "parent": first["parent"] | {"subscription_item_details": details},
        "pricing": pricing,
        "subtotal": amount,
    }
    lines = invoice["lines"] | {"data": [*invoice["lines"]["data"], line]}
    names = ("subtotal", "subtotal_excluding_tax", "total_excluding_tax")
    sums = {name: invoice[name] + amount for name in names}
    return _due(invoice | sums | {"lines": lines}, invoice["total"] + amount)


def with_tax(invoice: Invoice, amount: int) -> Invoice:
    """On top of the price."""
    tax = {
        "amount": amount,
        "tax_behavior": "exclusive",
        "tax_rate_details": {"tax_rate": new_id("txr_1")},
        "taxability_reason": "standard_rated",
        "taxable_amount": invoice["subtotal"],
        "type": "tax_rate_details",
    }
    first, *others = invoice["lines"]["data"]
    lines = invoice["lines"] | {"data": [first | {"taxes": [tax]}, *others]}
    return _due(invoice | {"lines": lines, "total_taxes": [tax]}, invoice["total"] + amount)


def with_balance(invoice: Invoice, amount: int) -> Invoice:
    """The customer's credit pays so much of it."""
    applied = min(amount, invoice["total"])
    due = invoice["total"] - applied
    return invoice | {
        "amount_due": due,
        "amount_remaining": due,
        "starting_balance": -amount,
        "ending_balance": applied - amount,
    }


def paid_without_payment(invoice: Invoice, *, now: int) -> Invoice:
    """Nothing was due."""
    return invoice | {
        "attempted": True,
        "next_payment_attempt": None,
        "status": "paid",
        "status_transitions": invoice["status_transitions"] | {"paid_at": now},
    }


def paid_off_stripe(invoice: Invoice) -> Invoice:
    return invoice | {"amount_paid_off_stripe": invoice["amount_paid"]}


def credited(invoice: Invoice, amount: int) -> Invoice:
    """By a credit note: before it is paid less is due, afterwards money goes back."""
    if invoice["status"] == "paid":
        noted = invoice["post_payment_credit_notes_amount"] + amount
        return invoice | {"post_payment_credit_notes_amount": noted}
    return invoice | {
        "amount_due": invoice["amount_due"] - amount,
        "amount_remaining": invoice["amount_remaining"] - amount,
        "pre_payment_credit_notes_amount": invoice["pre_payment_credit_notes_amount"] + amount,
    }


def _due(invoice: Invoice, total: int) -> Invoice:
    """A total below zero becomes the customer's credit."""
    due = max(total, 0)
    return invoice | {
        "amount_due": due,
        "amount_remaining": due,
        "ending_balance": min(total, 0),
        "total": total,
    }
