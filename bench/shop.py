"""A shop to measure: customers with points, products with stock, in a stack of its own."""

import asyncio
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg

from deploy.local import tokens
from deploy.local.stackfile import StackFile
from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis.grpc_client import call, channel

_POINTS = 1_000_000
_STOCK = 1_000_000
_TOKEN_SECONDS = 3600
_GRANT_SECONDS = 5.0


@dataclass(frozen=True)
class Shop:
    # One bearer token for each customer.
    tokens: list[str]
    products: list[UUID]


def fill(stack: StackFile, *, customers: int, products: int) -> Shop:
    """Gives every customer points as an operator does, so that the audit holds."""
    users = [uuid4() for _ in range(customers)]
    asyncio.run(_grant(stack, users))
    made = _make_products(stack, products)
    return Shop([_token(stack, user) for user in users], made)


def _token(stack: StackFile, user: UUID) -> str:
    return tokens.mint(
        secret=stack.auth_jwt_secret,
        user_id=user,
        email=f"{user.hex[:12]}@example.com",
        operator=False,
        ttl_seconds=_TOKEN_SECONDS,
    )


async def _grant(stack: StackFile, users: list[UUID]) -> None:
    async with channel(stack.grpc["wallet"]) as wallet:
        adjust = wallet_pb2_grpc.WalletServiceStub(wallet).AdjustPoints
        for user in users:
            request = wallet_pb2.AdjustPointsRequest(
                user_id=str(user),
                adjustment_id=str(uuid4()),
                points=_POINTS,
                reason="to be spent in the bench",
                actor="bench",
            )
            await call(adjust, request, timeout_seconds=_GRANT_SECONDS)


def _make_products(stack: StackFile, count: int) -> list[UUID]:
    with psycopg.connect(stack.database_urls["orders"]) as connection:
        rows = connection.execute(
            "INSERT INTO products (title, price_cents, price_points, currency, asset_key)"
            " SELECT 'Bench ' || n, 100, 10, 'usd', 'bench' FROM generate_series(1, %s) n RETURNING id",
            (count,),
        ).fetchall()
        ids = [row[0] for row in rows]
        connection.execute(
            "INSERT INTO product_inventory (product_id, stock_quantity) SELECT unnest(%s::uuid[]), %s",
            (ids, _STOCK),
        )
        connection.execute(
            "INSERT INTO stock_movements (product_id, delta, reason, actor)"
            " SELECT unnest(%s::uuid[]), %s, 'received', 'bench'",
            (ids, _STOCK),
        )
    return ids
