"""The packages and plans that points are sold in."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.minimum_charge import minimum_charge_cents
from services.payments import errors
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


def _refuse_too_cheap(priced: Sequence[Package | Plan]) -> None:
    """What Stripe would refuse to charge is refused where its price is set."""
    for each in priced:
        minimum = minimum_charge_cents(each.currency)
        if each.price_cents < minimum:
            raise errors.price_below_minimum(each.id, price_cents=each.price_cents, minimum=minimum)


async def add_packages(connection: AsyncConnection, packages: Sequence[Package]) -> None:
    """Adds packages that are not there; those that are keep what an operator made of them. Raises
    PRICE_BELOW_MINIMUM."""
    _refuse_too_cheap(packages)
    rows = [asdict(package) for package in packages]
    await connection.execute(insert(points_packages).values(rows).on_conflict_do_nothing())


async def add_plans(connection: AsyncConnection, added: Sequence[Plan]) -> None:
    """Adds plans that are not there; those that are keep what an operator made of them. Raises
    PRICE_BELOW_MINIMUM."""
    _refuse_too_cheap(added)
    await connection.execute(insert(plans).values([asdict(plan) for plan in added]).on_conflict_do_nothing())
