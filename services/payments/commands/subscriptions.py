"""Subscriptions as Stripe has them, and the invoices that they pay: each one a grant of its own."""

from typing import Any
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import logs
from services.payments import queries, rules
from services.payments.findings import (
    NOT_OURS,
    OLD_NEWS,
    Effect,
    Outcome,
    Settlement,
    SubscriptionFound,
)
from services.payments.models import subscriptions
from services.payments.rules import Checkout, Subscription
from services.payments.stripe_objects import Subscription as StripeSubscription

log = logs.get(__name__)


async def settle_subscription(connection: AsyncConnection, found: SubscriptionFound) -> Outcome:
    """Copies Stripe's state, unless a later look is known."""
    theirs = found.subscription
    checkout_id = rules.as_id(theirs.metadata.get("checkout_id"))
    checkout = await queries.lock_checkout(connection, checkout_id) if checkout_id else None
    if checkout is None or checkout.plan_id is None:
        if rules.bears_our_metadata(theirs.metadata):
            log.error("subscription.unknown_checkout", stripe_subscription_id=theirs.id)
        return NOT_OURS
    before = await queries.find_subscription(connection, checkout.id)
    if before is None:
        await _begin(connection, checkout, checkout.plan_id, found)
        return _applied(checkout.id, f"began: {theirs.status}")
    if before.stripe_subscription_id != theirs.id:
        log.error("subscription.second_of_a_checkout", stripe_subscription_id=theirs.id)
        return NOT_OURS
    if before.observed_at > found.observed_at:
        return OLD_NEWS
    state = _state_of(
        found, interval=before.interval, price_cents=before.price_cents, currency=before.currency
    )
    await _copy(connection, before, state)
    changed = [
        name for name, value in state.items() if name != "observed_at" and getattr(before, name) != value
    ]
    return _applied(before.id, _change(before, theirs, changed)) if changed else OLD_NEWS


def _applied(subscription_id: UUID, change: str) -> Outcome:
    log.info("subscription.changed", subscription_id=str(subscription_id), change=change)
    return Outcome(Settlement.APPLIED, (Effect("subscription", str(subscription_id), change),))


def _change(before: Subscription, theirs: StripeSubscription, changed: list[str]) -> str:
    ends = " and ends by itself" if theirs.is_ending else ""
    outside = ", changed outside of the shop" if "changed_outside" in changed else ""
    return f"{before.status} -> {theirs.status}{ends}{outside}"


def _state_of(found: SubscriptionFound, *, interval: str, price_cents: int, currency: str) -> dict[str, Any]:
    """What is copied. The terms stay as agreed: whether Stripe bills other ones is all that is kept."""
    theirs = found.subscription
    return {
        "status": theirs.status,
        "current_period_end": theirs.current_period_end,
        "cancel_at_period_end": theirs.is_ending,
        "cancel_at": theirs.cancel_at,
        "changed_outside": rules.is_changed_outside(
            theirs, interval=interval, price_cents=price_cents, currency=currency
        ),
        "ended_at": theirs.ended_at,
        "observed_at": found.observed_at,
    }


async def _begin(
    connection: AsyncConnection, checkout: Checkout, plan_id: str, found: SubscriptionFound
) -> None:
    """The checkout's lock keeps twins out."""
    theirs = found.subscription
    plan = await queries.find_plan(connection, plan_id, only_active=False)
    assert plan is not None, "plans are never deleted"
    terms: dict[str, Any] = {
        "interval": plan.interval,
        "price_cents": checkout.amount_cents,
        "currency": checkout.currency,
    }
    await connection.execute(
        insert(subscriptions).values(
            id=checkout.id,
            user_id=checkout.user_id,
            plan_id=plan_id,
            stripe_subscription_id=theirs.id,
            stripe_customer_id=theirs.customer_id,
            points=checkout.points,
            created_at=theirs.created,
            **terms,
            **_state_of(found, **terms),
        )
    )


async def _copy(connection: AsyncConnection, before: Subscription, state: dict[str, Any]) -> None:
    await connection.execute(
        update(subscriptions).where(subscriptions.c.id == before.id).values(updated_at=func.now(), **state)
    )
