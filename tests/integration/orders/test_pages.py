"""Pages end before they are too large for one message."""

from uuid import uuid4

from protos.orders.v1 import orders_pb2 as pb
from tests.integration.orders.shop import Shop

# Four bytes each.
_TITLE = "🦊" * 200


async def test_a_page_of_large_orders_ends_early_and_goes_on(shop: Shop) -> None:
    """70 orders of 100 lines with long titles are 6 MB; gRPC takes no message of more than 4 MiB."""
    user_id = uuid4()
    await shop.sql(
        "WITH p AS (INSERT INTO products"
        " (title, type, price_cents, price_points, currency, asset_key, active)"
        " SELECT %s, 'digital', 499, 50, 'usd', 'x.png', false FROM generate_series(1, 100) RETURNING id),"
        " o AS (INSERT INTO orders (user_id, status, payment_method, total_cents, total_points, currency,"
        " idempotency_key, request_hash, failure_reason)"
        " SELECT %s, 'failed', 'points', 0, 5000, 'usd', n::text, '', 'out_of_stock'"
        " FROM generate_series(1, 70) n RETURNING id, user_id),"
        " h AS (INSERT INTO order_history (order_id, user_id, to_status, actor, reason)"
        " SELECT id, user_id, 'failed', 'customer', 'out_of_stock' FROM o)"
        " INSERT INTO order_items (order_id, user_id, product_id, title, price_cents, price_points, quantity)"
        " SELECT o.id, o.user_id, p.id, %s, 499, 50, 1 FROM o, p",
        _TITLE,
        user_id,
        _TITLE,
    )
    seen: list[str] = []
    cursor, pages = "", 0
    while pages == 0 or cursor:
        answer = await shop.orders.ListOrders(
            pb.ListOrdersRequest(user_id=str(user_id), limit=100, cursor=cursor)
        )
        assert answer.ByteSize() < 3 * 1024 * 1024
        seen += [order.id for order in answer.items]
        cursor, pages = answer.next_cursor, pages + 1
    assert (len(seen), len(set(seen))) == (70, 70)
    assert pages > 1
