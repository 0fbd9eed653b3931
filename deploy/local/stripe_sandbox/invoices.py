"""An invoice: how it is made, what pays it, and what is credited of it afterwards.

Usually a card pays one price for one period. What else the world knows is in Terms. Each function runs inside
its caller's transaction and emits the events that Stripe would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deploy.local.stripe_sandbox import charges, refunds
from deploy.local.stripe_sandbox.events import Origin, emit
from deploy.local.stripe_sandbox.ids import new_id
from deploy.local.stripe_sandbox.objects import credit_note, invoice, odd_invoice, payment_intent
from deploy.local.stripe_sandbox.store import Object, Store

KIND = "invoice"
_NOBODY = Origin()


@dataclass(frozen=True, slots=True)
class Terms:
    """What an invoice bills besides its period, and how it is paid; amounts in minor units."""

    reason: str = "subscription_cycle"
    proration: int = 0
    tax: int = 0
    # Of the customer's credit balance.
    balance: int = 0
    by: Literal["card", "charge", "out_of_band"] = "card"
    # By card in several payments, which are the whole.
    parts: Sequence[int] = ()


USUAL = Terms()


def open_for(store: Store, subscription: Object, owner: Object, terms: Terms, now: int) -> Object:
    """A finalized invoice of the subscription's current period."""
    number, stored = owner["next_invoice_sequence"], store.find("subscription", subscription["id"])
    assert stored is not None, subscription["id"]
    bill = invoice.build(
        subscription,
        customer=owner,
        product=stored.hidden["product"],
        reason=terms.reason,
        number=number,
        now=now,
    )
    bill = odd_invoice.with_proration(bill, terms.proration) if terms.proration else bill
    bill = odd_invoice.with_tax(bill, terms.tax) if terms.tax else bill
    bill = odd_invoice.with_balance(bill, terms.balance) if terms.balance else bill
    store.add(bill)
    store.update(owner | {"next_invoice_sequence": number + 1})
    for event_type in ("invoice.created", "invoice.finalized"):
        emit(store, event_type, bill, now=now, origin=_NOBODY)
    return bill


def pay(store: Store, bill: Object, now: int, terms: Terms = USUAL) -> list[str]:
    """What is due is paid; the payment intent bears none of the shop's metadata. Returns the events' ids."""
    if bill["amount_due"] == 0:
        return _paid(store, odd_invoice.paid_without_payment(bill, now=now), [], now)
    if terms.by == "out_of_band":
        paid = odd_invoice.paid_off_stripe(invoice.paid(bill, now=now))
        record = {"payment_record": new_id("pr_1"), "type": "payment_record"}
        return _paid(store, paid, [_link(store, bill, record, bill["amount_due"], now)], now)
    if terms.by == "charge":
        return _pay_by_charge(store, bill, now)
    events: list[str] = []
    links: list[Object] = []
    for amount in terms.parts or (bill["amount_due"],):
        intent, made = intent_of(store, bill, now, amount=amount, is_another=bool(links))
        charge = charges.attempt(store, intent, email=bill["customer_email"], paid=True, now=now)
        intent = payment_intent.succeeded(intent, charge)
        store.update(intent)
        link = next(
            each for each in payments_of(store, bill) if each["payment"].get("payment_intent") == intent["id"]
        )
        links.append(invoice.payment_paid(link, now=now))
        store.update(links[-1])
        events += made
        for event_type, subject in (("charge.succeeded", charge), ("payment_intent.succeeded", intent)):
            events.append(emit(store, event_type, subject, now=now, origin=_NOBODY))
    return events + _paid(store, invoice.paid(bill, now=now), links, now)


