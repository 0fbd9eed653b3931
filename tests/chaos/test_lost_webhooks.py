"""Webhooks that are shuffled, doubled and lost: what Stripe took is what customers have, to the point."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

import pytest

from deploy.local import audit
from deploy.local.ephemeral import RunningStack
from services.payments.events import READERS
from tests.chaos.purchases import POINTS, PRICE, Shop, eventually, shop_at
from tests.support.proofs import SEED

_AT_ONCE = 16
_PURCHASES_EACH = 4
_PART = 1000


@pytest.fixture
async def shop(stack: RunningStack) -> AsyncIterator[Shop]:
    async with shop_at(stack) as shop:
        yield shop
    assert audit.audit(stack.file) == []


async def purchase(shop: Shop, user_id: UUID, number: int) -> int:
    """One of many: every fifth is refunded in part, every tenth disputed. Returns what is left."""
    session_id = await shop.buy_points(user_id)
    if number % 5 == 1:
        await shop.refund_at_stripe(session_id, _PART)
        return POINTS - POINTS * _PART // PRICE
    if number % 10 == 3:
        ends = random.Random(f"{SEED}:{number}").choice(["won", "lost"])
        await shop.dispute(session_id, ends=ends)
        return POINTS if ends == "won" else 0
    return POINTS


async def buy_until(shop: Shop, events: int) -> Counter[UUID]:
    """Purchases until Stripe has so many events; the points that each customer must have."""
    users: list[UUID] = []
    owed: Counter[UUID] = Counter()
    number = 0

    async def one(user_id: UUID, number: int) -> None:
        left = await purchase(shop, user_id, number)
        owed[user_id] += left

    while (await shop.stripe.state())["events"] < events:
        wave: list[Coroutine[Any, Any, None]] = []
        for _ in range(_AT_ONCE):
            if number % _PURCHASES_EACH == 0:
                users.append(uuid4())
            wave.append(one(users[-1], number))
            number += 1
        await asyncio.gather(*wave)
    return owed


def balances(shop: Shop, users: list[UUID]) -> dict[UUID, int]:
    rows = shop.rows("wallet", "SELECT id, points - points_debt FROM profiles WHERE id = ANY(%s)", users)
    return dict(rows)


@pytest.mark.parametrize("webhooks", [500, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.timeout(1500)
async def test_a_storm_of_webhooks_loses_and_doubles_no_credit(
    shop: Shop, webhooks: int, record_property: Callable[[str, object], None]
) -> None:
    before = await shop.stripe.state()
    [(began,)] = shop.rows("payments", "SELECT now()")
    trouble = {"drop_percent": 5, "duplicate_percent": 30, "shuffle": True, "seed": SEED}
    await shop.stripe.control("webhooks", mode="deliver", **trouble)
    owed = await buy_until(shop, before["events"] + webhooks)
    await shop.until_grants_are_heard()
    late = Counter(owed) - Counter(balances(shop, list(owed)))
    after = await shop.stripe.state()
    await shop.reconcile()
    await shop.until_grants_are_heard()

    assert balances(shop, list(owed)) == owed
    credits = "SELECT count(*), count(DISTINCT metadata->>'source_id') FROM points_transactions"
    [(purchases, sources)] = shop.rows(
        "wallet", f"{credits} WHERE type = 'purchase' AND user_id = ANY(%s)", list(owed)
    )
    assert purchases == sources
    at_stripe = {event["id"] for event in await shop.stripe.listed("events") if event["type"] in READERS}
    assert at_stripe <= {event_id for (event_id,) in shop.rows("payments", "SELECT id FROM stripe_events")}

    emitted = after["events"] - before["events"]
    dropped = after["deliveries"]["dropped"] - before["deliveries"]["dropped"]
    copies = after["taken"] - before["taken"] - (emitted - dropped)
    assert (emitted >= webhooks, dropped > 0, copies > 0) == (True, True, True)
    # By the schedule, too, when the storm takes long.
    [(found,)] = shop.rows(
        "payments", "SELECT sum(events_missing)::int FROM reconciliations WHERE started_at >= %s", began
    )
    record_property(
        "proof",
        {
            "webhooks": emitted,
            "dropped": dropped,
            "copies": copies,
            "credits": purchases,
            "double": 0,
            "lost": 0,
            "made up for by reconciliation": f"{found} events",
            "customers who waited for the last run": len(late),
        },
    )


async def live(shop: Shop, user_id: UUID) -> None:
    """Points twice, an image by card, a subscription; money comes back of all of it."""
    refunded, lost = [await shop.buy_points(user_id) for _ in range(2)]
    image = await shop.buy_image(user_id)
    subscription = await shop.subscribe(user_id)
    await shop.refund_at_stripe(refunded, _PART)
    await shop.dispute(lost, ends="lost")
    await shop.dispute(image, ends="won")
    await shop.stripe.control(f"subscriptions/{subscription}/renew")


def state_of(shop: Shop, user_id: UUID) -> dict[str, list[tuple[Any, ...]]]:
    """Where a customer's life has led, without ids and times."""
    of_user = {
        "checkouts": "SELECT status, count(*) FROM checkouts WHERE user_id = %s GROUP BY 1 ORDER BY 1",
        "payments": "SELECT amount_cents, points, standing, refunded_cents, disputed_cents, dispute"
        " FROM payments WHERE user_id = %s ORDER BY 1, 2, 4, 5",
        "refunds": "SELECT r.amount_cents, r.status FROM refunds r JOIN payments p ON p.id = r.payment_id"
        " WHERE p.user_id = %s",
        "disputes": "SELECT d.status FROM disputes d JOIN payments p ON p.id = d.payment_id"
        " WHERE p.user_id = %s ORDER BY 1",
        "subscriptions": "SELECT status, cancel_at_period_end FROM subscriptions WHERE user_id = %s",
        "invoices": "SELECT billing_reason FROM invoices WHERE user_id = %s ORDER BY 1",
    }
    state = {name: shop.rows("payments", query, user_id) for name, query in of_user.items()}
    grants = "SELECT net_points FROM grants WHERE user_id = %s ORDER BY 1"
    profile = "SELECT points, points_held, points_debt FROM profiles WHERE id = %s"
    orders = "SELECT status, failure_reason FROM orders WHERE user_id = %s"
    return state | {
        "grants": shop.rows("wallet", grants, user_id),
        "profile": shop.rows("wallet", profile, user_id),
        "orders": shop.rows("orders", orders, user_id),
    }


async def test_dropping_every_webhook_changes_nothing_but_the_delay(shop: Shop) -> None:
    told, untold = uuid4(), uuid4()
    left = POINTS - POINTS * _PART // PRICE

    async def has_all(user_id: UUID) -> bool:
        state = state_of(shop, user_id)
        return (state["profile"], state["orders"]) == ([(left + 600, 0, 0)], [("completed", None)])

    await live(shop, told)
    await eventually(lambda: has_all(told), "webhooks bring everything")
    await shop.until_grants_are_heard()

    await shop.stripe.control("webhooks", mode="drop")
    await live(shop, untold)
    await shop.until_grants_are_heard()
    assert state_of(shop, untold)["profile"] == []
    assert state_of(shop, untold)["orders"] == [("pending", None)]
    await shop.reconcile()
    await eventually(lambda: has_all(untold), "reconciliation brings everything")
    assert state_of(shop, untold) == state_of(shop, told)
    assert state_of(shop, untold)["grants"] == [(0,), (300,), (300,), (left,)]
