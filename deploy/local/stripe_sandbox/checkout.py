"""What happens to a Checkout Session: it is created, paid, declined, or it expires.

Each function runs inside its caller's transaction and emits the events that Stripe would.
"""

from collections.abc import Sequence
from typing import Any

from deploy.local.stripe_sandbox import charges, subscriptions
from deploy.local.stripe_sandbox.errors import Refusal
from deploy.local.stripe_sandbox.events import Origin, emit
from deploy.local.stripe_sandbox.objects import checkout_session, line_item, payment_intent
from deploy.local.stripe_sandbox.store import Object, Store, Stored

KIND = "checkout.session"
_NOBODY = Origin()
# Who pays when the shop has named no one.
_BUYER = "buyer@example.com"


class NotOpen(Exception):
    """The session is complete or expired."""

    def __init__(self, session: Object) -> None:
        super().__init__(session["status"])
        self.session = session


def create(
    store: Store,
    wanted: checkout_session.Wanted,
    *,
    lines: Sequence[line_item.Line],
    intent_data: dict[str, Any],
    public_url: str,
    now: int,
) -> Object:
    """`intent_data` is what the payment intent is made of when the customer first tries to pay."""
    session = checkout_session.build(wanted, public_url=public_url, now=now)
    items = [line_item.build(line, now=now) for line in lines]
    store.add(session, {"line_items": items, "payment_intent_data": intent_data})
    return session


def expire(store: Store, session: Object, *, now: int, origin: Origin) -> Object:
    """Ends an open session, and the payment intent that a declined attempt has left."""
    if session["status"] != "open":
        raise Refusal(
            400,
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a '
            f"status of {session['status']}.",
            executed=True,
        )
    if session["payment_intent"]:
        intent = payment_intent.canceled(_stored(store, session["payment_intent"]), now=now)
        store.update(intent)
        emit(store, "payment_intent.canceled", intent, now=now, origin=origin)
    ended = checkout_session.expired(session)
    store.update(ended)
    emit(store, "checkout.session.expired", ended, now=now, origin=origin)
    return ended


def expire_due(store: Store, *, now: int) -> int:
    """Ends every open session whose time is over; returns how many."""
    # Written as the partial index is, or SQLite does not use it.
    rows = store.execute(
        "SELECT id FROM objects WHERE kind = 'checkout.session' AND json_extract(body, '$.status') = 'open'"
        " AND json_extract(body, '$.expires_at') <= ?",
        now,
    ).fetchall()
    for (session_id,) in rows:
        expire(store, _stored(store, session_id), now=now, origin=_NOBODY)
    return len(rows)


def pay(store: Store, session_id: str, *, now: int) -> list[str]:
    """The customer's card is charged; returns the ids of the events. NotOpen when it is too late."""
    found = _open(store, session_id, now)
    if found.body["mode"] == "subscription":
        return _subscribe(store, found, now)
    email = found.body["customer_email"] or _BUYER
    if found.body["amount_total"] == 0:
        session = checkout_session.completed(found.body, intent_id=None, email=email)
        store.update(session)
        return [emit(store, "checkout.session.completed", session, now=now, origin=_NOBODY)]
    intent, events = _attempted(store, found, now)
    paid = charges.attempt(store, intent, email=email, paid=True, now=now)
    intent = payment_intent.succeeded(intent, paid)
    store.update(intent)
    session = checkout_session.completed(found.body, intent_id=intent["id"], email=email)
    store.update(session)
    for event_type, subject in (
        ("charge.succeeded", paid),
        ("payment_intent.succeeded", intent),
        ("checkout.session.completed", session),
    ):
        events.append(emit(store, event_type, subject, now=now, origin=_NOBODY))
    return events


def enter_code(store: Store, session_id: str, *, percent_off: int, now: int) -> Object:
    """The customer enters a promotion code, on a page that takes them, before anything else is tried."""
    found = _open(store, session_id, now)
    if not found.body["allow_promotion_codes"] or found.body["payment_intent"]:
        return found.body
    session = checkout_session.discounted(found.body, percent_off=percent_off)
    store.update(session)
    return session


def pay_later(store: Store, session_id: str, *, now: int) -> Object:
    """By bank debit: the session is complete, its money on its way. NotOpen when it is too late."""
    found = _open(store, session_id, now)
    email = found.body["customer_email"] or _BUYER
    intent, _ = _attempted(store, found, now)
    intent = intent | {"status": "processing"}
    store.update(intent)
    session = checkout_session.completed(found.body, intent_id=intent["id"], email=email)
    session |= {"payment_status": "unpaid"}
    store.update(session)
    emit(store, "payment_intent.processing", intent, now=now, origin=_NOBODY)
    emit(store, "checkout.session.completed", session, now=now, origin=_NOBODY)
    return session


