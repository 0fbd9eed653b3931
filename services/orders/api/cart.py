"""CartService: the user's cart, one transaction a call, answered as it stands afterwards."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from services.chassis.db import Database
from services.chassis.fields import as_uuid
from services.orders import metrics, rules
from services.orders.api.messages import as_cart
from services.orders.commands import carts
from services.orders.queries.carts import get_cart

_LEFT_OUT: Mapping[str, "orders_pb2.LeftOutReason.ValueType"] = {
    "PRODUCT_NOT_FOUND": orders_pb2.LEFT_OUT_REASON_PRODUCT_NOT_FOUND,
    "PRODUCT_INACTIVE": orders_pb2.LEFT_OUT_REASON_PRODUCT_INACTIVE,
}


class CartService(orders_pb2_grpc.CartServiceServicer):
    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetCart(self, request: orders_pb2.GetCartRequest, _: Any) -> orders_pb2.GetCartResponse:
        user_id = as_uuid(request.user_id, field="user_id")
        async with self._database.customer(user_id) as connection:
            return orders_pb2.GetCartResponse(cart=as_cart(await get_cart(connection, user_id)))

    async def MergeCart(self, request: orders_pb2.MergeCartRequest, _: Any) -> orders_pb2.MergeCartResponse:
        lines = [(as_uuid(item.product_id, field="product_id"), item.quantity) for item in request.items]
        quantities = rules.sum_quantities(lines)
        left_out: dict[UUID, str] = {}

        async def merge(connection: AsyncConnection, user_id: UUID, expected: int | None) -> None:
            left_out.update(
                await carts.merge_cart(
                    connection, user_id=user_id, quantities=quantities, expected_version=expected
                )
            )

        cart = await self._change(request, merge)
        return orders_pb2.MergeCartResponse(
            cart=cart,
            left_out=[
                orders_pb2.LeftOutLine(product_id=str(product_id), reason=_LEFT_OUT[reason])
                for product_id, reason in left_out.items()
            ],
        )

    async def SetCartItem(
        self, request: orders_pb2.SetCartItemRequest, _: Any
    ) -> orders_pb2.SetCartItemResponse:
        product_id = as_uuid(request.product_id, field="product_id")
        [(_, quantity)] = rules.sum_quantities([(product_id, request.quantity)]).items()
        cart = await self._change(
            request,
            lambda connection, user_id, expected: carts.set_cart_item(
                connection,
                user_id=user_id,
                product_id=product_id,
                quantity=quantity,
                expected_version=expected,
            ),
        )
        return orders_pb2.SetCartItemResponse(cart=cart)

    async def RemoveCartItem(
        self, request: orders_pb2.RemoveCartItemRequest, _: Any
    ) -> orders_pb2.RemoveCartItemResponse:
        product_id = as_uuid(request.product_id, field="product_id")
        cart = await self._change(
            request,
            lambda connection, user_id, expected: carts.remove_cart_item(
                connection, user_id=user_id, product_id=product_id, expected_version=expected
            ),
        )
        return orders_pb2.RemoveCartItemResponse(cart=cart)

    async def ClearCart(self, request: orders_pb2.ClearCartRequest, _: Any) -> orders_pb2.ClearCartResponse:
        cart = await self._change(
            request,
            lambda connection, user_id, expected: carts.clear_cart(
                connection, user_id=user_id, expected_version=expected
            ),
        )
        return orders_pb2.ClearCartResponse(cart=cart)

    async def _change(
        self,
        request: Any,
        command: Callable[[AsyncConnection, UUID, int | None], Awaitable[None]],
    ) -> orders_pb2.Cart:
        user_id = as_uuid(request.user_id, field="user_id")
        expected = request.expected_version if request.HasField("expected_version") else None
        async with self._database.customer(user_id) as connection:
            await command(connection, user_id, expected)
            cart = await get_cart(connection, user_id)
        if cart.has_begun:
            metrics.CARTS.inc()
        return as_cart(cart)
