"""Products: what can be bought, for anyone."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from gateway.backends import ORDERS_SECONDS
from gateway.openapi import PAGED, public_problems
from gateway.routing import PublicRoute, backends_of
from gateway.schemas import ApiModel, Cursor, Limit, ProductId
from protos.orders.v1 import orders_pb2
from services.chassis.grpc_client import call

router = APIRouter(route_class=PublicRoute, tags=["catalog"])

ProductType = Literal["digital", "physical"]
Search = Annotated[str, Query(max_length=100, description="Part of the title, whatever the case.")]


class Product(ApiModel):
    """`pricePoints` 0: not for points. `available` null: unlimited."""

    id: str
    title: str
    description: str
    type: str
    price_cents: int
    price_points: int
    currency: str
    available: int | None
    active: bool


class ProductPage(ApiModel):
    items: list[Product]
    next_cursor: str | None


@router.get(
    "/api/products", operation_id="listProducts", responses=public_problems(*PAGED, "invalid_request")
)
async def list_products(
    request: Request,
    limit: Limit = 20,
    cursor: Cursor = "",
    search: Search = "",
    type: ProductType | None = None,
) -> ProductPage:
    """Products on sale in the order they came in, a page at a time."""
    answer = await call(
        backends_of(request).catalog.ListProducts,
        orders_pb2.ListProductsRequest(limit=limit, cursor=cursor, search=search, type=type or ""),
        timeout_seconds=ORDERS_SECONDS,
    )
    return ProductPage(
        items=[as_product(product) for product in answer.items], next_cursor=answer.next_cursor or None
    )


@router.get(
    "/api/products/{productId}", operation_id="getProduct", responses=public_problems("product_not_found")
)
async def get_product(request: Request, product_id: ProductId) -> Product:
    """One product."""
    answer = await call(
        backends_of(request).catalog.GetProduct,
        orders_pb2.GetProductRequest(product_id=product_id),
        timeout_seconds=ORDERS_SECONDS,
    )
    return as_product(answer.product)


def as_product(product: orders_pb2.Product) -> Product:
    return Product(
        id=product.id,
        title=product.title,
        description=product.description,
        type=product.type,
        price_cents=product.price_cents,
        price_points=product.price_points,
        currency=product.currency,
        available=product.available if product.HasField("available") else None,
        active=product.active,
    )
