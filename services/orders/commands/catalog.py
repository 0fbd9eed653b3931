"""What operators do to the catalogue. Each change is audited and emitted in its transaction.

Frozen lines of orders stay as they are, and so do open orders of a product that is retired.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.events.v1 import events_pb2
from services.chassis import audit_log, outbox
from services.orders import errors
from services.orders.commands.stock import open_stock
from services.orders.models import products
from services.orders.queries.catalog import StockedProduct, find_stocked_product, lock_product
from services.orders.rules import SHOP_CURRENCY, ProductType, check_asset_key

CHANGED = "orders.product.changed"


@dataclass(frozen=True, slots=True)
class NewProduct:
    """`price_points` 0: not for points. `asset_key`: a digital product's file."""

    id: UUID
    title: str
    description: str
    type: ProductType
    price_cents: int
    price_points: int
    asset_key: str


async def create_product(
    connection: AsyncConnection,
    new: NewProduct,
    *,
    stock: int | None,
    request_hash: bytes,
    actor: str,
    reason: str,
) -> StockedProduct:
    """The product as it stands now; created once under its id. `stock` None: unlimited, for good."""
    check_asset_key(new.asset_key, new.type)
    row = asdict(new) | {"currency": SHOP_CURRENCY, "request_hash": request_hash}
    created = await connection.scalar(
        insert(products).values(row).on_conflict_do_nothing().returning(products.c.id)
    )
    if created is None:
        return await _same_product(connection, new.id, request_hash)
    await open_stock(connection, new.id, stock, actor=actor, note=reason)
    await _emit_changed(connection, new.id, version=1)
    await audit_log.append(
        connection,
        actor=actor,
        action="product.created",
        subject=str(new.id),
        reason=reason,
        details=asdict(new) | {"id": str(new.id), "stock": stock},
    )
    return await _found(connection, new.id)


async def change_product(
    connection: AsyncConnection,
    product_id: UUID,
    changes: Mapping[str, object],
    *,
    expected_version: int | None,
    actor: str,
    reason: str,
) -> StockedProduct:
    """Sets these columns and raises the version; nothing happens when they stand so already."""
    product = await lock_product(connection, product_id)
    if product is None:
        raise errors.product_not_found(product_id)
    if expected_version not in (None, product.version):
        raise errors.product_changed(product.version)
    check_asset_key(str(changes.get("asset_key", product.asset_key)), ProductType(product.type))
    before = {name: getattr(product, name) for name in changes}
    if before == changes:
        return product
    await connection.execute(
        update(products)
        .where(products.c.id == product_id)
        .values(**changes, version=product.version + 1, updated_at=func.now())
    )
    await _emit_changed(connection, product_id, version=product.version + 1)
    await audit_log.append(
        connection,
        actor=actor,
        action="product.changed",
        subject=str(product_id),
        reason=reason,
        details={"before": before, "after": dict(changes)},
    )
    return await _found(connection, product_id)


async def _same_product(connection: AsyncConnection, product_id: UUID, request_hash: bytes) -> StockedProduct:
    """What stands under this id; Conflict when another request created it."""
    theirs = await connection.scalar(select(products.c.request_hash).where(products.c.id == product_id))
    if theirs != request_hash:
        raise errors.product_exists(product_id)
    return await _found(connection, product_id)


async def _found(connection: AsyncConnection, product_id: UUID) -> StockedProduct:
    product = await find_stocked_product(connection, product_id)
    assert product is not None, "products are never deleted"
    return product


async def emit_restocked(connection: AsyncConnection, product_id: UUID) -> None:
    """More of a product can be bought than the catalogue shows."""
    version = await connection.scalar(select(products.c.version).where(products.c.id == product_id))
    assert version is not None, "products are never deleted"
    await _emit_changed(connection, product_id, version=version)


async def _emit_changed(connection: AsyncConnection, product_id: UUID, *, version: int) -> None:
    event = events_pb2.ProductChanged(product_id=str(product_id), version=version)
    await outbox.emit(connection, subject=CHANGED, event=event)
