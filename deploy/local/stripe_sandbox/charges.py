"""An attempt to charge a payment intent, and the balance that a paid one leaves."""

from deploy.local.stripe_sandbox import balance
from deploy.local.stripe_sandbox.objects import charge
from deploy.local.stripe_sandbox.store import Object, Store


def attempt(store: Store, intent: Object, *, email: str | None, paid: bool, now: int) -> Object:
    """The charge, stored."""
    tried = charge.build(intent, email=email, paid=paid, now=now)
    if paid:
        tried = balance.book_charge(store, tried, now=now)
    store.add(tried)
    return tried
