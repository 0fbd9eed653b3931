"""A running wallet, and what the tests do with it and see in its database."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.protobuf.message import Message
from nats.js import JetStreamContext
from psycopg.rows import dict_row

from deploy.local.ephemeral import pauses
from protos.events.v1 import events_pb2
from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis import grpc_client
from services.chassis.grpc_client import as_domain_error
from services.wallet import queries, rules
from tests.support.servers import Servers

# 32 bytes, as base64url.
KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"


@dataclass(frozen=True)
class WalletProcess:
    """Starts wallet's own process, and knows its database and its bus."""

    servers: Servers
    logs: Path

    def url(self, login: str) -> str:
        return self.servers.url("wallet", login)

    def environment(self, **more: str) -> dict[str, str]:
        return os.environ | {
            "DATABASE_OWNER_URL": self.url("owner"),
            "DATABASE_APP_URL": self.url("app"),
            "DATABASE_WORKER_URL": self.url("worker"),
            "NATS_URL": self.servers.nats_url,
            "DATA_ENCRYPTION_KEYS": f"test:{KEY}",
            "EMAIL_HMAC_KEY": KEY,
            **more,
        }

    def migrate(self) -> None:
        command = [sys.executable, "-m", "services.wallet", "migrate"]
        subprocess.run(command, env=self.environment(), check=True)

    @contextmanager
    def running(self, **more: str) -> Iterator["tuple[subprocess.Popen[bytes], str]"]:
        """The process and its address, not yet ready; killed at the end if it still runs."""
        address = f"127.0.0.1:{_free_port()}"
        with (self.logs / "wallet.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.wallet"],
                env=self.environment(GRPC_LISTEN=address, **more),
                stderr=log,
            )
        try:
            yield process, address
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(15)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Wallet:
    """What the tests do with a running wallet, and how they look into its database."""

    stub: "wallet_pb2_grpc.WalletServiceAsyncStub"
    jetstream: JetStreamContext
    superuser_url: str

    async def sql(self, statement: str, *parameters: object) -> list[dict[str, object]]:
        """Runs as the superuser, who reads past row-level security."""
        connect = psycopg.AsyncConnection.connect(self.superuser_url, row_factory=dict_row, autocommit=True)
        async with await connect as connection:
            cursor = await connection.execute(statement.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []

    async def publish(self, event: Message | bytes) -> UUID:
        """Publishes to wallet's subject; returns the message's id."""
        message_id = uuid4()
        payload = event if isinstance(event, bytes) else event.SerializeToString()
        headers = {"Nats-Msg-Id": str(message_id)}
        await self.jetstream.publish("payments.points.grant_changed", payload, headers=headers)
        return message_id

    async def grant(
        self, user_id: UUID, net_points: int, *, source: UUID | None = None, version: int = 1
    ) -> UUID:
        """Publishes what a source is worth, and waits until wallet knows."""
        source = source or uuid4()
        await self.publish(
            events_pb2.PointsGrantChanged(
                source_id=str(source),
                user_id=str(user_id),
                version=version,
                net_points=net_points,
                payment_intent_id="pi_test",
                description="Premium: 550 points",
            )
        )
        query = "SELECT 1 FROM grants WHERE source_id = %s AND version >= %s"
        await self.until(query, str(source), version)
        return source

    async def until(self, query: str, *parameters: object) -> list[dict[str, object]]:
        """Waits until the query finds rows."""
        pause = pauses()
        async with asyncio.timeout(10):
            while not (rows := await self.sql(query, *parameters)):
                await asyncio.sleep(next(pause))
        return rows

    async def user(self, points: int = 0) -> UUID:
        """A new user with a bought balance."""
        user_id = uuid4()
        if points:
            await self.grant(user_id, points)
        return user_id

    async def profile(self, user_id: UUID, *, email: str = "") -> wallet_pb2.Profile:
        request = wallet_pb2.GetProfileRequest(user_id=str(user_id), email=email)
        return (await self.stub.GetProfile(request)).profile

    async def balance(self, user_id: UUID) -> tuple[int, int, int]:
        """points, held, debt"""
        profile = await self.profile(user_id)
        return profile.points, profile.points_held, profile.points_debt

    async def reserve(self, user_id: UUID, order_id: UUID, points: int) -> wallet_pb2.Hold:
        request = wallet_pb2.ReservePointsRequest(user_id=str(user_id), order_id=str(order_id), points=points)
        return (await self.stub.ReservePoints(request)).hold

    async def capture(self, *orders: tuple[UUID, UUID]) -> list[str]:
        request = wallet_pb2.CapturePointsRequest(
            captures=[
                wallet_pb2.CapturePointsRequest.Capture(
                    user_id=str(user_id), order_id=str(order_id), description="Order"
                )
                for user_id, order_id in orders
            ]
        )
        response = await self.stub.CapturePoints(request)
        assert [result.order_id for result in response.results] == [str(order) for _, order in orders]
        return [
            wallet_pb2.CaptureOutcome.Name(result.outcome).removeprefix("CAPTURE_OUTCOME_")
            for result in response.results
        ]

    async def release(self, user_id: UUID, order_id: UUID) -> str:
        request = wallet_pb2.ReleasePointsRequest(user_id=str(user_id), order_id=str(order_id))
        status = (await self.stub.ReleasePoints(request)).status
        return wallet_pb2.HoldStatus.Name(status).removeprefix("HOLD_STATUS_")

    async def refund(
        self, user_id: UUID, order_id: UUID, points: int, *, refund_id: UUID | None = None, reason: str = ""
    ) -> wallet_pb2.Transaction:
        request = wallet_pb2.RefundOrderPointsRequest(
            user_id=str(user_id),
            order_id=str(order_id),
            refund_id=str(refund_id or uuid4()),
            points=points,
            reason=reason,
        )
        return (await self.stub.RefundOrderPoints(request)).transaction

    async def adjust(
        self,
        user_id: UUID,
        points: int,
        *,
        adjustment_id: UUID | None = None,
        reason: str = "A gift",
        actor: str = "cli:ada",
    ) -> wallet_pb2.AdjustPointsResponse:
        request = wallet_pb2.AdjustPointsRequest(
            user_id=str(user_id),
            adjustment_id=str(adjustment_id or uuid4()),
            points=points,
            reason=reason,
            actor=actor,
        )
        return await self.stub.AdjustPoints(request)

    async def audited(self, user_id: UUID) -> list[dict[str, object]]:
        """What operators did to a user."""
        columns = "actor, action, reason, details"
        return await self.sql(
            f"SELECT {columns} FROM audit_log WHERE subject = %s ORDER BY seq", str(user_id)
        )

    async def spent(self, user_id: UUID, points: int) -> UUID:
        """An order that these points were spent on."""
        order_id = uuid4()
        await self.reserve(user_id, order_id, points)
        assert await self.capture((user_id, order_id)) == ["CAPTURED"]
        return order_id

    async def ledger(self, user_id: UUID) -> list[rules.Entry]:
        rows = await self.sql("SELECT * FROM points_transactions WHERE user_id = %s ORDER BY seq", user_id)
        return [queries.entry_of(row) for row in rows]

    async def account(self, user_id: UUID) -> rules.Account:
        columns = "id, points, points_held, points_debt, ledger_seq, ledger_head"
        [row] = await self.sql(f"SELECT {columns} FROM profiles WHERE id = %s", user_id)
        return queries.account_of(row.values())

    async def assert_adds_up(self, user_id: UUID) -> None:
        """I1, I2 and I3 of one user."""
        account, entries = await self.account(user_id), await self.ledger(user_id)
        assert rules.broken_at(account, entries) is None
        holds = await self.sql("SELECT * FROM holds WHERE user_id = %s", user_id)
        assert account.balance.held == sum(int(str(h["points"])) for h in holds if h["status"] == "held")
        spends = sorted((str(entry.order_id), -entry.amount) for entry in entries if entry.type == "spend")
        captured = sorted((str(h["order_id"]), h["points"]) for h in holds if h["status"] == "captured")
        assert spends == captured


async def connected(process: WalletProcess, address: str, jetstream: JetStreamContext) -> Wallet:
    """A client of a wallet that is starting."""
    channel = grpc_client.channel(address)
    async with asyncio.timeout(60):
        await channel.channel_ready()
    stub = wallet_pb2_grpc.WalletServiceStub(channel)
    return Wallet(stub, jetstream, process.servers.admin_url("wallet"))


async def refused(call: Awaitable[object], code: grpc.StatusCode, reason: str) -> dict[str, str]:
    """Asserts that a call is refused with a code and a reason; returns the fields."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() == code
    told = as_domain_error(error.value)
    assert told.reason == reason
    return told.fields
