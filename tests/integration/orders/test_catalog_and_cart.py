"""What can be bought, and the cart, over gRPC."""

import asyncio
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest

from protos.orders.v1 import orders_pb2 as pb
from tests.integration.orders.shop import Shop
from tests.integration.wallet.client import refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
REJECTED = grpc.StatusCode.FAILED_PRECONDITION
CONFLICT = grpc.StatusCode.ABORTED
NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def listed(shop: Shop, *, limit: int) -> list[pb.Product]:
    """Every product, page by page."""
    found: list[pb.Product] = []
    cursor = ""
    while True:
        page = await shop.catalog.ListProducts(pb.ListProductsRequest(limit=limit, cursor=cursor))
        assert len(page.items) <= limit
        found += page.items
        if not page.next_cursor:
            return found
        assert len(page.items) == limit
        cursor = page.next_cursor


async def test_pages_show_every_active_product_once_in_the_order_they_came_in(shop: Shop) -> None:
    hidden = await shop.product(active=False)
    newest = await shop.product()
    statement = "SELECT id FROM products WHERE active ORDER BY created_at, id"
    active = [str(row["id"]) for row in await shop.sql(statement)]
    for limit in (1, 7, len(active), 100):
        assert [product.id for product in await listed(shop, limit=limit)] == active
    assert active[-1] == str(newest)
    assert str(hidden) not in active


@pytest.mark.parametrize("limit", [-1, 101])
async def test_a_page_has_a_bounded_size(shop: Shop, limit: int) -> None:
    request = pb.ListProductsRequest(limit=limit)
    await refused(shop.catalog.ListProducts(request), INVALID, "INVALID_LIMIT")
    request = pb.ListProductsRequest(cursor="nonsense")
    await refused(shop.catalog.ListProducts(request), INVALID, "INVALID_CURSOR")


async def test_available_is_what_is_not_reserved(shop: Shop) -> None:
    product_id, unlimited = await shop.product(stock=10), await shop.product(stock=None)
    await shop.place(uuid4(), {product_id: 3, unlimited: 3}, method=pb.PAYMENT_METHOD_STRIPE)
    seen = (await shop.catalog.GetProduct(pb.GetProductRequest(product_id=str(product_id)))).product
    assert (seen.available, seen.HasField("available")) == (7, True)
    seen = (await shop.catalog.GetProduct(pb.GetProductRequest(product_id=str(unlimited)))).product
    assert not seen.HasField("available")
    missing = pb.GetProductRequest(product_id=str(uuid4()))
    await refused(shop.catalog.GetProduct(missing), NOT_FOUND, "PRODUCT_NOT_FOUND")


async def merge(shop: Shop, user_id: UUID, *lines: tuple[UUID, int]) -> pb.Cart:
    items = [pb.CartLine(product_id=str(id), quantity=quantity) for id, quantity in lines]
    return (await shop.carts.MergeCart(pb.MergeCartRequest(user_id=str(user_id), items=items))).cart


async def test_every_change_raises_the_version_and_a_merge_keeps_the_larger_quantity(shop: Shop) -> None:
    user_id, one, other = uuid4(), await shop.product(), await shop.product()
    assert await shop.cart(user_id) == (0, {})
    await shop.put(user_id, one, 5)
    assert await shop.cart(user_id) == (1, {one: 5})
    await shop.put(user_id, one, 2)
    assert await shop.cart(user_id) == (2, {one: 2})
    await merge(shop, user_id, (one, 1), (other, 1), (other, 3))
    assert await shop.cart(user_id) == (3, {one: 2, other: 4})
    await merge(shop, user_id, (one, 7), (other, 1))
    assert await shop.cart(user_id) == (4, {one: 7, other: 4})
    request = pb.RemoveCartItemRequest(user_id=str(user_id), product_id=str(one))
    await shop.carts.RemoveCartItem(request)
    assert await shop.cart(user_id) == (5, {other: 4})
    await shop.carts.ClearCart(pb.ClearCartRequest(user_id=str(user_id)))
    assert await shop.cart(user_id) == (6, {})


async def test_a_stale_version_changes_nothing(shop: Shop) -> None:
    user_id, product_id = uuid4(), await shop.product()
    await shop.put(user_id, product_id, 1, expected_version=0)
    await shop.put(user_id, product_id, 2, expected_version=1)
    for stale in (0, 1, 3):
        change = shop.put(user_id, product_id, 3, expected_version=stale)
        assert await refused(change, CONFLICT, "CART_CHANGED") == {"version": "2"}
    clear = pb.ClearCartRequest(user_id=str(user_id), expected_version=1)
    await refused(shop.carts.ClearCart(clear), CONFLICT, "CART_CHANGED")
    assert await shop.cart(user_id) == (2, {product_id: 2})


