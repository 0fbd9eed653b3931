"""A running orders service with what it needs beside it, and what the tests do with it and see of it."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from google.protobuf.message import Message as Event
from nats.js import JetStreamContext
from psycopg.rows import dict_row

from deploy.local.ephemeral import pauses
from deploy.local.parts import ROOT
from deploy.local.ports import busy
from protos.events.v1 import events_pb2
from protos.orders.v1 import orders_pb2 as pb
from protos.orders.v1 import orders_pb2_grpc
from services.chassis import grpc_client
from tests.integration.orders.payments_double import PaymentsDouble
from tests.integration.orders.smtp_server import SmtpServer
from tests.integration.wallet.client import KEY, Wallet
from tests.support.servers import Servers

POINTS, STRIPE = pb.PAYMENT_METHOD_POINTS, pb.PAYMENT_METHOD_STRIPE
LEASE_SECONDS = 3
SHOP_URL = "https://shop.test"
Lines = dict[UUID, int]


def free_port() -> int:
    """Below the ephemeral range, where a client that retries could be handed the very port it calls."""
    return next(port for port in random.sample(range(18_000, 30_000), 100) if not busy([port]))


async def query(url: str, statement: str, *parameters: object) -> list[dict[str, Any]]:
    async with await psycopg.AsyncConnection.connect(
        url, row_factory=dict_row, autocommit=True
    ) as connection:
        cursor = await connection.execute(statement.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []


@dataclass(frozen=True)
class RunningWallet:
    """The real wallet beside orders."""

    process: "subprocess.Popen[bytes]"
    address: str
    client: Wallet

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It stands still: calls get no answer, and take effect, if they do, when it goes on."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@dataclass(frozen=True)
class OrdersProcess:
    """Starts orders' own process."""

    servers: Servers
    logs: Path
    wallet_target: str
    payments_target: str
    smtp_url: str
    assets: Path

    @contextmanager
    def running(self, **more: str) -> Iterator["tuple[subprocess.Popen[bytes], str]"]:
        """The process and its address, not yet ready; stopped at the end if it still runs."""
        address = f"127.0.0.1:{free_port()}"
        environment = os.environ | {
            "DATABASE_APP_URL": self.servers.url("orders", "app"),
            "DATABASE_WORKER_URL": self.servers.url("orders", "worker"),
            "NATS_URL": self.servers.nats_url,
            "DATA_ENCRYPTION_KEYS": f"test:{KEY}",
            "WALLET_TARGET": self.wallet_target,
            "PAYMENTS_TARGET": self.payments_target,
            "SMTP_URL": self.smtp_url,
            "MAIL_FROM": "shop@aishop.test",
            "SHOP_URL": SHOP_URL,
            "ASSET_STORE_URL": self.assets.as_uri(),
            "SAGA_LEASE_SECONDS": str(LEASE_SECONDS),
            "GRPC_LISTEN": address,
            **more,
        }
        command = [sys.executable, "-m", "services.orders"]
        with (self.logs / "orders.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=log)
        try:
            yield process, address
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(15)


@dataclass
class Shop:
    """What the tests do with a running orders service."""

    address: str
    admin_url: str
    wallet: Wallet
    payments: PaymentsDouble
    smtp: SmtpServer
    jetstream: JetStreamContext
    catalog: "orders_pb2_grpc.CatalogServiceAsyncStub"
    carts: "orders_pb2_grpc.CartServiceAsyncStub"
    orders: "orders_pb2_grpc.OrdersServiceAsyncStub"
    operator: "orders_pb2_grpc.OrdersOperatorServiceAsyncStub"

    async def sql(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Runs as the superuser, who reads past row-level security."""
        return await query(self.admin_url, statement, *parameters)

    async def until(self, statement: str, *parameters: object, seconds: float = 20) -> list[dict[str, Any]]:
        """Waits until the query finds rows."""
        pause = pauses()
        async with asyncio.timeout(seconds):
            while not (rows := await self.sql(statement, *parameters)):
                await asyncio.sleep(next(pause))
        return rows

    async def product(
        self,
        *,
        stock: int | None = 100,
        points: int = 50,
        cents: int = 500,
        active: bool = True,
        title: str = "Picture",
        type: str = "digital",
        asset_key: str = "samples/01.png",
    ) -> UUID:
        """A new product with stock that was received."""
        [row] = await self.sql(
            "INSERT INTO products (title, type, price_cents, price_points, currency, asset_key, active)"
            " VALUES (%s, %s, %s, %s, 'usd', %s, %s) RETURNING id",
            title,
            type,
            cents,
            points,
            asset_key,
            active,
        )
        product_id: UUID = row["id"]
        await self.sql(
            "INSERT INTO product_inventory (product_id, stock_quantity) VALUES (%s, %s)", product_id, stock
        )
        if stock:
            await self.sql(
                "INSERT INTO stock_movements (product_id, delta, reason, actor)"
                " VALUES (%s, %s, 'received', 'test')",
                product_id,
                stock,
            )
        return product_id

    async def restock(self, product_id: UUID, pieces: int) -> None:
        await self.sql(
            "WITH moved AS (INSERT INTO stock_movements (product_id, delta, reason, actor)"
            " VALUES (%s, %s, 'received', 'test') RETURNING product_id, delta)"
            " UPDATE product_inventory i SET stock_quantity = stock_quantity + delta FROM moved"
            " WHERE i.product_id = moved.product_id",
            product_id,
            pieces,
        )

    async def stock(self, product_id: UUID) -> tuple[int, int]:
        """In stock and reserved; asserts that stock is the sum of its movements (I9)."""
        [row] = await self.sql(
            "SELECT stock_quantity, reserved_quantity, coalesce(sum(delta), 0) AS moved"
            " FROM product_inventory i LEFT JOIN stock_movements m USING (product_id)"
            " WHERE product_id = %s GROUP BY i.product_id",
            product_id,
        )
        assert row["stock_quantity"] == row["moved"]
        return row["stock_quantity"], row["reserved_quantity"]

    async def put(self, user_id: UUID, product_id: UUID, quantity: int, **more: Any) -> pb.Cart:
        request = pb.SetCartItemRequest(
            user_id=str(user_id), product_id=str(product_id), quantity=quantity, **more
        )
        return (await self.carts.SetCartItem(request)).cart

    async def cart(self, user_id: UUID) -> tuple[int, Lines]:
        """Version and lines."""
        cart = (await self.carts.GetCart(pb.GetCartRequest(user_id=str(user_id)))).cart
        return cart.version, {UUID(item.product_id): item.quantity for item in cart.items}

    async def place(
        self,
        user_id: UUID,
        items: Lines | None = None,
        *,
        method: "pb.PaymentMethod.ValueType" = POINTS,
        key: str | None = None,
        email: str = "",
    ) -> pb.Order:
        """Buys items, or the cart."""
        request = pb.PlaceOrderRequest(
            user_id=str(user_id),
            email=email,
            idempotency_key=key or str(uuid4()),
            payment_method=method,
            items=[pb.CartLine(product_id=str(id), quantity=count) for id, count in (items or {}).items()],
        )
        return (await self.orders.PlaceOrder(request)).order

    async def get(self, user_id: UUID, order_id: str) -> pb.Order:
        request = pb.GetOrderRequest(user_id=str(user_id), order_id=order_id)
        return (await self.orders.GetOrder(request)).order

    async def cancel(self, user_id: UUID, order_id: str) -> pb.Order:
        request = pb.CancelOrderRequest(user_id=str(user_id), order_id=order_id)
        return (await self.orders.CancelOrder(request)).order

    async def refund(
        self, order_id: str, pieces: Lines | None = None, *, refund_id: UUID | None = None, **more: Any
    ) -> pb.OrderRefund:
        """An operator gives back pieces, or all that is left."""
        request = pb.RefundOrderRequest(
            order_id=order_id,
            refund_id=str(refund_id or uuid4()),
            items=[pb.CartLine(product_id=str(id), quantity=count) for id, count in (pieces or {}).items()],
            **{"actor": "operator", "reason": "did not like it", **more},
        )
        return (await self.operator.RefundOrder(request)).refund

    async def grant(self, user_id: UUID, order_id: str, product_id: UUID) -> None:
        """Makes sure that an order has its download."""
        await self.sql(
            "INSERT INTO download_grants (order_id, product_id, user_id, downloads_left, reissues_left,"
            " expires_at) VALUES (%s, %s, %s, 5, 3, now() + interval '1 d') ON CONFLICT DO NOTHING",
            order_id,
            product_id,
            user_id,
        )

    async def grants(self, order_id: str) -> dict[UUID, str]:
        """How the downloads of an order stand."""
        rows = await self.sql("SELECT * FROM download_grants WHERE order_id = %s", order_id)
        return {row["product_id"]: row["status"] for row in rows}

    async def downloads(self, user_id: UUID, order_id: str) -> list[pb.DownloadGrant]:
        request = pb.ListDownloadsRequest(user_id=str(user_id), order_id=order_id)
        return list((await self.orders.ListDownloads(request)).items)

    async def token(self, user_id: UUID, order_id: str) -> str:
        """A fresh link to the order's only picture."""
        [grant] = await self.downloads(user_id, order_id)
        return grant.token

    async def download(
        self, user_id: UUID, token: str, *, download_id: UUID | None = None
    ) -> tuple[pb.DownloadResponse.Head, bytes]:
        """Head and bytes of a file."""
        request = pb.DownloadRequest(
            user_id=str(user_id), token=token, download_id=str(download_id or uuid4())
        )
        parts = [part async for part in self.orders.Download(request)]
        return parts[0].head, b"".join(part.chunk for part in parts[1:])

    async def reissue(
        self, user_id: UUID, order_id: str, product_id: UUID, *, key: str | None = None
    ) -> pb.DownloadGrant:
        request = pb.ReissueDownloadRequest(
            user_id=str(user_id),
            order_id=order_id,
            product_id=str(product_id),
            idempotency_key=key or str(uuid4()),
        )
        return (await self.orders.ReissueDownload(request)).download

    async def ship(self, order_id: str, **more: Any) -> pb.Order:
        """An operator has sent the order's goods."""
        request = pb.ShipOrderRequest(
            order_id=order_id,
            **{
                "carrier": "Post",
                "tracking_number": "P-1",
                "tracking_url": "https://post.test/P-1",
                "actor": "operator",
                "reason": "packed",
                **more,
            },
        )
        return (await self.operator.ShipOrder(request)).order

    async def mails_sent(self, order_id: str, *, seconds: float = 20) -> set[str]:
        """The kinds of an order's mails once all are sent; asserts that each came once."""
        await self.until(
            "SELECT 1 FROM mails WHERE order_id = %s HAVING bool_and(sent_at IS NOT NULL)",
            order_id,
            seconds=seconds,
        )
        ids = self.smtp.ids(order_id)
        assert len(ids) == len(set(ids))
        return {each.removeprefix(f"<{order_id}.").partition("@")[0] for each in ids}

    def mail(self, order_id: str, kind: str) -> Message:
        """The one mail of a kind about an order."""
        [mail] = [each for each in self.smtp.received if f"{order_id}.{kind}" in each["Message-ID"]]
        return mail

    async def refund_becomes(self, refund_id: str, status: str) -> dict[str, Any]:
        """Waits for a refund's status; returns its row."""
        [row] = await self.until("SELECT * FROM refunds WHERE id = %s AND status = %s", refund_id, status)
        return row

    async def inspect(self, order_id: str) -> pb.InspectOrderResponse:
        return await self.operator.InspectOrder(pb.InspectOrderRequest(order_id=order_id))

    async def becomes(self, order_id: str, status: str, *, seconds: float = 20) -> dict[str, Any]:
        """Waits for an order's status; returns its row."""
        rows = await self.until(
            "SELECT * FROM orders WHERE id = %s AND status = %s", order_id, status, seconds=seconds
        )
        return rows[0]

    async def row(self, order_id: str) -> dict[str, Any]:
        [row] = await self.sql("SELECT * FROM orders WHERE id = %s", order_id)
        return row

    async def run_ends(self, order_id: str, status: str, *, seconds: float = 20) -> dict[str, Any]:
        """Waits until the order's run ended so; returns its row."""
        rows = await self.until(
            "SELECT * FROM saga_runs WHERE order_id = %s AND status = %s", order_id, status, seconds=seconds
        )
        return rows[0]

    async def history(self, order_id: str) -> list[tuple[str | None, str, str, str]]:
        rows = await self.sql("SELECT * FROM order_history WHERE order_id = %s ORDER BY id", order_id)
        return [(row["from_status"], row["to_status"], row["actor"], row["reason"]) for row in rows]

    async def facts(self, order_id: str) -> list[Event]:
        """What the outbox says of an order."""
        kinds: dict[str, Any] = {"completed": events_pb2.OrderCompleted, "refunded": events_pb2.OrderRefunded}
        rows = await self.sql(
            "SELECT subject, payload FROM outbox WHERE position(%s in payload) > 0 ORDER BY id",
            order_id.encode(),
        )
        return [
            kinds.get(row["subject"].rpartition(".")[2], events_pb2.OrderEnded).FromString(row["payload"])
            for row in rows
        ]

    async def publish(self, subject: str, event: Event, *, wait: bool = True) -> UUID:
        """Publishes a fact; waits until orders has dealt with it."""
        message_id = uuid4()
        headers = {"Nats-Msg-Id": str(message_id)}
        await self.jetstream.publish(subject, event.SerializeToString(), headers=headers)
        if wait:
            await self.until("SELECT 1 FROM inbox WHERE message_id = %s", message_id)
        return message_id


@asynccontextmanager
async def connected(
    address: str,
    servers: Servers,
    *,
    wallet: Wallet,
    payments: PaymentsDouble,
    smtp: SmtpServer,
    jetstream: JetStreamContext,
) -> AsyncIterator[Shop]:
    """A client of an orders service that is starting."""
    async with grpc_client.channel(address) as channel:
        async with asyncio.timeout(60):
            await channel.channel_ready()
        yield Shop(
            address,
            servers.admin_url("orders"),
            wallet,
            payments,
            smtp,
            jetstream,
            orders_pb2_grpc.CatalogServiceStub(channel),
            orders_pb2_grpc.CartServiceStub(channel),
            orders_pb2_grpc.OrdersServiceStub(channel),
            orders_pb2_grpc.OrdersOperatorServiceStub(channel),
        )
