"""Changes of the cart. Each raises the version under the cart's row lock."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import NotFound, Rejected
from services.orders import errors
from services.orders.models import cart_items, carts, products
from services.orders.rules import MAX_LINES


async def merge_cart(
    connection: AsyncConnection,
    *,
    user_id: UUID,
    quantities: Mapping[UUID, int],
    expected_version: int | None,
) -> Mapping[UUID, str]:
    """Adds a signed-out visitor's lines; of a product in both, the larger quantity stays, and the price last
    seen. A product that is not sold (any more) is in no other's way: returns why each such was left out."""
    left_out: dict[UUID, str] = {}
    await _lock_cart(connection, user_id, expected_version)
    for product_id, quantity in sorted(quantities.items()):
        try:
            await _put(connection, user_id, product_id, quantity, keep_larger=True)
        except (NotFound, Rejected) as error:
            left_out[product_id] = error.reason
    await _check_size(connection, user_id)
    return left_out


async def set_cart_item(
    connection: AsyncConnection,
    *,
    user_id: UUID,
    product_id: UUID,
    quantity: int,
    expected_version: int | None,
) -> None:
    """Puts a line in, or changes its quantity."""
    await _lock_cart(connection, user_id, expected_version)
    await _put(connection, user_id, product_id, quantity, keep_larger=False)
    await _check_size(connection, user_id)


async def remove_cart_item(
    connection: AsyncConnection, *, user_id: UUID, product_id: UUID, expected_version: int | None
) -> None:
    """Takes a line out; a line that is not there is no error."""
    await _lock_cart(connection, user_id, expected_version)
    await connection.execute(
        delete(cart_items).where(cart_items.c.user_id == user_id, cart_items.c.product_id == product_id)
    )


async def clear_cart(connection: AsyncConnection, *, user_id: UUID, expected_version: int | None) -> None:
    await _lock_cart(connection, user_id, expected_version)
    await connection.execute(delete(cart_items).where(cart_items.c.user_id == user_id))


async def _lock_cart(connection: AsyncConnection, user_id: UUID, expected_version: int | None) -> None:
    """Creates the cart when there is none, raises its version, and refuses a stale one."""
    raised = await connection.execute(
        update(carts)
        .where(carts.c.user_id == user_id)
        .values(version=carts.c.version + 1, updated_at=func.now())
        .returning(carts.c.version)
    )
    version = raised.scalar_one_or_none()
    if version is None:
        # A twin may have created it meanwhile.
        created = await connection.execute(
            insert(carts)
            .values(user_id=user_id)
            .on_conflict_do_update(index_elements=[carts.c.user_id], set_={"version": carts.c.version + 1})
            .returning(carts.c.version)
        )
        version = created.scalar_one()
    if expected_version is not None and expected_version != version - 1:
        raise errors.cart_changed(version - 1)


async def _put(
    connection: AsyncConnection, user_id: UUID, product_id: UUID, quantity: int, *, keep_larger: bool
) -> None:
    product = (
        await connection.execute(
            select(products.c.price_cents, products.c.price_points, products.c.active).where(
                products.c.id == product_id
            )
        )
    ).one_or_none()
    if product is None:
        raise errors.product_not_found(product_id)
    if not product.active:
        raise errors.product_inactive(product_id)
    line = insert(cart_items).values(
        user_id=user_id,
        product_id=product_id,
        quantity=quantity,
        price_cents=product.price_cents,
        price_points=product.price_points,
    )
    new = line.excluded
    changes: dict[str, Any] = {
        "quantity": new.quantity,
        "price_cents": new.price_cents,
        "price_points": new.price_points,
    }
    if keep_larger:
        changes = {"quantity": func.greatest(cart_items.c.quantity, new.quantity)}
    await connection.execute(
        line.on_conflict_do_update(
            index_elements=[cart_items.c.user_id, cart_items.c.product_id], set_=changes
        )
    )


async def _check_size(connection: AsyncConnection, user_id: UUID) -> None:
    count = await connection.scalar(
        select(func.count()).select_from(cart_items).where(cart_items.c.user_id == user_id)
    )
    if count is not None and count > MAX_LINES:
        raise errors.too_many_lines(MAX_LINES)
