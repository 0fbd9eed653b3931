"""Buying with points: what each outcome leaves in every table, and what a repeated key hears."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest

from protos.events.v1 import events_pb2
from protos.orders.v1 import orders_pb2 as pb
from services.chassis.errors import DomainError
from services.chassis.grpc_client import as_domain_error
from services.orders.points_saga import CAPTURE, PLACE_WITH_POINTS
from tests.integration.orders.shop import STRIPE, RunningWallet, Shop
from tests.integration.wallet.client import refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
REJECTED = grpc.StatusCode.FAILED_PRECONDITION
CONFLICT = grpc.StatusCode.ABORTED
COMPLETED = pb.ORDER_STATUS_COMPLETED

TABLES = ("order_items", "order_history", "stock_reservations", "saga_runs", "download_grants", "mails")


async def rows_of(shop: Shop, order_id: str) -> dict[str, int]:
    """How many rows an order left where."""
    counts = {}
    for table in (*TABLES, "stock_movements"):
        [row] = await shop.sql(f"SELECT count(*) FROM {table} WHERE order_id = %s", order_id)
        counts[table] = row["count"]
    return counts | {"outbox": len(await shop.facts(order_id))}


async def orders_of(shop: Shop, user_id: UUID) -> list[dict[str, Any]]:
    return await shop.sql("SELECT * FROM orders WHERE user_id = %s ORDER BY id", user_id)


async def outcome(call: Any) -> "pb.Order | DomainError":
    try:
        order: pb.Order = await call
    except grpc.aio.AioRpcError as error:
        return as_domain_error(error)
    return order


async def test_buyers_of_what_is_unlimited_wait_for_nobody(shop: Shop) -> None:
    limited, unlimited = await shop.product(stock=10, points=50), await shop.product(stock=None, points=20)
    user_id = await shop.wallet.user(200)
    async with await psycopg.AsyncConnection.connect(shop.admin_url) as somebody:
        await somebody.execute(
            "SELECT 1 FROM product_inventory WHERE product_id = ANY(%s) FOR UPDATE", ([limited, unlimited],)
        )
        assert (await shop.place(user_id, {unlimited: 1})).status == COMPLETED
        await refused(shop.place(user_id, {limited: 1}), grpc.StatusCode.UNAVAILABLE, "BUSY")


async def test_a_bought_order_leaves_exactly_its_rows(shop: Shop) -> None:
    limited, unlimited = await shop.product(stock=10, points=50), await shop.product(stock=None, points=20)
    user_id = await shop.wallet.user(200)
    order = await shop.place(user_id, {limited: 3, unlimited: 1}, email="ada@example.com")
    assert (order.status, order.total_points, order.total_cents) == (COMPLETED, 170, 0)
    run = await shop.run_ends(order.id, "done")
    assert (run["saga"], run["step"], run["attempts"]) == (PLACE_WITH_POINTS, CAPTURE, 0)
    assert (run["lease_token"], run["last_error"], run["undo_reason"]) == (None, None, None)
    assert await rows_of(shop, order.id) == {
        "order_items": 2,
        "order_history": 2,
        "stock_reservations": 1,
        "saga_runs": 1,
        "download_grants": 2,
        "mails": 1,
        "stock_movements": 1,
        "outbox": 1,
    }
    assert await shop.history(order.id) == [
        (None, "pending", "customer", "placed"),
        ("pending", "completed", "saga", "points_reserved"),
    ]
    [reserved] = await shop.sql("SELECT * FROM stock_reservations WHERE order_id = %s", order.id)
    assert (reserved["product_id"], reserved["quantity"], reserved["status"]) == (limited, 3, "taken")
    [moved] = await shop.sql("SELECT * FROM stock_movements WHERE order_id = %s", order.id)
    assert (moved["product_id"], moved["delta"], moved["reason"], moved["actor"]) == (
        limited,
        -3,
        "sold",
        "saga",
    )
    assert await shop.stock(limited) == (7, 0)
    assert await shop.facts(order.id) == [
        events_pb2.OrderCompleted(
            order_id=order.id,
            user_id=str(user_id),
            payment_method="points",
            total_cents=0,
            total_points=170,
            currency="usd",
        )
    ]
    row = await shop.row(order.id)
    assert (row["cart_version"], row["failure_reason"]) == (None, None)
    assert b"ada" not in row["email"]
    assert await shop.wallet.balance(user_id) == (30, 0, 0)


async def test_what_is_read_back_is_what_was_answered(shop: Shop) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(100)
    answered = await shop.place(user_id, {product_id: 2})
    read = await shop.get(user_id, answered.id)
    for order in (answered, read):
        order.ClearField("created_at")
    assert answered == read
    assert [(item.title, item.price_points, item.quantity) for item in read.items] == [("Picture", 50, 2)]


async def test_too_few_points_leave_one_failed_order_and_the_key_hears_the_same_again(shop: Shop) -> None:
    product_id, user_id, key = await shop.product(stock=10), await shop.wallet.user(60), str(uuid4())
    first = await refused(
        shop.place(user_id, {product_id: 2}, key=key, email="a@example.com"), REJECTED, "INSUFFICIENT_POINTS"
    )
    [order] = await orders_of(shop, user_id)
    assert first == {"needed": "100", "available": "60", "order_id": str(order["id"])}
    assert (order["status"], order["failure_reason"]) == ("failed", "insufficient_points")
    run = await shop.run_ends(str(order["id"]), "undone")
    assert run["lease_token"] is None
    assert await rows_of(shop, str(order["id"])) == {
        "order_items": 1,
        "order_history": 2,
        "stock_reservations": 1,
        "saga_runs": 1,
        "download_grants": 0,
        "mails": 0,
        "stock_movements": 0,
        "outbox": 1,
    }
    [reserved] = await shop.sql("SELECT status FROM stock_reservations WHERE order_id = %s", order["id"])
    assert reserved["status"] == "released"
    assert await shop.stock(product_id) == (10, 0)
    assert await shop.wallet.balance(user_id) == (60, 0, 0)
    # The same, even when there would be enough by now.
    await shop.wallet.grant(user_id, 1000)
    again = shop.place(user_id, {product_id: 2}, key=key, email="a@example.com")
    assert await refused(again, REJECTED, "INSUFFICIENT_POINTS") == first
    assert len(await orders_of(shop, user_id)) == 1


async def test_an_order_out_of_stock_fails_at_once_and_reserves_nothing(shop: Shop) -> None:
    scarce, plenty = await shop.product(stock=1), await shop.product(stock=10)
    user_id, key = await shop.wallet.user(500), str(uuid4())
    first = await refused(shop.place(user_id, {plenty: 1, scarce: 2}, key=key), REJECTED, "OUT_OF_STOCK")
    [order] = await orders_of(shop, user_id)
    assert first == {"product_id": str(scarce), "available": "1", "order_id": str(order["id"])}
    assert (order["status"], order["failure_reason"]) == ("failed", "out_of_stock")
    assert await rows_of(shop, str(order["id"])) == {
        "order_items": 2,
        "order_history": 1,
        "stock_reservations": 0,
        "saga_runs": 0,
        "download_grants": 0,
        "mails": 0,
        "stock_movements": 0,
        "outbox": 0,
    }
    assert [await shop.stock(product_id) for product_id in (scarce, plenty)] == [(1, 0), (10, 0)]
    await shop.restock(scarce, 5)
    again = shop.place(user_id, {plenty: 1, scarce: 2}, key=key)
    assert await refused(again, REJECTED, "OUT_OF_STOCK") == first
    assert len(await orders_of(shop, user_id)) == 1


async def test_another_body_under_a_known_key_is_refused(shop: Shop) -> None:
    product_id, user_id, key = await shop.product(), await shop.wallet.user(500), str(uuid4())
    order = await shop.place(user_id, {product_id: 1}, key=key)
    other = shop.place(user_id, {product_id: 2}, key=key)
    await refused(other, INVALID, "IDEMPOTENCY_KEY_REUSED")
    assert (await shop.place(user_id, {product_id: 1}, key=key)).id == order.id
    # A key belongs to its user.
    stranger = await shop.wallet.user(500)
    assert (await shop.place(stranger, {product_id: 1}, key=key)).id != order.id


async def test_a_rejection_without_an_order_keeps_its_key_to_its_body(shop: Shop) -> None:
    product_id, user_id, key = await shop.product(active=False), await shop.wallet.user(500), str(uuid4())
    first = await refused(shop.place(user_id, {product_id: 1}, key=key), REJECTED, "PRODUCT_INACTIVE")
    again = shop.place(user_id, {product_id: 1}, key=key)
    assert await refused(again, REJECTED, "PRODUCT_INACTIVE") == first == {"product_id": str(product_id)}
    other = shop.place(user_id, {product_id: 2}, key=key)
    await refused(other, INVALID, "IDEMPOTENCY_KEY_REUSED")
    assert await orders_of(shop, user_id) == []
    [kept] = await shop.sql("SELECT * FROM idempotency_keys WHERE user_id = %s", user_id)
    assert (kept["key"], kept["rejection"]["reason"], kept["resource_id"]) == (key, "PRODUCT_INACTIVE", None)


async def test_an_empty_cart_cannot_be_bought(shop: Shop) -> None:
    user_id = await shop.wallet.user(500)
    await refused(shop.place(user_id), REJECTED, "CART_EMPTY")
    product_id = await shop.product()
    await shop.put(user_id, product_id, 1)
    assert (await shop.place(user_id)).status == COMPLETED
    await refused(shop.place(user_id), REJECTED, "CART_EMPTY")


async def test_a_known_key_gives_its_order_whatever_became_of_the_product(shop: Shop) -> None:
    product_id, user_id, key = await shop.product(), await shop.wallet.user(500), str(uuid4())
    order = await shop.place(user_id, {product_id: 1}, key=key)
    for change in ("active = false", "active = true, price_points = 0", "price_cents = 100000000"):
        await shop.sql(f"UPDATE products SET {change} WHERE id = %s", product_id)
        assert (await shop.place(user_id, {product_id: 1}, key=key)).id == order.id


@pytest.mark.parametrize(
    ("product", "reason"), [({"points": 0}, "NOT_FOR_POINTS"), ({"active": False}, "PRODUCT_INACTIVE")]
)
async def test_what_cannot_be_bought_with_points_leaves_no_order(
    shop: Shop, product: dict[str, Any], reason: str
) -> None:
    product_id, user_id = await shop.product(**product), uuid4()
    await refused(shop.place(user_id, {product_id: 1}), REJECTED, reason)
    await refused(shop.place(user_id, {uuid4(): 1}), grpc.StatusCode.NOT_FOUND, "PRODUCT_NOT_FOUND")
    assert await orders_of(shop, user_id) == []


async def test_twenty_copies_of_one_request_are_one_order(shop: Shop) -> None:
    product_id, user_id, key = await shop.product(stock=10), await shop.wallet.user(500), str(uuid4())
    copies = (outcome(shop.place(user_id, {product_id: 1}, key=key)) for _ in range(20))
    answers = await asyncio.gather(*copies)
    placed = {answer.id for answer in answers if isinstance(answer, pb.Order)}
    refusals = {answer.reason for answer in answers if isinstance(answer, DomainError)}
    [order] = await orders_of(shop, user_id)
    assert placed == {str(order["id"])}
    assert refusals <= {"REQUEST_IN_FLIGHT"}
    await shop.run_ends(str(order["id"]), "done")
    assert await shop.wallet.balance(user_id) == (450, 0, 0)
    assert await shop.stock(product_id) == (9, 0)


async def test_twenty_checkouts_of_one_cart_buy_it_once(shop: Shop) -> None:
    product_id, user_id = await shop.product(stock=10), await shop.wallet.user(500)
    await shop.put(user_id, product_id, 2)
    answers = await asyncio.gather(*(outcome(shop.place(user_id)) for _ in range(20)))
    placed = {answer.id for answer in answers if isinstance(answer, pb.Order)}
    refusals = {answer.reason for answer in answers if isinstance(answer, DomainError)}
    [order] = await orders_of(shop, user_id)
    assert placed == {str(order["id"])}
    assert refusals <= {"CART_EMPTY", "REQUEST_IN_FLIGHT"}
    await shop.run_ends(str(order["id"]), "done")
    assert await shop.wallet.balance(user_id) == (400, 0, 0)
    assert await shop.stock(product_id) == (8, 0)
    assert (await shop.cart(user_id))[1] == {}


async def test_a_cart_is_not_bought_with_both_methods_at_once(shop: Shop) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    await shop.put(user_id, product_id, 1)
    order = await shop.place(user_id, method=STRIPE)
    refusal = await refused(shop.place(user_id), CONFLICT, "CHECKOUT_IN_PROGRESS")
    assert refusal == {"order_id": order.id}


async def test_explicit_items_leave_the_cart_alone(shop: Shop) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    await shop.put(user_id, product_id, 2)
    assert (await shop.place(user_id, {product_id: 2})).status == COMPLETED
    assert await shop.cart(user_id) == (1, {product_id: 2})


async def test_a_bought_cart_is_empty_and_its_version_raised(shop: Shop) -> None:
    one, other, user_id = await shop.product(), await shop.product(), await shop.wallet.user(500)
    await shop.put(user_id, one, 2)
    await shop.put(user_id, other, 1)
    order = await shop.place(user_id)
    assert {UUID(item.product_id): item.quantity for item in order.items} == {one: 2, other: 1}
    assert await shop.cart(user_id) == (3, {})
    assert Counter(row["status"] for row in await orders_of(shop, user_id)) == {"completed": 1}


async def test_nobody_without_an_address_gets_a_mail(shop: Shop) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    order = await shop.place(user_id, {product_id: 1})
    await shop.run_ends(order.id, "done")
    assert (await rows_of(shop, order.id))["mails"] == 0


async def test_while_wallet_says_nothing_the_order_is_pending_then_it_completes(
    shop: Shop, wallet: RunningWallet
) -> None:
    product_id, user_id, key = await shop.product(stock=10), await shop.wallet.user(500), str(uuid4())
    with wallet.paused():
        placing = asyncio.create_task(shop.place(user_id, {product_id: 2}, key=key))
        [row] = await shop.until("SELECT id FROM orders WHERE user_id = %s", user_id)
        twin = await refused(shop.place(user_id, {product_id: 2}, key=key), CONFLICT, "REQUEST_IN_FLIGHT")
        order = await placing
        assert twin == {"order_id": order.id} == {"order_id": str(row["id"])}
        assert order.status == pb.ORDER_STATUS_PENDING
        assert await shop.stock(product_id) == (10, 2)
    assert (await shop.becomes(order.id, "completed"))["total_points"] == 100
    await shop.run_ends(order.id, "done")
    assert (await shop.place(user_id, {product_id: 2}, key=key)).id == order.id
    assert await shop.stock(product_id) == (8, 0)
    # Reserved under the same key, however often it was asked for.
    assert await shop.wallet.balance(user_id) == (400, 0, 0)


async def test_a_points_order_that_waits_for_wallet_can_be_cancelled(
    shop: Shop, wallet: RunningWallet
) -> None:
    product_id, user_id = await shop.product(stock=10), await shop.wallet.user(500)
    with wallet.paused():
        order = await shop.place(user_id, {product_id: 2})
        assert (await shop.cancel(user_id, order.id)).status == pb.ORDER_STATUS_PENDING
    await shop.becomes(order.id, "cancelled")
    await shop.run_ends(order.id, "undone")
    assert await shop.stock(product_id) == (10, 0)
    assert await shop.wallet.balance(user_id) == (500, 0, 0)
    assert (await shop.cancel(user_id, order.id)).status == pb.ORDER_STATUS_CANCELLED


async def test_a_completed_order_cannot_be_cancelled(shop: Shop) -> None:
    product_id, user_id = await shop.product(), await shop.wallet.user(500)
    order = await shop.place(user_id, {product_id: 1})
    refusal = await refused(shop.cancel(user_id, order.id), CONFLICT, "ORDER_NOT_CANCELLABLE")
    assert refusal == {"order_id": order.id, "status": "completed"}
    await refused(shop.cancel(uuid4(), order.id), grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")


async def test_a_hold_of_no_order_is_released_when_it_is_due_and_not_before(shop: Shop) -> None:
    """Orders was restored from an older copy, say: only what it has written down may hold points."""
    user_id, unknown = await shop.wallet.user(550), uuid4()
    await shop.wallet.reserve(user_id, unknown, 200)
    held = "SELECT 1 FROM holds WHERE order_id = %s AND status = %s"
    assert await shop.wallet.sql(held, unknown, "held")
    assert await shop.sql("SELECT 1 FROM saga_runs WHERE order_id = %s", unknown) == []
    await shop.wallet.sql("UPDATE holds SET due_at = now() WHERE order_id = %s", unknown)
    await shop.wallet.until(held, unknown, "released")
    assert await shop.wallet.balance(user_id) == (550, 0, 0)
    run = await shop.run_ends(str(unknown), "undone")
    assert (run["saga"], run["undo_reason"]) == ("release_hold/v1", "no_such_order")
