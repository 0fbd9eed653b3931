"""The catalogue through Valkey: what it shows, how soon it shows what changed, and that nobody needs it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from valkey.asyncio import Valkey

from protos.orders.v1 import orders_pb2 as pb
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer
from services.chassis.db import Database
from services.chassis.relay import Relay
from services.chassis.workers import background
from services.orders import events
from services.orders.api.catalog import CatalogService
from services.orders.api.catalog_operator import CatalogOperatorService
from services.orders.catalog_cache import CatalogCache
from services.orders.fulfilment import Terms
from tests.integration.orders.shop import query
from tests.support.servers import Servers

GENERATION = "aishop:catalog:1:generation"
# Longer than any test: what is gone was deleted.
FOR_EVER = 600.0


class Catalog:
    """The catalogue's services around one cache, and the server behind it."""

    def __init__(self, database: Database, cache: CatalogCache, server: Valkey, admin_url: str) -> None:
        self.cache = cache
        self.server = server
        self.admin_url = admin_url
        self._customers = CatalogService(database, cache)
        self._operators = CatalogOperatorService(database, cache, publish=lambda: None)

    async def create(self, **more: Any) -> str:
        """A product of ten pieces."""
        fields: dict[str, Any] = {"title": "A picture", "type": "digital", "price_cents": 500, "stock": 10}
        fields |= {"asset_key": "x", "actor": "an operator", "reason": "a test"}
        product = pb.CreateProductRequest(product_id=str(uuid4()), **(fields | more))
        return (await self._operators.CreateProduct(product, None)).product.product.id

    async def change(self, product_id: str, **changes: Any) -> None:
        change = pb.ChangeProductRequest(product_id=product_id, actor="x", reason="a test", **changes)
        await self._operators.ChangeProduct(change, None)

    async def behind_its_back(self, product_id: str, price_cents: int) -> None:
        """A change that tells nobody."""
        statement = "UPDATE products SET price_cents = %s WHERE id = %s"
        await query(self.admin_url, statement, price_cents, product_id)

    async def product(self, product_id: str) -> pb.Product:
        return (await self._customers.GetProduct(pb.GetProductRequest(product_id=product_id), None)).product

    async def found(self, search: str) -> list[pb.Product]:
        request = pb.ListProductsRequest(search=search)
        return list((await self._customers.ListProducts(request, None)).items)

    async def price(self, product_id: str) -> int:
        return (await self.product(product_id)).price_cents

    async def keys(self) -> set[bytes]:
        return set(await self.server.keys("aishop:catalog:*"))


@asynccontextmanager
async def catalog_with(
    database: Database, servers: Servers, *, ttl_seconds: float = FOR_EVER, patience_seconds: float = 10.0
) -> AsyncIterator[Catalog]:
    """Patient, since a busy machine must not turn into a cache that is away."""
    cache = CatalogCache(
        SecretStr(servers.valkey_url), ttl_seconds=ttl_seconds, patience_seconds=patience_seconds
    )
    server = Valkey.from_url(servers.valkey_url)
    await server.flushdb()
    try:
        async with background(cache.run()):
            yield Catalog(database, cache, server, servers.admin_url("orders"))
    finally:
        await cache.close()
        await server.aclose()


@pytest.fixture
async def catalog(database: Database, migrated: Servers) -> AsyncIterator[Catalog]:
    async with catalog_with(database, migrated) as catalog:
        yield catalog


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(15):
        while not await condition():
            await asyncio.sleep(0.01)


# --- what it shows ----------------------------------------------------------------------------------


async def test_products_and_pages_come_from_the_cache_until_they_lapse(
    database: Database, migrated: Servers
) -> None:
    async with catalog_with(database, migrated, ttl_seconds=1.0) as catalog:
        title = f"Lapsing {uuid4()}"
        product_id = await catalog.create(title=title)
        assert (await catalog.price(product_id), len(await catalog.found(title))) == (500, 1)
        await catalog.behind_its_back(product_id, 600)
        assert (await catalog.price(product_id), (await catalog.found(title))[0].price_cents) == (500, 500)

        async def has_lapsed() -> bool:
            return await catalog.price(product_id) == 600

        await eventually(has_lapsed)
        assert [product.price_cents for product in await catalog.found(title)] == [600]


async def test_a_page_from_the_cache_is_the_page_from_the_database(catalog: Catalog) -> None:
    title = f"Page {uuid4()}"
    ids = [await catalog.create(title=title, description=str(number)) for number in range(3)]
    first = await catalog.found(title)
    assert [product.id for product in first] == ids
    assert await catalog.found(title) == first
    await catalog.server.delete(f"aishop:catalog:1:product:{ids[1]}")
    assert await catalog.found(title) == first


