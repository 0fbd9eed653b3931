"""The cart with today's prices, and what of it can be bought."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db import FixedSql
from services.orders.models import cart_items, carts, product_inventory, products

_LOCK = "SELECT version FROM carts WHERE user_id = %s FOR UPDATE"
_LINES = "SELECT product_id, quantity FROM cart_items WHERE user_id = %s"


@dataclass(frozen=True, slots=True)
class CartItem:
    """One line with the product as it stands today. `available` None: unlimited."""

    product_id: UUID
    quantity: int
    title: str
    price_cents: int
    price_points: int
    currency: str
    seen_price_cents: int
    seen_price_points: int
    active: bool
    available: int | None
    # Put in by the transaction that reads it.
    is_new: bool

    @property
    def price_changed(self) -> bool:
        return (self.price_cents, self.price_points) != (self.seen_price_cents, self.seen_price_points)

    @property
    def is_available(self) -> bool:
        return self.active and (self.available is None or self.available >= self.quantity)


@dataclass(frozen=True, slots=True)
class Cart:
    version: int
    items: tuple[CartItem, ...]

    @property
    def has_begun(self) -> bool:
        """Whether it was empty before the transaction that reads it."""
        return bool(self.items) and all(item.is_new for item in self.items)


async def get_cart(connection: AsyncConnection, user_id: UUID) -> Cart:
    """Version 0 and no items for a user who never had a cart."""
    version = await connection.scalar(select(carts.c.version).where(carts.c.user_id == user_id))
    rows = await connection.execute(
        select(
            cart_items.c.product_id,
            cart_items.c.quantity,
            products.c.title,
            products.c.price_cents,
            products.c.price_points,
            products.c.currency,
            cart_items.c.price_cents.label("seen_price_cents"),
            cart_items.c.price_points.label("seen_price_points"),
            products.c.active,
            (product_inventory.c.stock_quantity - product_inventory.c.reserved_quantity).label("available"),
            (cart_items.c.created_at == func.now()).label("is_new"),
        )
        .join_from(cart_items, products)
        .join(product_inventory, product_inventory.c.product_id == products.c.id)
        .where(cart_items.c.user_id == user_id)
        .order_by(cart_items.c.created_at, cart_items.c.product_id)
    )
    return Cart(version or 0, tuple(CartItem(**row._mapping) for row in rows))


async def lock_contents(connection: FixedSql, user_id: UUID) -> tuple[int, list[tuple[UUID, int]]]:
    """The cart's version and (product, quantity) lines, with the cart locked.

    Two statements: the lines must be read after the lock was granted. In one, they would come from
    before, and a cart that was bought while we waited would be bought again.
    """
    cart = await (await connection.execute(_LOCK, (user_id,))).fetchone()
    lines = await (await connection.execute(_LINES, (user_id,))).fetchall()
    return (cart[0] if cart else 0), [(product_id, quantity) for product_id, quantity in lines]
