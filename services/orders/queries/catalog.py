"""What can be bought, and what operators see of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from unicodedata import normalize
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.db import FixedSql
from services.orders.models import product_inventory, products
from services.orders.rules import UNBOUGHT, Offer


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


@dataclass(frozen=True, slots=True)
class StockedProduct(Product):
    """A product as operators see it. `stock_quantity` None: unlimited."""

    asset_key: str
    version: int
    created_at: datetime
    updated_at: datetime
    stock_quantity: int | None
    reserved_quantity: int


_AVAILABLE = (product_inventory.c.stock_quantity - product_inventory.c.reserved_quantity).label("available")
_STOCK = ("stock_quantity", "reserved_quantity")
_COLUMNS = [products.c[name] for name in Product.__dataclass_fields__ if name != "available"]
_OPERATORS_COLUMNS = [
    products.c[name] for name in StockedProduct.__dataclass_fields__ if name not in ("available", *_STOCK)
] + [product_inventory.c[name] for name in _STOCK]
# Ids do not sort by time: an operator's product has one that was made of the request's key.
_AS_THEY_CAME_IN = (products.c.created_at, products.c.id)
# Product order is the one order in which stock rows are ever locked.
# Not of what is unlimited, and so for good: buyers of that need not wait for each other.
# With it, and so at no round trip more, how often the customer failed within a day.
_LOCK_OFFERS = f"""
    SELECT (SELECT count(*) FROM (
            SELECT FROM orders WHERE user_id = %(user_id)s AND failure_reason IN {UNBOUGHT!r}
                AND created_at > now() - interval '1 day' LIMIT %(most_failures)s) AS failed),
           p.id, p.title, p.price_cents, p.price_points, p.currency, p.active,
           i.stock_quantity - i.reserved_quantity
    FROM products p LEFT JOIN (
        SELECT product_id, stock_quantity, reserved_quantity FROM product_inventory
        WHERE product_id = ANY(%(ids)s) AND stock_quantity IS NOT NULL
        ORDER BY product_id FOR NO KEY UPDATE) i ON i.product_id = p.id
    WHERE p.id = ANY(%(ids)s) ORDER BY p.id"""


def _products() -> Select[tuple[object, ...]]:
    return select(*_COLUMNS, _AVAILABLE).join_from(products, product_inventory)


def _stocked_products() -> Select[tuple[object, ...]]:
    return select(*_OPERATORS_COLUMNS, _AVAILABLE).join_from(products, product_inventory)


async def list_products(
    connection: AsyncConnection, *, limit: int, after: UUID | None, search: str = "", type: str = ""
) -> Sequence[Product]:
    """Active products in the order they came in, `limit` of them behind the product `after`. Empty `search`
    and `type` narrow nothing down."""
    query = _page(_products(), limit=limit, after=after, search=search).where(products.c.active)
    if type:
        query = query.where(products.c.type == type)
    return [Product(**row._mapping) for row in await connection.execute(query)]


async def find_products(connection: AsyncConnection, product_ids: Collection[UUID]) -> Sequence[Product]:
    """Those of the products that exist, retired ones too, in no order."""
    rows = await connection.execute(_products().where(products.c.id.in_(product_ids)))
    return [Product(**row._mapping) for row in rows]


async def list_all_products(
    connection: AsyncConnection, *, limit: int, after: UUID | None, search: str
) -> Sequence[StockedProduct]:
    """The same with retired products, for operators."""
    query = _page(_stocked_products(), limit=limit, after=after, search=search)
    return [StockedProduct(**row._mapping) for row in await connection.execute(query)]


async def find_stocked_product(connection: AsyncConnection, product_id: UUID) -> StockedProduct | None:
    row = (await connection.execute(_stocked_products().where(products.c.id == product_id))).one_or_none()
    return None if row is None else StockedProduct(**row._mapping)


async def lock_product(connection: AsyncConnection, product_id: UUID) -> StockedProduct | None:
    """The product with its row locked; its stock is not."""
    query = _stocked_products().where(products.c.id == product_id)
    row = (await connection.execute(query.with_for_update(of=products, key_share=True))).one_or_none()
    return None if row is None else StockedProduct(**row._mapping)


def _page(
    query: Select[tuple[object, ...]], *, limit: int, after: UUID | None, search: str
) -> Select[tuple[object, ...]]:
    if search:
        query = query.where(_contains(search))
    if after is not None:
        # Products are never deleted, so that the last one of a page is all that a cursor needs.
        last = select(*_AS_THEY_CAME_IN).where(products.c.id == after)
        query = query.where(tuple_(*_AS_THEY_CAME_IN) > last.scalar_subquery())
    return query.order_by(*_AS_THEY_CAME_IN).limit(limit)


def _contains(search: str) -> ColumnElement[bool]:
    """Whatever the case, by Unicode's rules and not by those of the cluster's locale."""
    escaped = normalize("NFC", search).replace("/", "//").replace("%", "/%").replace("_", "/_")
    wanted = func.casefold(literal(f"%{escaped}%").collate("pg_unicode_fast"))
    return func.casefold(products.c.title.collate("pg_unicode_fast")).like(wanted, escape="/")


async def lock_offers(
    connection: FixedSql, product_ids: Collection[UUID], *, user_id: UUID, most_failures: int
) -> tuple[list[Offer], int]:
    """The products as they stand now, their rows of limited stock locked in product order; and how many
    checkouts of the customer failed within a day, counted up to `most_failures`."""
    parameters = {"ids": list(product_ids), "user_id": user_id, "most_failures": most_failures}
    rows = await (await connection.execute(_LOCK_OFFERS.encode(), parameters)).fetchall()
    return [Offer(*row[1:]) for row in rows], rows[0][0] if rows else 0
