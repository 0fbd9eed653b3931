"""The packages and plans that points are sold in."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.payments.models import plans, points_packages
from services.payments.rules import SHOP_CURRENCY, Package, Plan

SAMPLE_PACKAGES = (
    Package(id="basic", name="Basic", points=100, price_cents=999, currency=SHOP_CURRENCY),
    Package(id="premium", name="Premium", points=550, price_cents=3999, currency=SHOP_CURRENCY),
    Package(id="pro", name="Pro", points=1200, price_cents=7999, currency=SHOP_CURRENCY),
)


SAMPLE_PLANS = (
    Plan(
        id="monthly", name="Monthly", points=300, price_cents=1999, currency=SHOP_CURRENCY, interval="month"
    ),
    Plan(id="yearly", name="Yearly", points=4000, price_cents=19999, currency=SHOP_CURRENCY, interval="year"),
)


async def add_packages(connection: AsyncConnection, packages: Sequence[Package]) -> None:
    """Adds packages that are not there; those that are keep what an operator made of them."""
    rows = [asdict(package) for package in packages]
    await connection.execute(insert(points_packages).values(rows).on_conflict_do_nothing())


async def add_plans(connection: AsyncConnection, added: Sequence[Plan]) -> None:
    """Adds plans that are not there; those that are keep what an operator made of them."""
    await connection.execute(insert(plans).values([asdict(plan) for plan in added]).on_conflict_do_nothing())