@pytest.mark.parametrize("seen", ["alone", "on a page"])
async def test_stock_that_was_moved_shows_alone_and_on_every_page(catalog: Catalog, seen: str) -> None:
    title = f"Sold {uuid4()}"
    product_id = await catalog.create(title=title)

    async def available() -> int:
        if seen == "alone":
            return (await catalog.product(product_id)).available
        return (await catalog.found(title))[0].available

    assert await available() == 10
    await query(
        catalog.admin_url,
        "UPDATE product_inventory SET reserved_quantity = 4 WHERE product_id = %s",
        product_id,
    )
    assert await available() == 10
    catalog.cache.note_products([UUID(product_id)])

    async def is_fresh() -> bool:
        return await available() == 6

    await eventually(is_fresh)


async def test_a_retired_product_leaves_the_pages_and_stays_to_be_read(catalog: Catalog) -> None:
    title = f"Retired {uuid4()}"
    product_id = await catalog.create(title=title)
    assert len(await catalog.found(title)) == 1
    # Committed, and nothing deleted yet; then its stock was moved.
    await query(catalog.admin_url, "UPDATE products SET active = false WHERE id = %s", product_id)
    await catalog.cache.forget_products([UUID(product_id)])
    assert await catalog.found(title) == []
    assert not (await catalog.product(product_id)).active
    await catalog.change(product_id, active=True)
    assert len(await catalog.found(title)) == 1


# --- how soon it shows what changed -----------------------------------------------------------------


async def test_an_operator_sees_the_change_with_its_answer(catalog: Catalog) -> None:
    product_id = await catalog.create()
    assert await catalog.price(product_id) == 500
    await catalog.change(product_id, price_cents=600)
    assert await catalog.price(product_id) == 600


