"""OrdersService: placing, reading, following and cancelling orders, and what they give to download."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import UUID

from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from services.chassis import cursor, idempotency
from services.chassis.db import Database
from services.chassis.fields import as_uuid
from services.chassis.watching import Watchers
from services.orders import errors
from services.orders.api import downloads
from services.orders.api.messages import as_order
from services.orders.checkout import Checkout, Purchase
from services.orders.downloading import Downloads
from services.orders.queries import orders
from services.orders.queries.orders import Order
from services.orders.rules import Method

_METHODS = {
    orders_pb2.PAYMENT_METHOD_STRIPE: Method.STRIPE,
    orders_pb2.PAYMENT_METHOD_POINTS: Method.POINTS,
}


class OrdersService(orders_pb2_grpc.OrdersServiceServicer):
    def __init__(self, database: Database, checkout: Checkout, given: Downloads, watchers: Watchers) -> None:
        self._database = database
        self._checkout = checkout
        self._downloads = given
        self._watchers = watchers

    async def PlaceOrder(
        self, request: orders_pb2.PlaceOrderRequest, _: Any
    ) -> orders_pb2.PlaceOrderResponse:
        method = _METHODS.get(request.payment_method)
        if method is None:
            raise errors.invalid_payment_method()
        order = await self._checkout.place(
            Purchase(
                user_id=as_uuid(request.user_id, field="user_id"),
                email=request.email,
                method=method,
                items=tuple(
                    (as_uuid(item.product_id, field="product_id"), item.quantity) for item in request.items
                ),
                idempotency_key=idempotency.check_key(request.idempotency_key),
                request_hash=idempotency.hash_of(request, given=request.request_hash),
            )
        )
        return orders_pb2.PlaceOrderResponse(order=as_order(order))

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, _: Any) -> orders_pb2.GetOrderResponse:
        return orders_pb2.GetOrderResponse(order=as_order(await self._find(*_ids(request))))

    async def WatchOrder(
        self, request: orders_pb2.WatchOrderRequest, context: Any
    ) -> AsyncGenerator[orders_pb2.WatchOrderResponse, None]:
        user_id, order_id = _ids(request)
        news = self._watchers.follow(
            order_id, lambda: self._find(user_id, order_id), after=request.after_version, call=context
        )
        async with aclosing(news):
            async for order, is_final in news:
                message = None if order is None else as_order(order)
                yield orders_pb2.WatchOrderResponse(order=message, is_final=is_final)

    async def _find(self, user_id: UUID, order_id: UUID) -> Order:
        """Raises ORDER_NOT_FOUND, also for another user's."""
        async with self._database.customer(user_id) as connection:
            order = await orders.find_order(connection, order_id)
        if order is None:
            raise errors.order_not_found(order_id)
        return order

    async def ListOrders(
        self, request: orders_pb2.ListOrdersRequest, _: Any
    ) -> orders_pb2.ListOrdersResponse:
        user_id = as_uuid(request.user_id, field="user_id")
        limit, before = cursor.page_size(request.limit), cursor.decode_id(request.cursor)
        async with self._database.customer(user_id) as connection:
            found = await orders.list_orders(connection, user_id=user_id, limit=limit + 1, before=before)
        items, after = cursor.page(found, limit=limit, message=as_order, key=lambda order: (order.id,))
        return orders_pb2.ListOrdersResponse(items=items, next_cursor=after)

    async def CancelOrder(
        self, request: orders_pb2.CancelOrderRequest, _: Any
    ) -> orders_pb2.CancelOrderResponse:
        user_id, order_id = _ids(request)
        order = await self._checkout.cancel(user_id=user_id, order_id=order_id)
        return orders_pb2.CancelOrderResponse(order=as_order(order))

    async def ListDownloads(
        self, request: orders_pb2.ListDownloadsRequest, _: Any
    ) -> orders_pb2.ListDownloadsResponse:
        return await downloads.list_downloads(self._downloads, request)

    async def ReissueDownload(
        self, request: orders_pb2.ReissueDownloadRequest, _: Any
    ) -> orders_pb2.ReissueDownloadResponse:
        return await downloads.reissue_download(self._downloads, request)

    def Download(
        self, request: orders_pb2.DownloadRequest, _: Any
    ) -> AsyncGenerator[orders_pb2.DownloadResponse, None]:
        return downloads.download(self._downloads, request)


def _ids(
    request: orders_pb2.GetOrderRequest | orders_pb2.CancelOrderRequest | orders_pb2.WatchOrderRequest,
) -> tuple[UUID, UUID]:
    return as_uuid(request.user_id, field="user_id"), as_uuid(request.order_id, field="order_id")