async def test_who_expects_no_cart_is_told_of_one_that_a_twin_is_creating(shop: Shop) -> None:
    user_id, product_id = uuid4(), await shop.product()
    async with await psycopg.AsyncConnection.connect(shop.admin_url) as twin:
        await twin.execute("INSERT INTO carts (user_id) VALUES (%s)", (user_id,))
        change = asyncio.ensure_future(shop.put(user_id, product_id, 1, expected_version=0))
        await shop.until(
            "SELECT 1 FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))", twin.info.backend_pid
        )
    assert await refused(change, CONFLICT, "CART_CHANGED") == {"version": "1"}
    assert await shop.cart(user_id) == (1, {})


async def test_a_cart_says_what_changed_since_a_line_was_put_in(shop: Shop) -> None:
    user_id, product_id = uuid4(), await shop.product(stock=3, points=50, cents=500)
    cart = await shop.put(user_id, product_id, 3)
    [item] = cart.items
    assert (item.price_changed, item.available) == (False, True)
    assert (cart.total_cents, cart.total_points, cart.currency) == (1500, 150, "usd")
    await shop.sql("UPDATE products SET price_cents = 600 WHERE id = %s", product_id)
    await shop.sql("UPDATE product_inventory SET reserved_quantity = 1 WHERE product_id = %s", product_id)
    cart = (await shop.carts.GetCart(pb.GetCartRequest(user_id=str(user_id)))).cart
    [item] = cart.items
    assert (item.price_changed, item.available, item.price_cents) == (True, False, 600)
    for_money = await shop.product(points=0)
    assert (await shop.put(user_id, for_money, 1)).total_points == 0
    # Signing in does not acknowledge the price, putting the line in again does.
    assert (await merge(shop, user_id, (product_id, 1))).items[0].price_changed
    assert not (await shop.put(user_id, product_id, 2)).items[0].price_changed


async def test_a_cart_holds_a_hundred_lines(shop: Shop) -> None:
    user_id = uuid4()
    products = [await shop.product() for _ in range(101)]
    await merge(shop, user_id, *((product_id, 1) for product_id in products[:99]))
    await shop.put(user_id, products[99], 1)
    await refused(shop.put(user_id, products[100], 1), INVALID, "TOO_MANY_LINES")
    await refused(merge(shop, user_id, (products[100], 1)), INVALID, "TOO_MANY_LINES")
    version, lines = await shop.cart(user_id)
    assert (version, len(lines)) == (2, 100)


async def test_what_cannot_be_put_in_says_why(shop: Shop) -> None:
    user_id, retired, product_id = uuid4(), await shop.product(active=False), await shop.product()
    await refused(shop.put(user_id, retired, 1), REJECTED, "PRODUCT_INACTIVE")
    await refused(shop.put(user_id, uuid4(), 1), NOT_FOUND, "PRODUCT_NOT_FOUND")
    for quantity in (0, -1, 1001, 2**31 - 1):
        await refused(shop.put(user_id, product_id, quantity), INVALID, "INVALID_QUANTITY")
    await refused(merge(shop, user_id, (product_id, 600), (product_id, 600)), INVALID, "INVALID_QUANTITY")
    assert await shop.cart(user_id) == (0, {})


async def test_carts_and_orders_of_others_are_not_seen(shop: Shop) -> None:
    owner, other, product_id = uuid4(), uuid4(), await shop.product()
    await shop.put(owner, product_id, 1)
    order = await shop.place(owner, method=pb.PAYMENT_METHOD_STRIPE)
    assert await shop.cart(other) == (0, {})
    await refused(shop.get(other, order.id), NOT_FOUND, "ORDER_NOT_FOUND")
    await refused(shop.cancel(other, order.id), NOT_FOUND, "ORDER_NOT_FOUND")
    theirs = await shop.orders.ListOrders(pb.ListOrdersRequest(user_id=str(other)))
    assert list(theirs.items) == []
    assert (await shop.get(owner, order.id)).id == order.id


async def test_orders_are_listed_newest_first_page_by_page(shop: Shop) -> None:
    user_id, product_id = uuid4(), await shop.product()
    placed = [
        (await shop.place(user_id, {product_id: 1}, method=pb.PAYMENT_METHOD_STRIPE)).id for _ in range(5)
    ]
    seen: list[str] = []
    cursor = ""
    while len(seen) < 5:
        request = pb.ListOrdersRequest(user_id=str(user_id), limit=2, cursor=cursor)
        page = await shop.orders.ListOrders(request)
        seen += [order.id for order in page.items]
        cursor = page.next_cursor
    assert (seen, cursor) == (placed[::-1], "")
