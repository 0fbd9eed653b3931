"""The first transaction of both sagas: order, frozen lines, reserved stock and saga run, or nothing.

    (no order) ──stock is there──▶ pending, run at its first step, leased by this request
        └───────stock is short───▶ failed (out_of_stock), nothing reserved, no run

Two statements on psycopg's connection: one locks the stock rows in product order and reads the offers,
one writes every row. Both unique keys (user and Idempotency-Key, user and cart version) are checked by
the insert itself: a twin inserts nothing, and the caller looks up which order won.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb

from services.chassis import tracing
from services.chassis.db import FixedSql
from services.orders import errors
from services.orders.commands.bounds import Bounds, check_card_order
from services.orders.queries.catalog import lock_offers
from services.orders.rules import Basket, Line, Method, Status, first_short, price

_ORDER = """
    placed AS (
        INSERT INTO orders (id, user_id, status, payment_method, total_cents, total_points, currency,
            email, idempotency_key, request_hash, cart_version, failure_reason, failure_fields)
        VALUES (%(order_id)s, %(user_id)s, %(status)s, %(method)s, %(total_cents)s, %(total_points)s,
            %(currency)s, %(email)s, %(key)s, %(request_hash)s, %(cart_version)s, %(failure_reason)s,
            %(failure_fields)s)
        ON CONFLICT DO NOTHING RETURNING id, user_id, created_at),
    lines AS (
        SELECT placed.id AS order_id, placed.user_id, l.* FROM placed,
        unnest(%(product_ids)s::uuid[], %(titles)s::text[], %(cents)s::bigint[], %(points)s::bigint[],
            %(quantities)s::int[]) AS l (product_id, title, price_cents, price_points, quantity)),
    items AS (
        INSERT INTO order_items
            (order_id, user_id, product_id, title, price_cents, price_points, quantity)
        SELECT * FROM lines),
    history AS (
        INSERT INTO order_history (order_id, user_id, to_status, actor, reason, trace_id)
        SELECT id, user_id, %(status)s, 'customer', coalesce(%(failure_reason)s, 'placed'), %(trace_id)s
        FROM placed)"""
_PLACE = f"""
    WITH {_ORDER},
    reserved AS (
        UPDATE product_inventory i
        SET reserved_quantity = i.reserved_quantity + l.quantity, updated_at = now()
        FROM lines l WHERE i.product_id = l.product_id AND i.stock_quantity IS NOT NULL
        RETURNING l.order_id, l.user_id, l.product_id, l.quantity),
    reservations AS (
        INSERT INTO stock_reservations (order_id, user_id, product_id, quantity)
        SELECT * FROM reserved),
    run AS (
        INSERT INTO saga_runs (order_id, user_id, saga, step, lease_token, lease_until, traceparent)
        SELECT id, user_id, %(saga)s, %(step)s, %(lease_token)s, now() + %(lease_seconds)s * interval '1 s',
            %(traceparent)s
        FROM placed)
    SELECT created_at FROM placed"""
_PLACE_FAILED = f"WITH {_ORDER} SELECT created_at FROM placed"


@dataclass(frozen=True, slots=True)
class Placement:
    """Who buys what, how, and under which keys."""

    order_id: UUID
    user_id: UUID
    method: Method
    quantities: dict[UUID, int]
    # Sealed; None when the token bore no e-mail.
    email: bytes | None
    idempotency_key: str
    request_hash: bytes
    # None when explicit items are bought.
    cart_version: int | None
    saga: str
    first_step: str
    lease_token: UUID
    lease_seconds: float
    bounds: Bounds
    # W3C: what the order's saga continues.
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """What the transaction made. `short` names the product that was out of stock: then it failed."""

    basket: Basket
    short: tuple[UUID, int] | None
    created_at: datetime


async def place_order(connection: FixedSql, placement: Placement) -> Placed | None:
    """Writes the order; None when its key or its cart already has one. Raises when unbuyable, or when the
    customer holds too much unpaid."""
    if placement.method is Method.STRIPE:
        await check_card_order(
            connection, placement.bounds, user_id=placement.user_id, quantities=placement.quantities
        )
    offers, failures = await lock_offers(
        connection,
        placement.quantities,
        user_id=placement.user_id,
        most_failures=placement.bounds.failed_checkouts,
    )
    if failures >= placement.bounds.failed_checkouts:
        raise errors.too_many_failed_checkouts(limit=placement.bounds.failed_checkouts)
    basket = price(placement.quantities, offers, placement.method)
    short = first_short(placement.quantities, offers)
    missing = None if short is None else (short.product_id, max(0, short.available or 0))
    parameters = _parameters(placement, basket, missing)
    cursor = await connection.execute(_PLACE if missing is None else _PLACE_FAILED, parameters)
    row = await cursor.fetchone()
    return None if row is None else Placed(basket, missing, created_at=row[0])


def _parameters(placement: Placement, basket: Basket, missing: tuple[UUID, int] | None) -> dict[str, object]:
    lines: tuple[Line, ...] = basket.lines
    return {
        "order_id": placement.order_id,
        "user_id": placement.user_id,
        "status": str(Status.PENDING if missing is None else Status.FAILED),
        "method": str(placement.method),
        "total_cents": basket.total_cents,
        "total_points": basket.total_points,
        "currency": basket.currency,
        "email": placement.email,
        "key": placement.idempotency_key,
        "request_hash": placement.request_hash,
        "cart_version": placement.cart_version,
        "failure_reason": None if missing is None else "out_of_stock",
        "failure_fields": None
        if missing is None
        else Jsonb({"product_id": str(missing[0]), "available": str(missing[1])}),
        "product_ids": [line.product_id for line in lines],
        "titles": [line.title for line in lines],
        "cents": [line.price_cents for line in lines],
        "points": [line.price_points for line in lines],
        "quantities": [line.quantity for line in lines],
        "saga": placement.saga,
        "step": placement.first_step,
        "lease_token": placement.lease_token,
        "lease_seconds": placement.lease_seconds,
        "traceparent": placement.traceparent,
        "trace_id": tracing.trace_id_of(placement.traceparent),
    }
