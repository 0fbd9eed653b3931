"""A shop to measure: customers with points, products with stock, in a stack of its own."""

import asyncio
from dataclasses import dataclass
from uuid import UUID, uuid4

import nats
import psycopg

from deploy.local import tokens
from deploy.local.ephemeral import wait_until
from deploy.local.stackfile import StackFile
from protos.events.v1 import events_pb2
from services.chassis.bus import ensure_stream

_POINTS = 1_000_000
_STOCK = 1_000_000
_TOKEN_SECONDS = 3600


@dataclass(frozen=True)
class Shop:
    # One bearer token for each customer.
    tokens: list[str]
    products: list[UUID]


def fill(stack: StackFile, *, customers: int, products: int) -> Shop:
    """Gives every customer points the way payments does, by its event, so that the audit holds."""
    users = [uuid4() for _ in range(customers)]
    asyncio.run(_grant(stack, users))
    made = _make_products(stack, products)
    wait_until(lambda: _granted(stack) >= customers, seconds=60, what="points of every customer")
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
    client = await nats.connect(stack.nats_url)
    jetstream = client.jetstream()
    await ensure_stream(jetstream, "PAYMENTS")
    for user in users:
        grant = events_pb2.PointsGrantChanged(
            source_id=str(uuid4()), user_id=str(user), version=1, net_points=_POINTS, description="Bench"
        )
        await jetstream.publish(
            "payments.points.grant_changed",
            grant.SerializeToString(),
            headers={"Nats-Msg-Id": str(uuid4())},
        )
    await client.close()


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


def _granted(stack: StackFile) -> int:
    with psycopg.connect(stack.database_urls["wallet"]) as connection:
        row = connection.execute("SELECT count(*) FROM profiles WHERE points > 0").fetchone()
    return int(row[0]) if row else 0
