"""The catalogue and its stock, for operators. A product's answers bear its version as ETag."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID, uuid5

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, model_validator

from gateway import idempotency
from gateway.backends import ORDERS_SECONDS
from gateway.openapi import BODY, KEYED, PAGED, operator_problems
from gateway.problems import ProblemError
from gateway.routes.catalog import Product, ProductType, Search, as_product
from gateway.routing import OperatorRoute, backends_of, customer_of
from gateway.schemas import (
    INT64_MAX,
    Amount,
    ApiModel,
    Cursor,
    Limit,
    ProductId,
    Reason,
    StrictBody,
    as_time,
)
from gateway.versions import expected_version, if_match, show_version
from protos.orders.v1 import orders_pb2
from services.chassis.errors import Conflict
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

# Fixed for ever: with them, an operator's key is the same product or movement at every gateway.
_PRODUCTS = UUID("b1f0a1c9-60a5-4f0b-8a0e-2f5c6c0d9a41")
_MOVEMENTS = UUID("6f2f7d0c-55c1-4f8e-9d0a-9d1e0a8b7c33")
_REUSED = frozenset({"PRODUCT_EXISTS", "STOCK_MOVEMENT_MISMATCH"})
_KEY = {"parameters": [idempotency.PARAMETER]}
_CONDITIONAL = {"parameters": [if_match("product")]}
_CHANGE = ("product_not_found", "product_changed", "invalid_if_match")

OperatorsReason = Literal["received", "corrected"]
MovementReason = Literal["received", "corrected", "sold", "returned"]
STOCK_REASONS: dict[MovementReason, orders_pb2.StockReason.ValueType] = {
    "received": orders_pb2.STOCK_REASON_RECEIVED,
    "corrected": orders_pb2.STOCK_REASON_CORRECTED,
    "sold": orders_pb2.STOCK_REASON_SOLD,
    "returned": orders_pb2.STOCK_REASON_RETURNED,
}
_REASON_NAMES: dict[int, MovementReason] = {number: name for name, number in STOCK_REASONS.items()}


class StockedProduct(Product):
    """`stockQuantity` null: unlimited. `version` rises when the product is changed, not with its stock."""

    version: int
    asset_key: str
    stock_quantity: int | None
    reserved_quantity: int
    created_at: datetime
    updated_at: datetime


class StockedProductPage(ApiModel):
    items: list[StockedProduct]
    next_cursor: str | None


class NewProduct(StrictBody):
    """`pricePoints` 0: not for points. `stock` null: unlimited, for good. What is digital has `assetKey`."""

    title: str
    description: str = ""
    type: ProductType = "digital"
    price_cents: Amount
    price_points: Amount = 0
    asset_key: str = ""
    stock: Amount | None = None
    reason: Reason = "created"


class ProductChange(StrictBody):
    """What is absent, or null, stays. `active` false retires the product, true sells it again."""

    title: str | None = None
    description: str | None = None
    price_cents: Amount | None = None
    price_points: Amount | None = None
    asset_key: str | None = None
    active: Annotated[bool, Field(strict=True)] | None = None
    reason: Reason = "changed"


class StockChange(StrictBody):
    """`delta` pieces more, or less when a count is corrected, which takes a `note`."""

    delta: Annotated[int, Field(strict=True, ge=-INT64_MAX, le=INT64_MAX)]
    reason: OperatorsReason
    note: Reason | None = None

    @model_validator(mode="after")
    def _is_explained(self) -> Self:
        if self.reason == "corrected" and self.note is None:
            raise ValueError("a correction takes a note")
        return self


class StockMovement(ApiModel):
    """`orderId` of what was sold or came back."""

    id: str
    product_id: str
    delta: int
    reason: MovementReason
    order_id: str | None
    actor: str
    note: str
    created_at: datetime


class MovedStock(ApiModel):
    """The movement, and the product as it stands now."""

    movement: StockMovement
    product: StockedProduct


class StockMovementPage(ApiModel):
    items: list[StockMovement]
    next_cursor: str | None


@router.get(
    "/api/admin/products",
    operation_id="listAllProducts",
    responses=operator_problems(*PAGED, "invalid_request"),
)
async def list_all_products(
    request: Request, limit: Limit = 20, cursor: Cursor = "", search: Search = ""
) -> StockedProductPage:
    """Every product, retired ones too, in the order they came in."""
    answer = await call(
        backends_of(request).catalog_operator.ListAllProducts,
        orders_pb2.ListAllProductsRequest(limit=limit, cursor=cursor, search=search),
        timeout_seconds=ORDERS_SECONDS,
    )
    return StockedProductPage(
        items=[_as_stocked_product(product) for product in answer.items],
        next_cursor=answer.next_cursor or None,
    )


@router.post(
    "/api/admin/products",
    status_code=201,
    operation_id="createProduct",
    openapi_extra=_KEY,
    responses=operator_problems(*BODY, *KEYED, "price_below_minimum"),
)
async def create_product(request: Request, response: Response, body: NewProduct) -> StockedProduct:
    """Puts a product on sale, once under its key."""
    operator, key = customer_of(request), idempotency.key_of(request)
    product_id = uuid5(_PRODUCTS, f"{operator.user_id}:{key}")
    wanted = orders_pb2.CreateProductRequest(
        product_id=str(product_id),
        actor=operator.user_id,
        **body.model_dump(exclude_none=True),
    )
    try:
        answer = await call(
            backends_of(request).catalog_operator.CreateProduct, wanted, timeout_seconds=ORDERS_SECONDS
        )
    except Conflict as error:
        raise _of_key(error) from error
    response.headers[idempotency.HEADER] = key
    response.headers["Location"] = f"/api/admin/products/{product_id}"
    return _answer(answer.product, response)


@router.get(
    "/api/admin/products/{productId}",
    operation_id="inspectProduct",
    responses=operator_problems("product_not_found"),
)
async def inspect_product(request: Request, response: Response, product_id: ProductId) -> StockedProduct:
    """One product with its stock."""
    answer = await call(
        backends_of(request).catalog_operator.InspectProduct,
        orders_pb2.InspectProductRequest(product_id=product_id),
        timeout_seconds=ORDERS_SECONDS,
    )
    return _answer(answer.product, response)


@router.patch(
    "/api/admin/products/{productId}",
    operation_id="changeProduct",
    openapi_extra=_CONDITIONAL,
    responses=operator_problems("price_below_minimum", *BODY, *_CHANGE),
)
async def change_product(
    request: Request, response: Response, product_id: ProductId, body: ProductChange
) -> StockedProduct:
    """Changes what the catalogue shows from now on; orders keep what they froze, carts tell of new prices."""
    change = orders_pb2.ChangeProductRequest(**body.model_dump(exclude_none=True))
    return await _change(request, response, product_id, change)


@router.delete(
    "/api/admin/products/{productId}",
    operation_id="retireProduct",
    openapi_extra=_CONDITIONAL,
    responses=operator_problems(*_CHANGE, "invalid_request"),
)
async def retire_product(
    request: Request,
    response: Response,
    product_id: ProductId,
    reason: Annotated[str, Query(min_length=1, max_length=500)] = "retired",
) -> StockedProduct:
    """Takes a product off sale; open orders of it go on. PATCH with `active` true sells it again."""
    change = orders_pb2.ChangeProductRequest(active=False, reason=reason)
    return await _change(request, response, product_id, change)


@router.post(
    "/api/admin/products/{productId}/stock",
    status_code=201,
    operation_id="moveStock",
    openapi_extra=_KEY,
    responses=operator_problems(*BODY, *KEYED, "product_not_found", "stock_reserved", "stock_unlimited"),
)
async def move_stock(
    request: Request, response: Response, product_id: ProductId, body: StockChange
) -> MovedStock:
    """Receives pieces, or corrects a count, once under its key; what is reserved always stays."""
    operator, key = customer_of(request), idempotency.key_of(request)
    wanted = orders_pb2.MoveStockRequest(
        movement_id=str(uuid5(_MOVEMENTS, f"{operator.user_id}:{key}")),
        product_id=product_id,
        delta=body.delta,
        reason=STOCK_REASONS[body.reason],
        actor=operator.user_id,
        note=body.note or "",
    )
    try:
        answer = await call(
            backends_of(request).catalog_operator.MoveStock, wanted, timeout_seconds=ORDERS_SECONDS
        )
    except Conflict as error:
        raise _of_key(error) from error
    response.headers[idempotency.HEADER] = key
    return MovedStock(movement=_as_movement(answer.movement), product=_answer(answer.product, response))


@router.get(
    "/api/admin/products/{productId}/stock/movements",
    operation_id="listStockMovements",
    responses=operator_problems(*PAGED, "product_not_found"),
)
async def list_stock_movements(
    request: Request, product_id: ProductId, limit: Limit = 20, cursor: Cursor = ""
) -> StockMovementPage:
    """What moved the product's stock, the newest first; its sum is the stock."""
    answer = await call(
        backends_of(request).catalog_operator.ListStockMovements,
        orders_pb2.ListStockMovementsRequest(product_id=product_id, limit=limit, cursor=cursor),
        timeout_seconds=ORDERS_SECONDS,
    )
    return StockMovementPage(
        items=[_as_movement(movement) for movement in answer.items],
        next_cursor=answer.next_cursor or None,
    )


