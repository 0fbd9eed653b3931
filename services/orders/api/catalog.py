"""CatalogService: what can be bought, for anyone; read through the cache."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from services.chassis import cursor
from services.chassis.db import Database
from services.chassis.errors import Invalid
from services.chassis.fields import as_text, as_uuid
from services.orders import errors
from services.orders.api.messages import as_product
from services.orders.catalog_cache import CatalogCache
from services.orders.queries import catalog
from services.orders.rules import PRODUCT_TYPES

LONGEST_SEARCH = 100


class CatalogService(orders_pb2_grpc.CatalogServiceServicer):
    def __init__(self, database: Database, cache: CatalogCache) -> None:
        self._database = database
        self._cache = cache

    async def ListProducts(
        self, request: orders_pb2.ListProductsRequest, _: Any
    ) -> orders_pb2.ListProductsResponse:
        limit, after = cursor.page_size(request.limit), cursor.decode_id(request.cursor)
        search = as_text(request.search, field="search", longest=LONGEST_SEARCH, shortest=0)
        product_type = _product_type(request.type)

        return await self._cache.page(
            f"{limit}:{after}:{product_type}:{search}",
            lambda: self._page(limit=limit, after=after, search=search, product_type=product_type),
            self._on_sale,
        )

    async def GetProduct(
        self, request: orders_pb2.GetProductRequest, _: Any
    ) -> orders_pb2.GetProductResponse:
        product_id = as_uuid(request.product_id, field="product_id")
        product = await self._cache.product(product_id, lambda: self._product(product_id))
        return orders_pb2.GetProductResponse(product=product)

    async def _page(
        self, *, limit: int, after: UUID | None, search: str, product_type: str
    ) -> orders_pb2.ListProductsResponse:
        async with self._database.anyone() as connection:
            found = await catalog.list_products(
                connection, limit=limit + 1, after=after, search=search, type=product_type
            )
        items, following = cursor.page(
            found, limit=limit, message=as_product, key=lambda product: (product.id,)
        )
        return orders_pb2.ListProductsResponse(items=items, next_cursor=following)

    async def _on_sale(self, product_ids: Collection[UUID]) -> list[orders_pb2.Product]:
        async with self._database.anyone() as connection:
            found = await catalog.find_products(connection, product_ids)
        return [as_product(product) for product in found if product.active]

    async def _product(self, product_id: UUID) -> orders_pb2.Product:
        async with self._database.anyone() as connection:
            found = await catalog.find_products(connection, [product_id])
        if not found:
            raise errors.product_not_found(product_id)
        return as_product(found[0])


def _product_type(given: str) -> str:
    """Empty: every type."""
    if given and given not in PRODUCT_TYPES:
        raise Invalid("INVALID_FIELD", f"type must be one of {', '.join(PRODUCT_TYPES)}", field="type")
    return given
