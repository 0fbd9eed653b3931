"""The catalogue in Valkey, for whoever looks around; no decision reads it.

A page is kept as its products' ids and each product by itself, so that a sale voids one product on all pages.
A value is its generation's 16 bytes and a serialized message; it counts while the shop's generation is the
same, and for five seconds at most.

    a product was changed   the generation is deleted, all values are void, and who reads next draws another
                            one; a reader that was slow writes under the old one. Deleted by the request that
                            made the change, and again by orders.product.changed, which no crash prevents.
                            (Drawn, not counted: Valkey may evict a counter, and would begin again at 1.)
    stock came back         the same, by orders.product.changed, which the refund writes
    stock was moved         its products are deleted, in batches after the commit; what is missed so, or is
                            written by a reader who looked just before the commit, lapses

Valkey is never waited for: what it does not answer in a tenth of a second comes from the database, and for a
second it is not asked again. What could not be deleted meanwhile is deleted when it is back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar
from uuid import UUID, uuid4

from google.protobuf.message import DecodeError, Message
from pydantic import SecretStr
from valkey.asyncio import BlockingConnectionPool, Valkey
from valkey.exceptions import ValkeyError

from protos.orders.v1 import orders_pb2 as pb
from services.chassis.breaker import Breaker
from services.chassis.outages import lasting
from services.chassis.workers import Worker

# Its number rises when values are to be read otherwise than by the release before.
_PREFIX = "aishop:catalog:1:"
_GENERATION = "generation"
_GENERATION_BYTES = 16
_TTL_SECONDS = 5.0
_PATIENCE_SECONDS = 0.1
_LOOK_AGAIN_SECONDS = 1.0
_CONNECTIONS = 16
# Sales that come in bursts are told of together; whoever bought has not heard of it before.
_LINGER_SECONDS = 0.003
# More than this is not worth remembering one by one.
_MOST_TOUCHED = 5_000

_Message = TypeVar("_Message", bound=Message)
_Answer = TypeVar("_Answer")


class CatalogCache:
    """`run()` is a background task of the service. Without a URL everything is read from the database."""

    def __init__(
        self,
        url: SecretStr | None,
        *,
        ttl_seconds: float = _TTL_SECONDS,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._client = None if url is None else _client(url.get_secret_value())
        self._ttl_seconds = ttl_seconds
        self._patience_seconds = patience_seconds
        self._answering = Breaker("catalog_cache", does="answer")
        # Apart: one that is full still answers.
        self._storing = Breaker("catalog_cache", does="store")
        self._touched: set[str] = set()
        self._worker = Worker(
            "catalog_cache", self._forget, tick_seconds=_LOOK_AGAIN_SECONDS, linger_seconds=_LINGER_SECONDS
        )

    @lasting
    async def run(self) -> None:
        await self._worker.run()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def product(self, product_id: UUID, load: Callable[[], Awaitable[pb.Product]]) -> pb.Product:
        """The product as it is cached, else as `load` reads it, which may raise."""
        key = _product_key(product_id)
        generation, [found] = await self._look([key])
        product = _decoded(pb.Product, found)
        if product is None:
            began = time.monotonic()
            product = await load()
            await self._keep(generation, began, {key: product})
        return product

    async def page(
        self,
        name: str,
        load: Callable[[], Awaitable[pb.ListProductsResponse]],
        load_products: Callable[[Collection[UUID]], Awaitable[Iterable[pb.Product]]],
    ) -> pb.ListProductsResponse:
        """A page of the list. `load` reads all of it, `load_products` some of it that is still on sale."""
        key = f"page:{name}"
        generation, [found] = await self._look([key])
        listed = _decoded(pb.ListProductsResponse, found)
        began = time.monotonic()
        if generation is None or listed is None:
            whole = await load()
            ids = [pb.Product(id=product.id) for product in whole.items]
            bare = pb.ListProductsResponse(items=ids, next_cursor=whole.next_cursor)
            await self._keep(generation, began, {key: bare} | _by_key(whole.items))
            return whole
        known = await self._known(generation, [product.id for product in listed.items])
        missing = [UUID(product_id) for product_id, product in known.items() if product is None]
        if missing:
            read = {product.id: product for product in await load_products(missing)}
            await self._keep(generation, began, _by_key(read.values()))
            known |= read
        items = [product for product in known.values() if product is not None]
        return pb.ListProductsResponse(items=items, next_cursor=listed.next_cursor)

    async def forget_catalogue(self) -> None:
        """A product was changed, and that is committed."""
        self.note_catalogue()
        await self._forget()

    async def forget_products(self, product_ids: Collection[UUID]) -> None:
        """The stock of these products was moved, and that is committed."""
        self.note_products(product_ids)
        await self._forget()

    def note_catalogue(self) -> None:
        """The same, for whoever must not wait."""
        self._note([_GENERATION])

    def note_products(self, product_ids: Collection[UUID]) -> None:
        """The same, for whoever must not wait."""
        self._note(_product_key(product_id) for product_id in product_ids)

    def _note(self, keys: Iterable[str]) -> None:
        if self._client is None:
            return
        self._touched.update(keys)
        if len(self._touched) > _MOST_TOUCHED:
            self._touched = {_GENERATION}
        self._worker.wake()

    async def _forget(self) -> bool:
        if not self._touched:
            return False
        touched, self._touched = self._touched, set()
        deleted = await self._ask(
            self._answering, lambda client: client.unlink(*(_PREFIX + key for key in touched))
        )
        if deleted is None:
            self._touched |= touched
        return False

    async def _look(self, keys: list[str]) -> tuple[bytes | None, list[bytes | None]]:
        """The generation under which to keep what is read from now on (None: keep nothing), and what of the
        keys is cached of it."""
        nothing: list[bytes | None] = [None] * len(keys)
        answer = await self._ask(
            self._answering, lambda client: client.mget([_PREFIX + key for key in (_GENERATION, *keys)])
        )
        if answer is None:
            return None, nothing
        generation, *values = answer
        if generation is None or len(generation) != _GENERATION_BYTES:
            return await self._draw_generation(), nothing
        return generation, [_of_generation(generation, value) for value in values]

    async def _draw_generation(self) -> bytes | None:
        drawn = uuid4().bytes
        kept = await self._ask(self._storing, lambda client: client.set(_PREFIX + _GENERATION, drawn))
        return drawn if kept else None

    async def _known(self, generation: bytes, product_ids: list[str]) -> dict[str, pb.Product | None]:
        if not product_ids:
            return {}
        values = await self._ask(
            self._answering,
            lambda client: client.mget([_PREFIX + _product_key(product_id) for product_id in product_ids]),
        )
        if values is None:
            return dict.fromkeys(product_ids)
        found = [_decoded(pb.Product, _of_generation(generation, value)) for value in values]
        return dict(zip(product_ids, found, strict=True))

    async def _keep(self, generation: bytes | None, began: float, messages: Mapping[str, Message]) -> None:
        """Whoever read for long has less time left: nothing is shown longer than it may be old."""
        left_ms = int((self._ttl_seconds - (time.monotonic() - began)) * 1000)
        if generation is None or left_ms <= 0:
            return

        async def store(client: Valkey) -> Any:
            pipeline = client.pipeline(transaction=False)
            for key, message in messages.items():
                pipeline.set(_PREFIX + key, generation + message.SerializeToString(), px=left_ms)
            return await pipeline.execute()

        await self._ask(self._storing, store)

    async def _ask(self, breaker: Breaker, command: Callable[[Valkey], Awaitable[_Answer]]) -> _Answer | None:
        """The answer; None when there is no Valkey, or it does not do its part in time."""
        if self._client is None or not breaker.lets_through():
            return None
        try:
            async with asyncio.timeout(self._patience_seconds):
                answer = await command(self._client)
        except (ValkeyError, OSError, TimeoutError) as error:
            breaker.failed(error)
            return None
        breaker.worked()
        return answer


def _client(url: str) -> Valkey:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        # Whoever waits for a connection is in a timeout already.
        timeout=None,
        # Two commands less for each connection.
        lib_name=None,
        lib_version=None,
    )
    return Valkey.from_pool(pool)


def _product_key(product_id: UUID | str) -> str:
    return f"product:{product_id}"


def _by_key(products: Iterable[pb.Product]) -> dict[str, Message]:
    return {_product_key(product.id): product for product in products}


def _of_generation(generation: bytes, value: bytes | None) -> bytes | None:
    return value[_GENERATION_BYTES:] if value is not None and value.startswith(generation) else None


def _decoded(kind: type[_Message], value: bytes | None) -> _Message | None:
    """None also for what is no such message."""
    if value is None:
        return None
    try:
        return kind.FromString(value)
    except DecodeError:
        return None