async def test_the_event_shows_a_change_of_whoever_did_not_live_to_tell(
    catalog: Catalog, database: Database, migrated: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing lapses here, and the request itself forgets nothing: what empties the cache is the event."""
    bus = Bus(SecretStr(migrated.nats_url), name="orders-test", stream="ORDERS")
    relay = Relay(
        database_url=SecretStr(migrated.url("orders", "worker")), bus=bus, source="orders", poll_seconds=0.02
    )
    terms = Terms(grant_days=30, downloads=5, reissues=3, link_seconds=900)
    subscription = next(
        each
        for each in events.subscriptions(terms, forget_catalogue=catalog.cache.note_catalogue)
        if each.durable == "orders__product"
    )
    consumer = Consumer(
        subscription, bus=bus, database=database, after_commit=lambda: None, ack_wait_seconds=10
    )
    product_id = await catalog.create()

    async def is_shown() -> bool:
        return await catalog.price(product_id) == 600

    async def dies() -> None:
        pass

    async with background(bus.run(), relay.run(), consumer.run()):
        await eventually(lambda: _is_quiet(migrated))
        assert await catalog.price(product_id) == 500
        monkeypatch.setattr(catalog.cache, "forget_catalogue", dies)
        await catalog.change(product_id, price_cents=600)
        await eventually(is_shown)


async def _is_quiet(servers: Servers) -> bool:
    """Every event was sent, and the consumer has none of the product's left."""
    unsent = await query(
        servers.admin_url("orders"),
        "SELECT 1 FROM outbox o LEFT JOIN inbox i ON i.message_id = o.id AND i.consumer = 'orders__product'"
        " WHERE o.subject = 'orders.product.changed' AND i.message_id IS NULL",
    )
    return not unsent


async def test_what_a_slow_reader_writes_after_a_change_counts_for_nobody(catalog: Catalog) -> None:
    product_id = UUID(await catalog.create())
    has_read, may_write = asyncio.Event(), asyncio.Event()

    async def slowly() -> pb.Product:
        has_read.set()
        await may_write.wait()
        return pb.Product(id=str(product_id), price_cents=500)

    slow = asyncio.create_task(catalog.cache.product(product_id, slowly))
    await has_read.wait()
    await catalog.change(str(product_id), price_cents=600)
    assert await catalog.price(str(product_id)) == 600
    may_write.set()
    assert (await slow).price_cents == 500
    assert await catalog.price(str(product_id)) == 600


async def test_what_a_slow_reader_saw_is_shown_no_longer_than_if_it_had_been_quick(
    database: Database, migrated: Servers
) -> None:
    async with catalog_with(database, migrated, ttl_seconds=30) as catalog:
        product_id, began = UUID(await catalog.create()), time.monotonic()

        async def slowly() -> pb.Product:
            await asyncio.to_thread(time.sleep, 0.3)
            return pb.Product(id=str(product_id))

        await catalog.cache.product(product_id, slowly)
        left_ms = await catalog.server.pttl(f"aishop:catalog:1:product:{product_id}")
        assert 0 < left_ms <= 29_700
        assert began + 30 - time.monotonic() >= left_ms / 1000 - 0.01
    async with catalog_with(database, migrated, ttl_seconds=0.2) as catalog:
        await catalog.cache.product(product_id, slowly)
        assert await catalog.keys() == {GENERATION.encode()}


# --- that nobody needs it ---------------------------------------------------------------------------


async def test_without_an_address_everything_comes_from_the_database(
    database: Database, migrated: Servers
) -> None:
    cache = CatalogCache(None)
    service = CatalogService(database, cache)
    cache.note_catalogue()
    await cache.forget_products([uuid4()])
    assert (await service.ListProducts(pb.ListProductsRequest(limit=3), None)).items
    await cache.close()


async def test_while_valkey_is_away_the_database_answers_and_it_is_said_once(
    catalog: Catalog, migrated: Servers
) -> None:
    product_id = await catalog.create()
    with capture_logs() as logs:
        migrated.stack.hold("valkey")
        try:
            for price in (600, 700, 800):
                await catalog.behind_its_back(product_id, price)
                assert await catalog.price(product_id) == price
                assert await catalog.found("A picture")
        finally:
            migrated.stack.release("valkey")

        async def is_kept_again() -> bool:
            await catalog.price(product_id)
            return f"aishop:catalog:1:product:{product_id}".encode() in await catalog.keys()

        await eventually(is_kept_again)
    assert [entry["event"] for entry in logs] == ["catalog_cache.away", "catalog_cache.back"]


async def test_when_valkey_stands_still_one_waits_for_a_moment_and_the_others_not_at_all(
    database: Database, migrated: Servers
) -> None:
    async with catalog_with(database, migrated, patience_seconds=0.1) as catalog:
        await _stand_still(catalog)


async def _stand_still(catalog: Catalog) -> None:
    product_id = await catalog.create()
    assert await catalog.price(product_id) == 500
    await catalog.server.client_pause(1500)
    began = time.monotonic()
    await catalog.behind_its_back(product_id, 600)
    for _ in range(20):
        assert await catalog.price(product_id) == 600
    assert time.monotonic() - began < 1
    # It is not asked now; what is to be deleted is deleted when it is.
    await catalog.change(product_id, price_cents=700)

    async def is_deleted() -> bool:
        return not await catalog.server.exists(GENERATION)

    await eventually(is_deleted)
    assert await catalog.price(product_id) == 700


async def test_when_valkey_is_full_it_answers_and_keeps_nothing_more(catalog: Catalog) -> None:
    kept, other = await catalog.create(), await catalog.create()
    assert await catalog.price(kept) == 500
    with capture_logs() as logs:
        async with full(catalog.server):
            await catalog.behind_its_back(kept, 600)
            for _ in range(3):
                # Still cached, and still read from the database.
                assert (await catalog.price(kept), await catalog.price(other)) == (500, 500)
            # Deleting takes no room.
            await catalog.change(kept, price_cents=700)
            assert (await catalog.price(kept), await catalog.price(other)) == (700, 500)
    assert [(entry["event"], entry["does_not"]) for entry in logs] == [("catalog_cache.away", "store")]


@asynccontextmanager
async def full(server: Valkey) -> AsyncIterator[None]:
    await server.config_set("maxmemory-policy", "noeviction")
    await server.config_set("maxmemory", "1")
    try:
        yield
    finally:
        await server.config_set("maxmemory", "64mb")
        await server.config_set("maxmemory-policy", "allkeys-lru")


@pytest.mark.parametrize("garbage", ["nothing", "noise", "no message", "no text"])
async def test_garbage_is_read_past(catalog: Catalog, garbage: str) -> None:
    title = f"Garbage {uuid4()}"
    product_id = await catalog.create(title=title)
    for _ in range(2):
        assert (await catalog.price(product_id), len(await catalog.found(title))) == (500, 1)
        generation = await catalog.server.get(GENERATION)
        for key in await catalog.keys():
            await _spoil(catalog.server, key, garbage, generation)
    assert (await catalog.price(product_id), len(await catalog.found(title))) == (500, 1)


async def _spoil(server: Valkey, key: bytes, garbage: str, generation: bytes) -> None:
    """The generation itself, too, unless it must stay for a value to be looked at."""
    if garbage == "no text":
        await server.delete(key)
        # Its annotations are those of the client that does not await.
        untyped: Any = server
        await untyped.sadd(key, "a set")
    elif garbage != "no message":
        await server.set(key, b"" if garbage == "nothing" else b"\xff" * 40)
    elif key != GENERATION.encode():
        await server.set(key, generation + b"\xff\xff")


async def test_more_than_is_worth_remembering_voids_everything(catalog: Catalog) -> None:
    product_id = await catalog.create()
    assert await catalog.price(product_id) == 500
    await catalog.behind_its_back(product_id, 600)
    await catalog.cache.forget_products([uuid4() for _ in range(6000)])
    assert await catalog.price(product_id) == 600
