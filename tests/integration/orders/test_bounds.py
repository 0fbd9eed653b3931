"""What one customer may hold without paying, and what becomes of checkouts that bought nothing."""

import asyncio
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest

from protos.orders.v1 import orders_pb2 as pb
from services.chassis.db import Database
from services.orders.card_saga import PROCESSING
from services.orders.commands.purging import purge_unbought
from tests.integration.orders.shop import STRIPE, Shop
from tests.integration.orders.test_card_orders import tell
from tests.integration.wallet.client import refused

CONFLICT = grpc.StatusCode.ABORTED


async def by_card(shop: Shop, user_id: UUID, product: UUID, pieces: int = 1, *, key: str = "") -> pb.Order:
    return await shop.place(user_id, {product: pieces}, method=STRIPE, key=key or str(uuid4()))


async def test_so_many_orders_by_card_wait_for_their_payment(shop: Shop) -> None:
    user_id, picture = uuid4(), await shop.product()
    key = str(uuid4())
    opened = [await by_card(shop, user_id, picture, key=key)]
    opened += [await by_card(shop, user_id, picture) for _ in range(4)]
    fields = await refused(by_card(shop, user_id, picture), CONFLICT, "TOO_MANY_OPEN_ORDERS")
    assert fields["limit"] == "5"
    assert sorted(fields["open_order_ids"].split()) == sorted(order.id for order in opened)
    # A key that is known holds nothing more; others have their own bound, and points wait for nothing.
    assert (await by_card(shop, user_id, picture, key=key)).id == opened[0].id
    assert (await by_card(shop, uuid4(), picture)).id
    # What is being paid counts no more, and neither does what was cancelled.
    await tell(shop, opened[0], PROCESSING, 2)
    await shop.becomes(opened[0].id, "processing")
    opened.append(await by_card(shop, user_id, picture))
    await refused(by_card(shop, user_id, picture), CONFLICT, "TOO_MANY_OPEN_ORDERS")
    await shop.cancel(user_id, opened[1].id)
    again = str(uuid4())
    assert (await by_card(shop, user_id, picture, key=again)).id
    # The refusal was not kept: its key buys once there is room.
    full = str(uuid4())
    await refused(by_card(shop, user_id, picture, key=full), CONFLICT, "TOO_MANY_OPEN_ORDERS")
    await shop.cancel(user_id, opened[2].id)
    assert (await by_card(shop, user_id, picture, key=full)).id


async def test_a_bound_holds_however_many_ask_at_once(shop: Shop) -> None:
    user_id, picture = uuid4(), await shop.product()
    answers = await asyncio.gather(
        *(by_card(shop, user_id, picture) for _ in range(20)), return_exceptions=True
    )
    assert len([answer for answer in answers if isinstance(answer, pb.Order)]) <= 5
    [row] = await shop.sql(
        "SELECT count(*) AS open FROM orders WHERE user_id = %s AND status = 'pending'", user_id
    )
    assert row["open"] == 5


async def test_one_customer_keeps_so_many_pieces_from_others(shop: Shop) -> None:
    user_id, picture = uuid4(), await shop.product(stock=2500)
    unlimited = await shop.product(stock=None)
    first = await by_card(shop, user_id, picture, 60)
    fields = await refused(by_card(shop, user_id, picture, 41), CONFLICT, "TOO_MANY_PIECES")
    assert fields == {
        "product_id": str(picture),
        "limit": "100",
        "requested": "41",
        "reserved": "60",
        "open_order_ids": first.id,
    }
    await by_card(shop, user_id, picture, 40)
    await by_card(shop, user_id, unlimited, 900)
    await refused(by_card(shop, uuid4(), picture, 101), CONFLICT, "TOO_MANY_PIECES")
    assert await shop.stock(picture) == (2500, 100)
    await shop.cancel(user_id, first.id)
    await by_card(shop, user_id, picture, 60)


_FAILED = """
    WITH o AS (
        INSERT INTO orders (user_id, status, payment_method, total_cents, total_points, currency,
            idempotency_key, request_hash, failure_reason, created_at)
        SELECT %s, 'failed', 'points', 0, 50, 'usd', gen_random_uuid()::text, '', 'insufficient_points',
            now() - %s * interval '1 day'
        FROM generate_series(1, %s) RETURNING id, user_id),
    h AS (
        INSERT INTO order_history (order_id, user_id, to_status, actor, reason)
        SELECT id, user_id, 'failed', 'customer', 'insufficient_points' FROM o)
    INSERT INTO order_items (order_id, user_id, product_id, title, price_cents, price_points, quantity)
    SELECT id, user_id, %s, 'Picture', 500, 50, 1 FROM o RETURNING order_id"""


@pytest.mark.parametrize("method", [pb.PAYMENT_METHOD_POINTS, STRIPE])
async def test_so_many_checkouts_fail_within_a_day(shop: Shop, method: "pb.PaymentMethod.ValueType") -> None:
    user_id, picture = uuid4(), await shop.product()
    await shop.sql(_FAILED, user_id, 2, 50, picture)
    await shop.sql(_FAILED, user_id, 0, 99, picture)
    # One more may fail, and its order is named.
    fields = await refused(
        shop.place(user_id, {picture: 1000}, method=pb.PAYMENT_METHOD_POINTS),
        grpc.StatusCode.FAILED_PRECONDITION,
        "OUT_OF_STOCK",
    )
    assert (await shop.row(fields["order_id"]))["status"] == "failed"
    fields = await refused(
        shop.place(user_id, {picture: 1}, method=method), CONFLICT, "TOO_MANY_FAILED_CHECKOUTS"
    )
    assert fields == {"limit": "100"}


async def test_what_bought_nothing_is_forgotten_after_thirty_days(shop: Shop, database: Database) -> None:
    user_id, picture = uuid4(), await shop.product()
    [old] = await shop.sql(_FAILED, user_id, 31, 1, picture)
    [young] = await shop.sql(_FAILED, user_id, 29, 1, picture)
    await shop.sql(
        "INSERT INTO saga_runs (order_id, saga, user_id, status, step)"
        " VALUES (%s, 's/v1', %s, 'undone', 'x')",
        old["order_id"],
        user_id,
    )
    async with database.worker_sql() as connection:
        assert await purge_unbought(connection) >= 1
    left = await shop.sql("SELECT id FROM orders WHERE user_id = %s", user_id)
    assert [row["id"] for row in left] == [young["order_id"]]
    for table in ("order_history", "order_items", "saga_runs"):
        assert await shop.sql(f"SELECT 1 FROM {table} WHERE order_id = %s", old["order_id"]) == []


async def test_no_other_history_is_ever_forgotten(shop: Shop) -> None:
    user_id, picture = uuid4(), await shop.product()
    [young] = await shop.sql(_FAILED, user_id, 29, 1, picture)
    paid = await by_card(shop, user_id, picture)
    await shop.sql("UPDATE orders SET created_at = now() - interval '40 days' WHERE id = %s", paid.id)
    for order_id in (young["order_id"], paid.id):
        with pytest.raises(psycopg.errors.RestrictViolation):
            await shop.sql("DELETE FROM order_history WHERE order_id = %s", order_id)
    with pytest.raises(psycopg.errors.RestrictViolation):
        await shop.sql("TRUNCATE order_history")
