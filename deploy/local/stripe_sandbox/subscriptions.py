"""What happens to a subscription: it begins, renews, is paid late or not at all, and ends.

Each function runs inside its caller's transaction and emits the events that Stripe would. `now` is the time
of the customer's test clock, where there is one.
"""

from deploy.local.stripe_sandbox import charges, invoices
from deploy.local.stripe_sandbox.events import Origin, emit
from deploy.local.stripe_sandbox.invoices import USUAL, Terms
from deploy.local.stripe_sandbox.objects import customer, invoice, payment_intent
from deploy.local.stripe_sandbox.objects import subscription as objects
from deploy.local.stripe_sandbox.store import Object, Store

KIND = "subscription"
# The clock of customers that Checkout makes from now on.
CLOCK = "customers_test_clock"
_NOBODY = Origin()
_DAY = 24 * 3600
# Days from a failed attempt to the next one; after the last the subscription is canceled.
_RETRY_DAYS = (3, 5, 7)


def begin(
    store: Store,
    *,
    plan: Object,
    customer_id: str | None,
    email: str,
    metadata: dict[str, str],
    now: int,
) -> tuple[Object, list[str]]:
    """The card was taken: an active subscription with its first invoice paid, and the ids of the events.
    `plan` is the line item that was bought."""
    events: list[str] = []
    owner = _stored(store, customer_id) if customer_id else _new_customer(store, email, now, events)
    at = time_of(store, owner["test_clock"], now)
    subscription = objects.build(
        plan["price"], quantity=plan["quantity"], customer=owner, metadata=metadata, now=at
    )
    store.add(subscription, {"product": plan["description"]})
    first = invoices.open_for(store, subscription, owner, Terms(reason="subscription_create"), at)
    subscription = subscription | {"latest_invoice": first["id"]}
    store.update(subscription)
    events += invoices.pay(store, first, at)
    events.append(emit(store, "customer.subscription.created", subscription, now=at, origin=_NOBODY))
    return subscription, events


def renew(store: Store, subscription: Object, *, now: int, terms: Terms = USUAL) -> Object:
    """The end of the current period: the next one is billed, unless it was to be the last."""
    if _is_last(subscription):
        return end(store, subscription, reason="cancellation_requested", now=now)
    return bill_now(store, subscription, objects.moved_on(subscription), now=now, terms=terms)


def bill_now(store: Store, subscription: Object, moved: Object, *, now: int, terms: Terms) -> Object:
    """An invoice for the period of `moved`, which is what becomes of the subscription."""
    owner = _stored(store, subscription["customer"])
    bill = invoices.open_for(store, moved, owner, terms, now)
    moved = moved | {"latest_invoice": bill["id"]}
    store.update(moved)
    tell_of_change(store, moved, previous=subscription, now=now)
    return attempt(store, moved, bill, now=now, terms=terms)


def attempt(store: Store, subscription: Object, bill: Object, *, now: int, terms: Terms = USUAL) -> Object:
    """Charges an open invoice, as `next_payment` says; the subscription follows its latest one, until it has
    ended."""
    is_fine = store.switch(f"next_payment:{subscription['id']}", "succeed") == "succeed"
    if is_fine or bill["amount_due"] == 0 or terms.by == "out_of_band":
        invoices.pay(store, bill, now, terms)
        return _follow(store, subscription, bill, "active", now)
    return _fail(store, subscription, bill, now)


def end(store: Store, subscription: Object, *, reason: str, now: int, origin: Origin = _NOBODY) -> Object:
    """What is unpaid stays open, and is not tried again by itself."""
    for bill in _retried(store, subscription):
        store.update(bill | {"auto_advance": False, "next_payment_attempt": None})
    ended = objects.ended(subscription, reason=reason, now=now)
    store.update(ended)
    emit(store, "customer.subscription.deleted", ended, now=now, origin=origin)
    return ended


def tell_of_change(
    store: Store, subscription: Object, *, previous: Object, now: int, origin: Origin = _NOBODY
) -> None:
    emit(store, "customer.subscription.updated", subscription, now=now, origin=origin, previous=previous)


def advance(store: Store, clock: Object, *, to: int) -> None:
    """Everything that falls due on a clock up to `to`, one after the other in its own time."""
    while (due := _next_due(store, clock["id"], to)) is not None:
        at, subscription, bill = due
        if bill:
            attempt(store, subscription, bill, now=at)
        else:
            renew(store, subscription, now=at)


