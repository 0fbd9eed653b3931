"""What one customer may hold without paying: open orders by card, pieces that those keep from others, and
checkouts that failed.

Looked at in the transaction that places an order. Orders by card take turns at their customer's cart, so that
no two of them see the same place free; orders with points hold nothing that they do not pay at once, and take
no lock here.
"""

from dataclasses import dataclass
from uuid import UUID

from services.chassis.db import FixedSql
from services.orders import errors

# The customer's cart is the row where all their orders by card wait; it is locked before any stock.
_TAKE_TURNS = """
    INSERT INTO carts (user_id) VALUES (%s)
    ON CONFLICT (user_id) DO UPDATE SET updated_at = carts.updated_at"""
_OPEN = """
    SELECT id FROM orders WHERE user_id = %s AND status = 'pending' AND payment_method = 'stripe'
    ORDER BY id LIMIT %s"""
_TOO_MANY_PIECES = """
    SELECT w.product_id, w.quantity, coalesce(sum(r.quantity), 0)::bigint
    FROM unnest(%(ids)s::uuid[], %(quantities)s::int[]) AS w (product_id, quantity)
        JOIN product_inventory i ON i.product_id = w.product_id AND i.stock_quantity IS NOT NULL
        LEFT JOIN stock_reservations r
            ON r.order_id = ANY(%(open)s) AND r.product_id = w.product_id AND r.status = 'held'
    GROUP BY w.product_id, w.quantity
    HAVING w.quantity + coalesce(sum(r.quantity), 0) > %(most)s
    ORDER BY w.product_id LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one customer. Pieces are of one product of limited stock; failed checkouts of the last day."""

    open_orders: int
    reserved_pieces: int
    failed_checkouts: int


async def check_card_order(
    connection: FixedSql, bounds: Bounds, *, user_id: UUID, quantities: dict[UUID, int]
) -> None:
    """Raises TOO_MANY_OPEN_ORDERS, TOO_MANY_PIECES. An order whose payment is on its way counts no more."""
    await connection.execute(_TAKE_TURNS, (user_id,))
    rows = await (await connection.execute(_OPEN, (user_id, bounds.open_orders))).fetchall()
    opened: list[UUID] = [row[0] for row in rows]
    if len(opened) >= bounds.open_orders:
        raise errors.too_many_open_orders(limit=bounds.open_orders, opened=opened)
    parameters = {
        "ids": list(quantities),
        "quantities": list(quantities.values()),
        "open": opened,
        "most": bounds.reserved_pieces,
    }
    row = await (await connection.execute(_TOO_MANY_PIECES, parameters)).fetchone()
    if row is not None:
        product_id, requested, reserved = row
        raise errors.too_many_pieces(
            product_id,
            limit=bounds.reserved_pieces,
            requested=requested,
            reserved=reserved,
            opened=opened,
        )
