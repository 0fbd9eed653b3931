"""What operators do to the catalogue and its stock. Each action is audited in its transaction."""

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from unicodedata import normalize
from uuid import UUID

from protos.orders.v1 import orders_pb2 as pb
from protos.orders.v1 import orders_pb2_grpc
from services.chassis import cursor
from services.chassis.db import Database
from services.chassis.errors import Invalid
from services.chassis.fields import as_text, as_uuid, in_range
from services.chassis.minimum_charge import minimum_charge_cents
from services.orders import errors
from services.orders.api.catalog import LONGEST_SEARCH
from services.orders.api.operator_messages import STOCK_REASONS, as_stock_movement, as_stocked_product
from services.orders.catalog_cache import CatalogCache
from services.orders.commands import catalog as commands
from services.orders.commands import stock
from services.orders.commands.catalog import NewProduct
from services.orders.commands.stock import OperatorsMovement
from services.orders.queries import catalog
from services.orders.queries.stock import list_movements
from services.orders.rules import (
    MAX_PRICE_POINTS,
    MAX_TOTAL_CENTS,
    PRODUCT_TYPES,
    SHOP_CURRENCY,
    ProductType,
)

_LONGEST_TITLE = 200
_LONGEST_DESCRIPTION = 5000
_LONGEST_ACTOR = 255
_LONGEST_REASON = 500
# Of one movement, and far from what a bigint holds.
_MOST_PIECES = 1_000_000_000
_OPERATORS_REASONS = {STOCK_REASONS[reason]: reason for reason in (stock.RECEIVED, stock.CORRECTED)}


class CatalogOperatorService(orders_pb2_grpc.CatalogOperatorServiceServicer):
    """One method for each RPC. `publish` wakes the relay."""

    def __init__(self, database: Database, cache: CatalogCache, *, publish: Callable[[], None]) -> None:
        self._database = database
        self._cache = cache
        self._publish = publish

    async def ListAllProducts(self, request: pb.ListAllProductsRequest, _: Any) -> pb.ListAllProductsResponse:
        limit, after = cursor.page_size(request.limit), cursor.decode_id(request.cursor)
        search = as_text(request.search, field="search", longest=LONGEST_SEARCH, shortest=0)
        async with self._database.worker() as connection:
            found = await catalog.list_all_products(connection, limit=limit + 1, after=after, search=search)
        items, following = cursor.page(
            found, limit=limit, message=as_stocked_product, key=lambda product: (product.id,)
        )
        return pb.ListAllProductsResponse(items=items, next_cursor=following)

    async def InspectProduct(self, request: pb.InspectProductRequest, _: Any) -> pb.InspectProductResponse:
        product = await self._product(as_uuid(request.product_id, field="product_id"))
        return pb.InspectProductResponse(product=as_stocked_product(product))

    async def CreateProduct(self, request: pb.CreateProductRequest, _: Any) -> pb.CreateProductResponse:
        actor, reason = _who_and_why(request.actor, request.reason)
        async with self._database.worker() as connection:
            product = await commands.create_product(
                connection,
                _new_product(request),
                stock=_pieces(request.stock) if request.HasField("stock") else None,
                request_hash=sha256(request.SerializeToString(deterministic=True)).digest(),
                actor=actor,
                reason=reason,
            )
        await self._changed()
        return pb.CreateProductResponse(product=as_stocked_product(product))

    async def ChangeProduct(self, request: pb.ChangeProductRequest, _: Any) -> pb.ChangeProductResponse:
        actor, reason = _who_and_why(request.actor, request.reason)
        async with self._database.worker() as connection:
            product = await commands.change_product(
                connection,
                as_uuid(request.product_id, field="product_id"),
                _changes(request),
                expected_version=request.expected_version if request.HasField("expected_version") else None,
                actor=actor,
                reason=reason,
            )
        await self._changed()
        return pb.ChangeProductResponse(product=as_stocked_product(product))

    async def MoveStock(self, request: pb.MoveStockRequest, _: Any) -> pb.MoveStockResponse:
        wanted = _movement(request)
        async with self._database.worker() as connection:
            movement = await stock.move_stock(connection, wanted)
        await self._cache.forget_products([wanted.product_id])
        return pb.MoveStockResponse(
            product=as_stocked_product(await self._product(wanted.product_id)),
            movement=as_stock_movement(movement),
        )

    async def ListStockMovements(
        self, request: pb.ListStockMovementsRequest, _: Any
    ) -> pb.ListStockMovementsResponse:
        limit, before = cursor.page_size(request.limit), _before(request.cursor)
        product = await self._product(as_uuid(request.product_id, field="product_id"))
        async with self._database.worker() as connection:
            found = await list_movements(connection, product.id, limit=limit + 1, before=before)
        items, following = cursor.page(
            found,
            limit=limit,
            message=as_stock_movement,
            key=lambda movement: (movement.created_at.isoformat(), movement.id),
        )
        return pb.ListStockMovementsResponse(items=items, next_cursor=following)

    async def _changed(self) -> None:
        """Whoever has the answer sees the change; the event is for what may come between."""
        self._publish()
        await self._cache.forget_catalogue()

    async def _product(self, product_id: UUID) -> catalog.StockedProduct:
        async with self._database.worker() as connection:
            product = await catalog.find_stocked_product(connection, product_id)
        if product is None:
            raise errors.product_not_found(product_id)
        return product