def end_delayed(store: Store, session_id: str, *, succeeded: bool, now: int) -> Object:
    """The bank debit came, or did not: then the session stays complete and unpaid. NotOpen when nothing is
    on its way."""
    session = _stored(store, session_id)
    intent = _stored(store, session["payment_intent"]) if session["payment_intent"] else None
    if intent is None or intent["status"] != "processing":
        raise NotOpen(session)
    email = session["customer_details"]["email"]
    attempt = charges.attempt(store, intent, email=email, paid=succeeded, now=now)
    settle = payment_intent.succeeded if succeeded else payment_intent.declined
    intent = settle(intent, attempt)
    intent |= {} if succeeded else {"status": "requires_payment_method"}
    store.update(intent)
    session = session | {"payment_status": "paid" if succeeded else "unpaid"}
    store.update(session)
    outcome = "succeeded" if succeeded else "failed"
    for event_type, subject in (
        (f"charge.{outcome}", attempt),
        (f"payment_intent.{'succeeded' if succeeded else 'payment_failed'}", intent),
        (f"checkout.session.async_payment_{outcome}", session),
    ):
        emit(store, event_type, subject, now=now, origin=_NOBODY)
    return session


def cancel_delayed(store: Store, session_id: str, *, now: int) -> Object:
    """The payment of a complete session is given up before its money came: the session stays complete and
    unpaid, and only the payment intent tells. NotOpen when nothing is on its way."""
    session = _stored(store, session_id)
    intent = _stored(store, session["payment_intent"]) if session["payment_intent"] else None
    if intent is None or session["status"] != "complete" or session["payment_status"] == "paid":
        raise NotOpen(session)
    if intent["status"] not in ("processing", "requires_payment_method"):
        raise NotOpen(session)
    intent = payment_intent.canceled(intent, now=now, reason="abandoned")
    store.update(intent)
    emit(store, "payment_intent.canceled", intent, now=now, origin=_NOBODY)
    return session


def pay_bare(store: Store, *, amount: int, currency: str, metadata: dict[str, str], now: int) -> Object:
    """A payment that belongs to no session, as another program of the account could make it."""
    intent = payment_intent.build(
        amount=amount, currency=currency, metadata=metadata, description=None, now=now
    )
    store.add(intent)
    emit(store, "payment_intent.created", intent, now=now, origin=_NOBODY)
    paid = charges.attempt(store, intent, email=None, paid=True, now=now)
    intent = payment_intent.succeeded(intent, paid)
    store.update(intent)
    for event_type, subject in (("charge.succeeded", paid), ("payment_intent.succeeded", intent)):
        emit(store, event_type, subject, now=now, origin=_NOBODY)
    return intent


def _subscribe(store: Store, found: Stored, now: int) -> list[str]:
    owner = _stored(store, found.body["customer"]) if found.body["customer"] else None
    email = (owner["email"] if owner else found.body["customer_email"]) or _BUYER
    subscription, events = subscriptions.begin(
        store,
        plan=found.hidden["line_items"][0],
        customer_id=found.body["customer"],
        email=email,
        metadata=found.hidden["payment_intent_data"]["metadata"],
        now=now,
    )
    session = checkout_session.subscribed(found.body, subscription, email=email)
    store.update(session)
    return [*events, emit(store, "checkout.session.completed", session, now=now, origin=_NOBODY)]


def decline(store: Store, session_id: str, *, now: int) -> Object:
    """The bank refuses the card; the session stays open for another try. NotOpen when it is too late."""
    found = _open(store, session_id, now)
    if found.body["mode"] == "subscription":
        # Nothing is made before the card is taken.
        return found.body
    intent, _ = _attempted(store, found, now)
    failed = charges.attempt(store, intent, email=found.body["customer_email"], paid=False, now=now)
    intent = payment_intent.declined(intent, failed)
    store.update(intent)
    session = found.body | {"payment_intent": intent["id"]}
    store.update(session)
    emit(store, "charge.failed", failed, now=now, origin=_NOBODY)
    emit(store, "payment_intent.payment_failed", intent, now=now, origin=_NOBODY)
    return session


def _open(store: Store, session_id: str, now: int) -> Stored:
    found = store.find(KIND, session_id)
    assert found is not None, session_id
    if found.body["status"] == "open" and found.body["expires_at"] > now:
        return found
    raise NotOpen(found.body)


def _attempted(store: Store, found: Stored, now: int) -> tuple[Object, list[str]]:
    """The session's payment intent, made by the first attempt, and the events of making it."""
    session = found.body
    if session["payment_intent"]:
        return _stored(store, session["payment_intent"]), []
    intent = payment_intent.build(
        amount=session["amount_total"],
        currency=session["currency"],
        now=now,
        **found.hidden["payment_intent_data"],
    )
    store.add(intent)
    return intent, [emit(store, "payment_intent.created", intent, now=now, origin=_NOBODY)]


def _stored(store: Store, object_id: str) -> Object:
    body = store.find_any(object_id)
    assert body is not None, object_id
    return body
