"""The packages that points are sold in."""

from collections.abc import Sequence

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.payments.models import points_packages
from services.payments.rules import SHOP_CURRENCY, Package

SAMPLE_PACKAGES = (
    Package(id="basic", name="Basic", points=100, price_cents=999, currency=SHOP_CURRENCY),
    Package(id="premium", name="Premium", points=550, price_cents=3999, currency=SHOP_CURRENCY),
    Package(id="pro", name="Pro", points=1200, price_cents=7999, currency=SHOP_CURRENCY),
)


async def add_packages(connection: AsyncConnection, packages: Sequence[Package]) -> None:
    """Adds packages that are not there; those that are keep what an operator made of them."""
    await connection.execute(
        insert(points_packages)
        .values(
            [
                {
                    "id": package.id,
                    "name": package.name,
                    "points": package.points,
                    "price_cents": package.price_cents,
                    "currency": package.currency,
                }
                for package in packages
            ]
        )
        .on_conflict_do_nothing()
    )