def _new_product(request: pb.CreateProductRequest) -> NewProduct:
    if request.type not in PRODUCT_TYPES:
        raise Invalid("INVALID_FIELD", f"type must be one of {', '.join(PRODUCT_TYPES)}", field="type")
    return NewProduct(
        id=as_uuid(request.product_id, field="product_id"),
        title=_title(request.title),
        description=_description(request.description),
        type=ProductType(request.type),
        price_cents=_price_cents(request.price_cents),
        price_points=_price_points(request.price_points),
        asset_key=request.asset_key,
    )


def _changes(request: pb.ChangeProductRequest) -> dict[str, object]:
    """The columns that the request sets, checked; Invalid when it sets none."""
    checks: dict[str, Callable[[Any], object]] = {
        "title": _title,
        "description": _description,
        "price_cents": _price_cents,
        "price_points": _price_points,
        "asset_key": str,
        "active": bool,
    }
    changes = {
        field.name: checks[field.name](value) for field, value in request.ListFields() if field.name in checks
    }
    if not changes:
        raise Invalid("INVALID_FIELD", f"set at least one of {', '.join(checks)}", field="title")
    return changes


def _movement(request: pb.MoveStockRequest) -> OperatorsMovement:
    reason = _OPERATORS_REASONS.get(request.reason)
    if reason is None:
        raise Invalid("INVALID_FIELD", "reason must be RECEIVED or CORRECTED", field="reason")
    received = reason == stock.RECEIVED
    delta = in_range(request.delta, field="delta", low=1 if received else -_MOST_PIECES, high=_MOST_PIECES)
    if delta == 0:
        raise Invalid("INVALID_FIELD", "delta must not be 0", field="delta")
    return OperatorsMovement(
        id=as_uuid(request.movement_id, field="movement_id"),
        product_id=as_uuid(request.product_id, field="product_id"),
        delta=delta,
        reason=reason,
        actor=as_text(request.actor, field="actor", longest=_LONGEST_ACTOR),
        note=as_text(request.note, field="note", longest=_LONGEST_REASON, shortest=0 if received else 1),
    )


def _title(given: str) -> str:
    """Composed, as queries/catalog.py looks for it."""
    return as_text(normalize("NFC", given.strip()), field="title", longest=_LONGEST_TITLE)


def _description(given: str) -> str:
    return as_text(given, field="description", longest=_LONGEST_DESCRIPTION, shortest=0)


def _price_cents(given: int) -> int:
    """What Stripe would refuse to charge is refused here, not when a customer wants to pay it."""
    price_cents = in_range(given, field="price_cents", low=1, high=MAX_TOTAL_CENTS)
    minimum = minimum_charge_cents(SHOP_CURRENCY)
    if price_cents < minimum:
        raise errors.price_below_minimum(price_cents=price_cents, minimum=minimum)
    return price_cents


def _price_points(given: int) -> int:
    return in_range(given, field="price_points", low=0, high=MAX_PRICE_POINTS)


def _pieces(given: int) -> int:
    return in_range(given, field="stock", low=0, high=_MOST_PIECES)


def _who_and_why(actor: str, reason: str) -> tuple[str, str]:
    return (
        as_text(actor, field="actor", longest=_LONGEST_ACTOR),
        as_text(reason, field="reason", longest=_LONGEST_REASON),
    )


def _before(text: str) -> tuple[datetime, UUID] | None:
    decoded = cursor.decode_text(text)
    if decoded is None:
        return None
    moment, _, movement_id = decoded.partition("|")
    try:
        return datetime.fromisoformat(moment).astimezone(UTC), UUID(movement_id)
    except (ValueError, OverflowError) as error:
        raise Invalid("INVALID_CURSOR", "the cursor is not one of ours") from error