async def _change(
    request: Request, response: Response, product_id: str, change: orders_pb2.ChangeProductRequest
) -> StockedProduct:
    change.product_id = product_id
    change.actor = customer_of(request).user_id
    expected = expected_version(request)
    if expected is not None:
        change.expected_version = expected
    answer = await call(
        backends_of(request).catalog_operator.ChangeProduct, change, timeout_seconds=ORDERS_SECONDS
    )
    return _answer(answer.product, response)


def _of_key(error: Conflict) -> Exception:
    """The id was made of the key: what it stands for already, the key does."""
    return ProblemError("idempotency_key_reused") if error.reason in _REUSED else error


def _answer(product: orders_pb2.StockedProduct, response: Response) -> StockedProduct:
    show_version(response, product.version)
    return _as_stocked_product(product)


def _as_stocked_product(product: orders_pb2.StockedProduct) -> StockedProduct:
    return StockedProduct(
        **as_product(product.product).model_dump(),
        version=product.version,
        asset_key=product.asset_key,
        stock_quantity=product.stock_quantity if product.HasField("stock_quantity") else None,
        reserved_quantity=product.reserved_quantity,
        created_at=as_time(product.created_at),
        updated_at=as_time(product.updated_at),
    )


def _as_movement(movement: orders_pb2.StockMovement) -> StockMovement:
    return StockMovement(
        id=movement.id,
        product_id=movement.product_id,
        delta=movement.delta,
        reason=_REASON_NAMES[movement.reason],
        order_id=movement.order_id or None,
        actor=movement.actor,
        note=movement.note,
        created_at=as_time(movement.created_at),
    )