def time_of(store: Store, clock_id: str | None, now: int) -> int:
    """The time of those who live on a clock; `now` for the others, and once the clock is deleted."""
    clock = store.find_any(clock_id) if clock_id else None
    return int(clock["frozen_time"]) if clock else now


def running_on(store: Store, clock_id: str) -> list[Object]:
    """The subscriptions on a clock that have not ended, the oldest first."""
    rows = store.execute(
        "SELECT id FROM objects WHERE kind = 'subscription' AND json_extract(body, '$.test_clock') = ?"
        " AND json_extract(body, '$.ended_at') IS NULL ORDER BY seq",
        clock_id,
    ).fetchall()
    return [_stored(store, row[0]) for row in rows]


# When, whose, and the invoice that is tried again then; none: the period ends.
_Due = tuple[int, Object, Object | None]


def _next_due(store: Store, clock_id: str, to: int) -> _Due | None:
    moments = [moment for each in running_on(store, clock_id) for moment in _moments(store, each)]
    return min((each for each in moments if each[0] <= to), key=lambda moment: moment[0], default=None)


def _moments(store: Store, subscription: Object) -> list[_Due]:
    """Retries come first: of two moments at the same time the first is taken."""
    retries = [(bill["next_payment_attempt"], subscription, bill) for bill in _retried(store, subscription)]
    ends = [objects.item_of(subscription)["current_period_end"], subscription["cancel_at"]]
    return [*retries, (min(each for each in ends if each), subscription, None)]


def _is_last(subscription: Object) -> bool:
    """Whether it ends with the current period, or before."""
    cancel_at = subscription["cancel_at"]
    return bool(cancel_at and cancel_at <= objects.item_of(subscription)["current_period_end"])


def _retried(store: Store, subscription: Object) -> list[Object]:
    """The open invoices of a subscription that will be tried again; with short periods there are several."""
    # Written as the partial index is, or SQLite does not use it.
    rows = store.execute(
        "SELECT id FROM objects WHERE kind = 'invoice'"
        " AND json_extract(body, '$.next_payment_attempt') IS NOT NULL"
        " AND json_extract(body, '$.parent.subscription_details.subscription') = ? ORDER BY seq",
        subscription["id"],
    ).fetchall()
    return [_stored(store, row[0]) for row in rows]


def _new_customer(store: Store, email: str, now: int, events: list[str]) -> Object:
    clock = store.switch(CLOCK, "") or None
    at = time_of(store, clock, now)
    made = customer.build(email=email, name=None, description=None, metadata={}, test_clock=clock, now=at)
    store.add(made)
    events.append(emit(store, "customer.created", made, now=at, origin=_NOBODY))
    return made


def _fail(store: Store, subscription: Object, bill: Object, now: int) -> Object:
    intent, _ = invoices.intent_of(store, bill, now)
    failed = charges.attempt(store, intent, email=bill["customer_email"], paid=False, now=now)
    intent = payment_intent.declined(intent, failed)
    store.update(intent)
    again = None if subscription["ended_at"] else _next_attempt(bill, now)
    bill = invoice.attempted(bill, next_attempt=again)
    store.update(bill)
    for event_type, subject in (
        ("charge.failed", failed),
        ("payment_intent.payment_failed", intent),
        ("invoice.payment_failed", bill),
    ):
        emit(store, event_type, subject, now=now, origin=_NOBODY)
    if again is None and not subscription["ended_at"]:
        return end(store, subscription, reason="payment_failed", now=now)
    return _follow(store, subscription, bill, "past_due", now)


def _next_attempt(bill: Object, now: int) -> int | None:
    attempts = bill["attempt_count"]
    return now + _RETRY_DAYS[attempts] * _DAY if attempts < len(_RETRY_DAYS) else None


def _follow(store: Store, subscription: Object, bill: Object, status: str, now: int) -> Object:
    """An older invoice says nothing about the subscription any more, and nothing wakes an ended one."""
    is_latest = bill["id"] == subscription["latest_invoice"]
    if subscription["ended_at"] or not is_latest or subscription["status"] == status:
        return subscription
    turned = subscription | {"status": status}
    store.update(turned)
    tell_of_change(store, turned, previous=subscription, now=now)
    return turned


def _stored(store: Store, object_id: str) -> Object:
    body = store.find_any(object_id)
    assert body is not None, object_id
    return body
