"""What can be bought."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db import FixedSql
from services.orders.models import product_inventory, products
from services.orders.rules import Offer


@dataclass(frozen=True, slots=True)
class Product:
    """A product as customers see it. `available` None: unlimited."""

    id: UUID
    title: str
    description: str
    type: str
    price_cents: int
    price_points: int
    currency: str
    active: bool
    available: int | None


_AVAILABLE = product_inventory.c.stock_quantity - product_inventory.c.reserved_quantity
# Product order is the one order in which stock rows are ever locked.
_LOCK_OFFERS = """
    SELECT p.id, p.title, p.price_cents, p.price_points, p.currency, p.active,
           i.stock_quantity - i.reserved_quantity
    FROM products p JOIN product_inventory i ON i.product_id = p.id
    WHERE p.id = ANY(%s) ORDER BY p.id FOR NO KEY UPDATE OF i"""


def _products() -> Select[tuple[object, ...]]:
    return select(
        products.c.id,
        products.c.title,
        products.c.description,
        products.c.type,
        products.c.price_cents,
        products.c.price_points,
        products.c.currency,
        products.c.active,
        _AVAILABLE.label("available"),
    ).join_from(products, product_inventory)


def _product(row: Row[tuple[object, ...]]) -> Product:
    return Product(**row._mapping)


async def list_products(connection: AsyncConnection, *, limit: int, after: UUID | None) -> Sequence[Product]:
    """Active products in the order they came in, `limit` of them behind the id `after`."""
    query = _products().where(products.c.active).order_by(products.c.id).limit(limit)
    if after is not None:
        query = query.where(products.c.id > after)
    return [_product(row) for row in await connection.execute(query)]


async def find_product(connection: AsyncConnection, product_id: UUID) -> Product | None:
    row = (await connection.execute(_products().where(products.c.id == product_id))).one_or_none()
    return None if row is None else _product(row)


async def lock_offers(connection: FixedSql, product_ids: Collection[UUID]) -> list[Offer]:
    """The products as they stand now, their stock rows locked in product order."""
    cursor = await connection.execute(_LOCK_OFFERS, (list(product_ids),))
    return [Offer(*row) for row in await cursor.fetchall()]
