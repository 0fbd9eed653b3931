"""CatalogService: what can be bought, for anyone."""

from typing import Any

from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from services.chassis import cursor
from services.chassis.db import Database
from services.chassis.fields import as_uuid
from services.orders import errors
from services.orders.api.messages import as_product
from services.orders.queries import catalog


class CatalogService(orders_pb2_grpc.CatalogServiceServicer):
    def __init__(self, database: Database) -> None:
        self._database = database

    async def ListProducts(
        self, request: orders_pb2.ListProductsRequest, _: Any
    ) -> orders_pb2.ListProductsResponse:
        limit, after = cursor.page_size(request.limit), cursor.decode_id(request.cursor)
        async with self._database.anyone() as connection:
            found = await catalog.list_products(connection, limit=limit + 1, after=after)
        page = found[:limit]
        return orders_pb2.ListProductsResponse(
            items=[as_product(product) for product in page],
            next_cursor=cursor.encode(page[-1].id) if len(found) > limit else "",
        )

    async def GetProduct(
        self, request: orders_pb2.GetProductRequest, _: Any
    ) -> orders_pb2.GetProductResponse:
        product_id = as_uuid(request.product_id, field="product_id")
        async with self._database.anyone() as connection:
            product = await catalog.find_product(connection, product_id)
        if product is None:
            raise errors.product_not_found(product_id)
        return orders_pb2.GetProductResponse(product=as_product(product))
