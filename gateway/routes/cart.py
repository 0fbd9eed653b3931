"""The cart. Each answer bears its version as ETag; If-Match refuses a change to a newer cart."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from gateway.backends import ORDERS_SECONDS
from gateway.openapi import BODY, customer_problems
from gateway.routing import CustomerRoute, backends_of, customer_of
from gateway.schemas import ApiModel, Line, ProductId, Quantity
from gateway.versions import expected_version, if_match, show_version
from protos.orders.v1 import orders_pb2
from services.chassis.grpc_client import call

router = APIRouter(route_class=CustomerRoute, tags=["cart"])

LeftOutCode = Literal["product_not_found", "product_inactive"]
_CODES: dict[int, LeftOutCode] = {
    orders_pb2.LEFT_OUT_REASON_PRODUCT_NOT_FOUND: "product_not_found",
    orders_pb2.LEFT_OUT_REASON_PRODUCT_INACTIVE: "product_inactive",
}
_CONDITIONAL = {"parameters": [if_match("cart")]}
_CHANGE = ("cart_changed", "invalid_if_match")


class CartItem(ApiModel):
    """Prices are today's, of one piece. `available` false: retired, or too few are left."""

    product_id: str
    quantity: int
    title: str
    price_cents: int
    price_points: int
    price_changed: bool
    available: bool


class Cart(ApiModel):
    """`totalPoints` is null when a line is not for points."""

    version: int
    items: list[CartItem]
    total_cents: int
    total_points: int | None
    currency: str


class LeftOut(ApiModel):
    """A line that was not merged: its product is no longer sold, or is none."""

    product_id: str
    code: LeftOutCode


class MergedCart(Cart):
    """The cart, and what of the local lines is not in it."""

    left_out: list[LeftOut]


class LocalCart(ApiModel):
    """What a visitor put in before signing in."""

    items: Annotated[list[Line], Field(max_length=100)]


class ItemQuantity(ApiModel):
    quantity: Quantity


@router.get("/api/cart", operation_id="getCart", responses=customer_problems())
async def get_cart(request: Request, response: Response) -> Cart:
    """The cart with today's prices."""
    answer = await call(
        backends_of(request).cart.GetCart,
        orders_pb2.GetCartRequest(user_id=customer_of(request).user_id),
        timeout_seconds=ORDERS_SECONDS,
    )
    return _answer(answer.cart, response)


@router.put(
    "/api/cart",
    operation_id="mergeCart",
    openapi_extra=_CONDITIONAL,
    responses=customer_problems(*BODY, *_CHANGE, "invalid_quantity", "too_many_lines"),
)
async def merge_cart(request: Request, response: Response, body: LocalCart) -> MergedCart:
    """Merges lines from before the sign-in: of each product the larger quantity stays. What is no longer sold
    is left out, and told."""
    answer = await call(
        backends_of(request).cart.MergeCart,
        orders_pb2.MergeCartRequest(
            user_id=customer_of(request).user_id,
            items=[
                orders_pb2.CartLine(product_id=line.product_id, quantity=line.quantity) for line in body.items
            ],
            expected_version=expected_version(request),
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    cart = _answer(answer.cart, response)
    left_out = [LeftOut(product_id=line.product_id, code=_CODES[line.reason]) for line in answer.left_out]
    return MergedCart(**dict(cart), left_out=left_out)


@router.delete(
    "/api/cart", operation_id="clearCart", openapi_extra=_CONDITIONAL, responses=customer_problems(*_CHANGE)
)
async def clear_cart(request: Request, response: Response) -> Cart:
    """Takes everything out."""
    answer = await call(
        backends_of(request).cart.ClearCart,
        orders_pb2.ClearCartRequest(
            user_id=customer_of(request).user_id, expected_version=expected_version(request)
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    return _answer(answer.cart, response)


@router.put(
    "/api/cart/items/{productId}",
    operation_id="setCartItem",
    openapi_extra=_CONDITIONAL,
    responses=customer_problems(
        *BODY, *_CHANGE, "product_not_found", "product_inactive", "invalid_quantity", "too_many_lines"
    ),
)
async def set_cart_item(
    request: Request, response: Response, product_id: ProductId, body: ItemQuantity
) -> Cart:
    """Puts so many pieces of a product in, whatever was there before."""
    answer = await call(
        backends_of(request).cart.SetCartItem,
        orders_pb2.SetCartItemRequest(
            user_id=customer_of(request).user_id,
            product_id=product_id,
            quantity=body.quantity,
            expected_version=expected_version(request),
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    return _answer(answer.cart, response)


@router.delete(
    "/api/cart/items/{productId}",
    operation_id="removeCartItem",
    openapi_extra=_CONDITIONAL,
    responses=customer_problems(*_CHANGE, "product_not_found"),
)
async def remove_cart_item(request: Request, response: Response, product_id: ProductId) -> Cart:
    """Takes a product out; nothing happens when it is not there."""
    answer = await call(
        backends_of(request).cart.RemoveCartItem,
        orders_pb2.RemoveCartItemRequest(
            user_id=customer_of(request).user_id,
            product_id=product_id,
            expected_version=expected_version(request),
        ),
        timeout_seconds=ORDERS_SECONDS,
    )
    return _answer(answer.cart, response)


def _answer(cart: orders_pb2.Cart, response: Response) -> Cart:
    show_version(response, cart.version)
    return Cart(
        version=cart.version,
        items=[_as_item(item) for item in cart.items],
        total_cents=cart.total_cents,
        total_points=cart.total_points if all(item.price_points for item in cart.items) else None,
        currency=cart.currency,
    )


def _as_item(item: orders_pb2.CartItem) -> CartItem:
    return CartItem(
        product_id=item.product_id,
        quantity=item.quantity,
        title=item.title,
        price_cents=item.price_cents,
        price_points=item.price_points,
        price_changed=item.price_changed,
        available=item.available,
    )
