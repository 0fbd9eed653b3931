"""What operators count of orders: how carts become paid orders, by which method, why not, and what is sold.

An order belongs to the range in which it was placed, and is counted as it stands now. Paid is what was
completed, whether or not it went back later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.analytics import Range, statement

Counts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Counted:
    """Each by the names of GetAnalyticsResponse's messages."""

    conversion: Counts
    methods: Sequence[Counts]
    failures: Sequence[Counts]
    # None when no order was paid that way.
    cents: Counts | None
    points: Counts | None
    top_products: Sequence[Counts]


# Carts have one row for each customer and no id of their own: all of them are looked at.
_COUNT = statement("""
    WITH placed AS MATERIALIZED (
        SELECT id, user_id, status, payment_method, failure_reason, total_points,
            -- What was paid, where promotion codes took something off.
            coalesce(paid_cents, total_cents) AS total_cents, total_cents AS price_cents,
            status IN ('completed', 'refunded') AS is_paid
        FROM orders
        WHERE id >= :first_id AND id < :end_id AND created_at >= :since AND created_at < :until),
    paid AS (SELECT * FROM placed WHERE is_paid),
    customers AS (
        SELECT user_id, bool_or(has_ordered) AS has_ordered, bool_or(has_paid) AS has_paid FROM (
            SELECT user_id, true AS has_ordered, is_paid AS has_paid FROM placed
            UNION ALL
            SELECT user_id, false, false FROM carts WHERE updated_at >= :since AND updated_at < :until
        ) AS seen GROUP BY user_id),
    conversion AS (
        SELECT * FROM (
            SELECT count(*) AS customers_with_cart,
                count(*) FILTER (WHERE has_ordered) AS customers_ordering,
                count(*) FILTER (WHERE has_paid) AS customers_paying
            FROM customers) AS by_customer
        CROSS JOIN (
            SELECT count(*) AS orders_placed,
                count(*) FILTER (WHERE is_paid) AS orders_paid,
                count(*) FILTER (WHERE status = 'failed') AS orders_failed,
                count(*) FILTER (WHERE status = 'cancelled') AS orders_cancelled
            FROM placed) AS by_order),
    methods AS (
        SELECT method, count(id) AS placed, count(id) FILTER (WHERE is_paid) AS paid,
            coalesce(sum(total_cents) FILTER (WHERE is_paid), 0) AS cents,
            coalesce(sum(total_points) FILTER (WHERE is_paid), 0) AS points
        FROM unnest(ARRAY['points', 'stripe']) AS known (method)
            LEFT JOIN placed ON payment_method = method
        GROUP BY method),
    failures AS (
        SELECT status, failure_reason AS reason, count(*) AS orders
        FROM placed WHERE status IN ('failed', 'cancelled')
        GROUP BY status, failure_reason ORDER BY orders DESC, status, reason LIMIT 50),
    totals AS (
        SELECT payment_method,
            percentile_disc(0.5) WITHIN GROUP (ORDER BY total_cents + total_points) AS median,
            percentile_disc(0.9) WITHIN GROUP (ORDER BY total_cents + total_points) AS p90,
            max(total_cents + total_points) AS max
        FROM paid GROUP BY payment_method),
    sold AS (
        SELECT i.product_id, sum(i.quantity - i.refunded_quantity) AS pieces,
            coalesce(sum(greatest(0, i.price_cents * i.quantity * paid.total_cents
                    / nullif(paid.price_cents, 0) - i.refunded_cents))
                FILTER (WHERE payment_method = 'stripe'), 0) AS cents,
            coalesce(sum(i.price_points * i.quantity - i.refunded_points)
                FILTER (WHERE payment_method = 'points'), 0) AS points
        FROM paid JOIN order_items i ON i.order_id = paid.id
        GROUP BY i.product_id
        HAVING sum(i.quantity - i.refunded_quantity) > 0
        ORDER BY pieces DESC, cents DESC, points DESC, i.product_id LIMIT 10),
    top_products AS (
        SELECT sold.product_id, p.title, sold.pieces, sold.cents, sold.points
        FROM sold JOIN products p ON p.id = sold.product_id)
    SELECT (SELECT to_jsonb(conversion) FROM conversion) AS conversion,
        (SELECT jsonb_agg(methods ORDER BY method) FROM methods) AS methods,
        (SELECT coalesce(jsonb_agg(failures ORDER BY orders DESC, status, reason), '[]') FROM failures)
            AS failures,
        (SELECT to_jsonb(totals) - 'payment_method' FROM totals WHERE payment_method = 'stripe') AS cents,
        (SELECT to_jsonb(totals) - 'payment_method' FROM totals WHERE payment_method = 'points') AS points,
        (SELECT coalesce(jsonb_agg(top_products ORDER BY pieces DESC, cents DESC, points DESC, product_id),
            '[]') FROM top_products) AS top_products""")


async def count_orders(connection: AsyncConnection, within: Range) -> Counted:
    return Counted(**(await connection.execute(_COUNT, within.parameters())).one()._mapping)
