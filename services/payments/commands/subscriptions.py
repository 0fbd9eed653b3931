"""Subscriptions as Stripe has them, and the invoices that they pay: each one a grant of its own."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
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
from services.payments.queries import SUBSCRIPTION_COLUMNS
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
        second = await _begin(connection, checkout, checkout.plan_id, found)
        return _applied(checkout.id, f"began: {theirs.status}{_SECOND if second else ''}")
    if before.stripe_subscription_id != theirs.id:
        log.error("subscription.second_of_a_checkout", stripe_subscription_id=theirs.id)
        return NOT_OURS
    if before.observed_at > found.observed_at:
        return OLD_NEWS
    state = _state_of(
        found, interval=before.interval, price_cents=before.price_cents, currency=before.currency
    )
    if before.duplicate_of is None:
        state |= await _second_to(
            connection, theirs, before.id, user_id=before.user_id, plan_id=before.plan_id
        )
    if theirs.ended_at is not None:
        state["cancel_due_at"] = None
    await _copy(connection, before, state)
    changed = [
        name for name, value in state.items() if name not in _UNTOLD and getattr(before, name) != value
    ]
    return _applied(before.id, _change(before, theirs, changed)) if changed else OLD_NEWS


# When we looked, and what is still to be done, is no news.
_UNTOLD = ("observed_at", "cancel_due_at")
_SECOND = ", the second of its plan: to be canceled"


async def _second_to(
    connection: AsyncConnection, theirs: StripeSubscription, own_id: UUID, *, user_id: UUID, plan_id: str
) -> dict[str, Any]:
    """What marks one that has become live beside another one; nothing when it is the only one. Two that
    become live at once meet at the index, and one of them is looked at again."""
    if theirs.status not in rules.LIVE or theirs.is_ending:
        return {}
    other = await queries.find_live_subscription(connection, user_id=user_id, plan_id=plan_id, but=own_id)
    return _marked(own_id, other) if other else {}


def _marked(own_id: UUID, other: UUID) -> dict[str, Any]:
    log.error("subscription.second", subscription_id=str(own_id), duplicate_of=str(other))
    return {"duplicate_of": other, "cancel_due_at": func.now()}


async def find_second_to(connection: AsyncConnection, ours: Subscription, *, is_first: bool) -> UUID | None:
    """The subscription that this one is second to. The first invoice may be heard of before its subscription
    is live: then it is marked by it."""
    if ours.duplicate_of is not None or not is_first or ours.status != "incomplete":
        return ours.duplicate_of
    other = await queries.find_live_subscription(
        connection, user_id=ours.user_id, plan_id=ours.plan_id, but=ours.id
    )
    if other is not None:
        await _copy(connection, ours, _marked(ours.id, other))
    return other


async def claim_seconds(connection: AsyncConnection, *, limit: int) -> Sequence[Subscription]:
    """Those that are to be canceled at Stripe now; each is due again later, unless it has ended by then."""
    due = (
        select(subscriptions.c.id)
        .where(subscriptions.c.cancel_due_at <= func.now())
        .order_by(subscriptions.c.cancel_due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    # 10 s, 20 s, 40 s and so on, an hour at most.
    pause = func.least(10 * func.power(2, func.least(subscriptions.c.cancel_tries, 20)), 3600)
    rows = await connection.execute(
        update(subscriptions)
        .where(subscriptions.c.id == due.c.id)
        .values(
            cancel_tries=subscriptions.c.cancel_tries + 1,
            cancel_due_at=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, pause),
        )
        .returning(*SUBSCRIPTION_COLUMNS)
    )
    return [Subscription(**row._mapping) for row in rows]


def _applied(subscription_id: UUID, change: str) -> Outcome:
    log.info("subscription.changed", subscription_id=str(subscription_id), change=change)
    return Outcome(Settlement.APPLIED, (Effect("subscription", str(subscription_id), change),))


def _change(before: Subscription, theirs: StripeSubscription, changed: list[str]) -> str:
    ends = " and ends by itself" if theirs.is_ending else ""
    outside = ", changed outside of the shop" if "changed_outside" in changed else ""
    second = _SECOND if "duplicate_of" in changed else ""
    return f"{before.status} -> {theirs.status}{ends}{outside}{second}"


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
) -> bool:
    """The checkout's lock keeps twins out. True when it is the second one of its plan."""
    theirs = found.subscription
    plan = await queries.find_plan(connection, plan_id, only_active=False)
    assert plan is not None, "plans are never deleted"
    terms: dict[str, Any] = {
        "interval": plan.interval,
        "price_cents": checkout.amount_cents,
        "currency": checkout.currency,
    }
    second = await _second_to(connection, theirs, checkout.id, user_id=checkout.user_id, plan_id=plan_id)
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
            **second,
        )
    )
    return bool(second)


async def _copy(connection: AsyncConnection, before: Subscription, state: dict[str, Any]) -> None:
    await connection.execute(
        update(subscriptions).where(subscriptions.c.id == before.id).values(updated_at=func.now(), **state)
    )


async def end_missing(connection: AsyncConnection, subscription_id: UUID) -> None:
    """The account that bills a subscription has no such one: it bills nothing any more."""
    await connection.execute(
        update(subscriptions)
        .where(subscriptions.c.id == subscription_id, subscriptions.c.ended_at.is_(None))
        .values(
            status="canceled",
            ended_at=func.now(),
            cancel_due_at=None,
            observed_at=func.clock_timestamp(),
            updated_at=func.now(),
        )
    )
    log.error("subscription.unknown_to_stripe", subscription_id=str(subscription_id))