def credit(store: Store, bill: Object, *, amount: int, how: str, now: int) -> Object:
    """A credit note; of what was paid, money goes back to the card (`refund`), or to the customer's credit
    (`balance`), or in some other way. An open invoice of which nothing is left is paid."""
    refund = _refund(store, bill, amount, now) if bill["status"] == "paid" and how == "refund" else None
    note = credit_note.build(bill, amount=amount, refund=refund, now=now)
    store.add(note)
    emit(store, "credit_note.created", note, now=now, origin=_NOBODY)
    if bill["status"] == "paid" and how == "balance":
        owner = _stored(store, bill["customer"])
        credited = owner | {"balance": owner["balance"] - amount}
        store.update(credited)
        emit(store, "customer.updated", credited, now=now, origin=_NOBODY, previous=owner)
    changed = odd_invoice.credited(bill, amount)
    store.update(changed)
    emit(store, "invoice.updated", changed, now=now, origin=_NOBODY, previous=bill)
    if changed["status"] == "open":
        _ask_for(store, changed, changed["amount_due"])
        if changed["amount_due"] == 0:
            pay(store, changed, now)
    return note


def intent_of(
    store: Store, bill: Object, now: int, *, amount: int | None = None, is_another: bool = False
) -> tuple[Object, list[str]]:
    """The invoice's payment intent, made by the first attempt (or another one), and the events of making
    it."""
    links = [] if is_another else payments_of(store, bill)
    if links:
        return _stored(store, links[0]["payment"]["payment_intent"]), []
    intent = payment_intent.build(
        amount=amount or bill["amount_due"],
        currency=bill["currency"],
        metadata={},
        description="Subscription creation" if bill["billing_reason"] == "subscription_create" else None,
        now=now,
    ) | {"customer": bill["customer"]}
    store.add(intent)
    by = {"payment_intent": intent["id"], "type": "payment_intent"}
    link = invoice.payment(bill, by=by, amount=intent["amount"], now=now) | {"is_default": not is_another}
    store.add(link)
    return intent, [emit(store, "payment_intent.created", intent, now=now, origin=_NOBODY)]


def payments_of(store: Store, bill: Object) -> list[Object]:
    """The oldest first."""
    rows = store.execute(
        "SELECT id FROM objects WHERE kind = 'invoice_payment' AND json_extract(body, '$.invoice') = ?"
        " ORDER BY seq",
        bill["id"],
    ).fetchall()
    return [_stored(store, row[0]) for row in rows]


def _ask_for(store: Store, bill: Object, amount: int) -> None:
    """What was asked for before follows what is due now."""
    for link in payments_of(store, bill):
        store.update(link | {"amount_requested": amount})
        store.update(_stored(store, link["payment"]["payment_intent"]) | {"amount": amount})


def _pay_by_charge(store: Store, bill: Object, now: int) -> list[str]:
    """As invoices were paid before there were payment intents."""
    like = {"amount": bill["amount_due"], "currency": bill["currency"], "customer": bill["customer"]}
    intent: Object = {"id": None, "description": None, "metadata": {}} | like
    charge = charges.attempt(store, intent, email=bill["customer_email"], paid=True, now=now)
    link = _link(store, bill, {"charge": charge["id"], "type": "charge"}, bill["amount_due"], now)
    told = emit(store, "charge.succeeded", charge, now=now, origin=_NOBODY)
    return [told, *_paid(store, invoice.paid(bill, now=now), [link], now)]


def _link(store: Store, bill: Object, by: dict[str, str], amount: int, now: int) -> Object:
    """What has paid an invoice, besides payment intents."""
    link = invoice.payment_paid(invoice.payment(bill, by=by, amount=amount, now=now), now=now)
    store.add(link)
    return link


def _paid(store: Store, bill: Object, links: Sequence[Object], now: int) -> list[str]:
    store.update(bill)
    told = [("invoice.paid", bill), ("invoice.payment_succeeded", bill)]
    told += [("invoice_payment.paid", link) for link in links]
    return [emit(store, event_type, subject, now=now, origin=_NOBODY) for event_type, subject in told]


def _refund(store: Store, bill: Object, amount: int, now: int) -> Object:
    [link, *_others] = payments_of(store, bill)
    intent = _stored(store, link["payment"]["payment_intent"])
    return refunds.begin(
        store,
        _stored(store, intent["latest_charge"]),
        amount=amount,
        status="succeeded",
        reason=None,
        metadata={},
        now=now,
        origin=_NOBODY,
    )


def _stored(store: Store, object_id: str) -> Object:
    body = store.find_any(object_id)
    assert body is not None, object_id
    return body
