"""What operators count of orders, beside numbers that were worked out by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest

from protos.orders.v1 import orders_pb2 as pb
from tests.integration.orders.shop import Shop

# Long before any other test's orders.
SINCE = datetime(2021, 3, 1, tzinfo=UTC)
MIDDLE = SINCE + timedelta(days=3)
UNTIL = datetime(2021, 3, 8, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
Told = pb.GetAnalyticsResponse


async def count(shop: Shop, since: datetime = SINCE, until: datetime = UNTIL) -> Told:
    request = pb.GetAnalyticsRequest()
    request.since.FromDatetime(since)
    request.until.FromDatetime(until)
    return await shop.operator.GetAnalytics(request)


async def placed(
    shop: Shop,
    user_id: UUID,
    status: str,
    *,
    cents: int = 0,
    points: int = 0,
    reason: str | None = None,
    at: datetime = MIDDLE,
) -> UUID:
    """An order as it was written then, by a process whose clock was 59 minutes late."""
    [row] = await shop.sql(
        "INSERT INTO orders (id, user_id, status, payment_method, total_cents, total_points, currency,"
        " failure_reason, idempotency_key, request_hash, stripe_payment_intent_id, created_at)"
        " VALUES (uuidv7(%s - now()), %s, %s, %s, %s, %s, 'usd', %s, %s, '', %s, %s) RETURNING id",
        *(at - timedelta(minutes=59), user_id, status, "stripe" if cents else "points", cents, points),
        *(reason, str(uuid4()), str(uuid4()), at),
    )
    order_id: UUID = row["id"]
    return order_id


async def contains(shop: Shop, order_id: UUID, product_id: UUID, quantity: int, **more: Any) -> None:
    values = {"price_cents": 1, "price_points": 0, "refunded_quantity": 0} | more
    await shop.sql(
        "INSERT INTO order_items (order_id, product_id, user_id, title, quantity,"
        f" {', '.join(values)}) VALUES (%s, %s, %s, 'as it was', %s, {', '.join(['%s'] * len(values))})",
        *(order_id, product_id, uuid4(), quantity, *values.values()),
    )


class Week(NamedTuple):
    """Orders of the range, and one that is not."""

    by_card: list[UUID]
    with_points: UUID
    went_back: UUID
    failed: UUID
    too_late: UUID


@pytest.fixture(scope="module")
async def week(shop: Shop) -> Week:
    """Ada buys ten times by card, for 100, 200 … 1000 cents, and once with points; Bob's order went back, and
    his next one failed; Cy never had the points; Di has a cart and no more. Two more neither pay nor fail."""
    ada, bob, cy, di = uuid4(), uuid4(), uuid4(), uuid4()
    for _ in range(2):
        await placed(shop, cy, "failed", points=9000, reason="insufficient_points")
    await placed(shop, uuid4(), "pending", cents=70)
    await placed(shop, uuid4(), "cancelled", cents=80, reason="cancelled_by_customer")
    await placed(shop, uuid4(), "completed", cents=5000, at=SINCE - INSTANT)
    for user_id, at in ((cy, MIDDLE), (di, SINCE), (uuid4(), SINCE - INSTANT), (uuid4(), UNTIL)):
        await shop.sql("INSERT INTO carts (user_id, updated_at) VALUES (%s, %s)", user_id, at)
    return Week(
        by_card=[
            await placed(shop, ada, "completed", cents=100 * number, at=SINCE if number == 1 else MIDDLE)
            for number in range(1, 11)
        ],
        with_points=await placed(shop, ada, "completed", points=300, at=UNTIL - INSTANT),
        went_back=await placed(shop, bob, "refunded", cents=2000, at=SINCE + timedelta(days=1)),
        failed=await placed(shop, bob, "failed", cents=50, reason="payment_failed"),
        too_late=await placed(shop, uuid4(), "completed", cents=5000, at=UNTIL),
    )


@pytest.mark.usefixtures("week")
async def test_carts_orders_and_payments_are_counted_by_customer_and_by_order(shop: Shop) -> None:
    assert (await count(shop)).conversion == Told.Conversion(
        customers_with_cart=6,
        customers_ordering=5,
        customers_paying=2,
        orders_placed=17,
        orders_paid=12,
        orders_failed=3,
        orders_cancelled=1,
    )


@pytest.mark.usefixtures("week")
async def test_orders_are_counted_by_method_and_by_why_they_failed(shop: Shop) -> None:
    told = await count(shop)
    assert list(told.methods) == [
        Told.MethodUse(method="points", placed=3, paid=1, points=300),
        Told.MethodUse(method="stripe", placed=14, paid=11, cents=7500),
    ]
    assert list(told.failures) == [
        Told.Failure(status="failed", reason="insufficient_points", orders=2),
        Told.Failure(status="cancelled", reason="cancelled_by_customer", orders=1),
        Told.Failure(status="failed", reason="payment_failed", orders=1),
    ]


@pytest.mark.usefixtures("week")
async def test_what_orders_cost_is_told_by_real_totals(shop: Shop) -> None:
    told = await count(shop)
    assert told.cents == Told.Totals(median=600, p90=1000, max=2000)
    assert told.points == Told.Totals(median=300, p90=300, max=300)
    # The day of the points order alone.
    last = await count(shop, UNTIL - timedelta(days=1), UNTIL)
    assert (last.HasField("cents"), last.points.max) == (False, 300)


async def test_the_ten_best_sellers_are_those_that_stayed_sold(shop: Shop, week: Week) -> None:
    first, second, third, *_ = week.by_card
    best = await shop.product(title="Dawn")
    good = await shop.product(title="Dusk")
    none = await shop.product(title="Came back")
    await contains(shop, first, good, 3, price_cents=100, refunded_quantity=1, refunded_cents=100)
    await contains(shop, second, best, 1, price_cents=70, price_points=60)
    await contains(
        shop,
        week.with_points,
        best,
        5,
        price_points=60,
        price_cents=70,
        refunded_quantity=2,
        refunded_points=120,
    )
    await contains(shop, week.went_back, none, 2, refunded_quantity=2, refunded_cents=2)
    for order_id in (week.failed, week.too_late):
        await contains(shop, order_id, none, 50)
    # Bob's first order alone, all of which came back.
    assert list((await count(shop, SINCE + timedelta(days=1), MIDDLE)).top_products) == []
    others = [await shop.product(title=f"No. {number}") for number in range(1, 10)]
    for number, product_id in enumerate(others, 1):
        await contains(shop, third, product_id, 1, price_cents=10 * number)

    sales = [
        (best, "Dawn", 4, 70, 180),
        (good, "Dusk", 2, 200, 0),
        *((others[number - 1], f"No. {number}", 1, 10 * number, 0) for number in range(9, 1, -1)),
    ]
    assert list((await count(shop)).top_products) == [
        Told.ProductSales(product_id=str(product_id), title=title, pieces=pieces, cents=cents, points=points)
        for product_id, title, pieces, cents, points in sales
    ]


async def test_a_range_without_orders_has_zeros_and_no_totals(shop: Shop) -> None:
    quiet = SINCE - timedelta(days=300)
    assert await count(shop, quiet, quiet + timedelta(days=1)) == Told(
        conversion=Told.Conversion(),
        methods=[Told.MethodUse(method="points"), Told.MethodUse(method="stripe")],
    )
