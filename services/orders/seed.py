"""The sample catalogue: pictures to buy, and their files, put in once. `python -m services.orders seed`."""

import asyncio
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert

from services.chassis.db import Database
from services.orders.commands.stock import open_stock
from services.orders.models import products
from services.orders.pictures import draw
from services.orders.rules import SHOP_CURRENCY
from services.orders.settings import OrdersSeedSettings
from services.orders.storage import AssetStore

_STOCK = 5_000

# Title, what it shows, cents, points (0: for money only), pieces (None: unlimited).
_PICTURES: tuple[tuple[str, str, int, int, int | None], ...] = (
    ("Harbour at Dawn", "Fishing boats in pink mist, before the first gull", 499, 50, _STOCK),
    ("Paper Lanterns", "A river of lights on a summer night", 799, 80, _STOCK),
    ("Glass Forest", "Birches drawn as if blown from green glass", 999, 100, None),
    ("Tin Astronaut", "A wind-up explorer on a kitchen table", 1299, 130, _STOCK),
    ("The Cartographer", "An old hand inking a coast that is not there", 1499, 150, None),
    ("Night Market", "Steam, neon and forty umbrellas", 1999, 200, _STOCK),
    ("Salt Desert", "A caravan reflected in a finger of water", 2499, 250, None),
    ("Clockwork Finch", "Brass feathers, ruby eye, one missing gear", 2999, 300, _STOCK),
    ("Winter Tram", "Line 7, empty, snow to the windows", 3499, 350, None),
    ("Coral Cathedral", "A reef with stained-glass fish", 3999, 400, _STOCK),
    ("Lighthouse Keeper", "Portrait by the light of the lamp", 4499, 450, None),
    ("Origami Fleet", "Folded ships on a real storm", 4999, 500, _STOCK),
    ("Study of Rain", "Limited print, a thousand pieces", 5999, 600, 1_000),
    ("Orchid Machine", "Limited print, five hundred pieces", 7999, 800, 500),
    ("The Long Table", "Limited print, one hundred pieces", 9999, 1000, 100),
    ("First Light", "For collectors: sold for money only", 14999, 0, 25),
    ("Observatory", "For collectors: sold for money only", 19999, 0, 10),
)


def _product_id(number: int) -> UUID:
    """Fixed version 7 ids, so that a second run finds the first one's rows."""
    return UUID(f"01920000-0000-7000-8000-{number:012d}")


def _asset_key(number: int) -> str:
    return f"samples/{number:02d}.png"


def run(settings: OrdersSeedSettings) -> None:
    """Puts in what is missing; what an operator changed since stays as it is."""
    asyncio.run(_insert_products(settings))
    store = AssetStore(settings)
    for number, (title, *_) in enumerate(_PICTURES, start=1):
        if not store.has(_asset_key(number)):
            store.put(_asset_key(number), draw(title, number))


async def _insert_products(settings: OrdersSeedSettings) -> None:
    url = settings.database_worker_url
    database = Database(
        app_url=url, worker_url=url, pool_size=1, name="orders-seed", pooling=settings.database_pooling
    )
    async with database.worker() as connection:
        for number, (title, description, price_cents, price_points, stock) in enumerate(_PICTURES, start=1):
            product_id = _product_id(number)
            inserted = await connection.execute(
                insert(products)
                .values(
                    id=product_id,
                    title=title,
                    description=description,
                    price_cents=price_cents,
                    price_points=price_points,
                    currency=SHOP_CURRENCY,
                    asset_key=_asset_key(number),
                )
                .on_conflict_do_nothing()
                .returning(products.c.id)
            )
            if inserted.first() is not None:
                await open_stock(connection, product_id, stock, actor="seed")
    await database.dispose()
