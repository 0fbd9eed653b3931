"""Reads of payments, and the locking reads by name."""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.payments.models import checkouts, points_packages
from services.payments.rules import Checkout, Package, Status

CHECKOUT_COLUMNS = (
    *(column for column in checkouts.c if column.name != "updated_at"),
    func.now().label("read_at"),
)
_PACKAGE_COLUMNS = [column for column in points_packages.c if column.name not in ("active", "created_at")]


def as_checkout(row: Row[Any]) -> Checkout:
    fields = dict(row._mapping)
    return Checkout(**fields | {"status": Status(fields["status"])})


async def list_packages(connection: AsyncConnection) -> list[Package]:
    """What is for sale, the cheapest first."""
    rows = await connection.execute(
        select(*_PACKAGE_COLUMNS)
        .where(points_packages.c.active)
        .order_by(points_packages.c.price_cents, points_packages.c.id)
    )
    return [Package(**row._mapping) for row in rows]


async def find_package(connection: AsyncConnection, package_id: str) -> Package | None:
    """A package that is for sale."""
    row = (
        await connection.execute(
            select(*_PACKAGE_COLUMNS).where(points_packages.c.active, points_packages.c.id == package_id)
        )
    ).one_or_none()
    return Package(**row._mapping) if row else None


async def find_checkout(connection: AsyncConnection, checkout_id: UUID) -> Checkout | None:
    return await _find(connection, checkouts.c.id == checkout_id)


async def find_order_checkout(connection: AsyncConnection, order_id: UUID) -> Checkout | None:
    return await _find(connection, checkouts.c.order_id == order_id)


async def lock_checkout(connection: AsyncConnection, checkout_id: UUID) -> Checkout | None:
    """The checkout with its row locked: whoever changes its state decides under this lock."""
    return await _find(connection, checkouts.c.id == checkout_id, lock=True)


async def _find(
    connection: AsyncConnection, condition: ColumnElement[bool], *, lock: bool = False
) -> Checkout | None:
    query = select(*CHECKOUT_COLUMNS).where(condition)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return as_checkout(row) if row else None
