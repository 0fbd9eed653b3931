"""payments as it really runs: its own process on a migrated database, NATS beside it, Stripe scripted."""

import asyncio
import hashlib
import hmac
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import httpx
import psycopg
import pytest
from google.protobuf.message import Message
from psycopg.rows import dict_row
from pydantic import SecretStr

from deploy.local.ephemeral import pauses
from deploy.local.ports import busy
from protos.payments.v1 import payments_pb2 as pb
from protos.payments.v1 import payments_pb2_grpc
from services.chassis.db import Database
from services.chassis.errors import DomainError
from services.chassis.grpc_client import as_domain_error
from tests.integration.payments.stripe_double import Fields, StripeDouble, event_body, running_double
from tests.support.plain_http import NO_TLS
from tests.support.servers import Servers

KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"
SECRETS = (f"whsec_{'new' * 11}", f"whsec_{'old' * 11}")
SHOP_URL, SHOP_ID = "https://shop.test", "shop.test"


def free_port() -> int:
    """Below the ephemeral range, where a client that retries could be handed the very port it calls."""
    return next(port for port in random.sample(range(18_000, 30_000), 100) if not busy([port]))


@dataclass(frozen=True)
class PaymentsProcess:
    """Starts payments' own process, and knows its database and its bus."""

    servers: Servers
    logs: Path
    name: str = "payments"

    def url(self, login: str) -> str:
        address = self.servers.url("payments", login)
        return f"{address.rpartition('/')[0]}/{self.name}"

    @property
    def admin_url(self) -> str:
        return self.servers.admin_url(self.name)

    def environment(self, **more: str) -> dict[str, str]:
        return os.environ | {
            "DATABASE_OWNER_URL": self.url("owner"),
            "DATABASE_APP_URL": self.url("app"),
            "DATABASE_WORKER_URL": self.url("worker"),
            "NATS_URL": self.servers.nats_url,
            "DATA_ENCRYPTION_KEYS": f"test:{KEY}",
            "STRIPE_SECRET_KEY": "sk_test_scripted",
            "STRIPE_WEBHOOK_SECRETS": ",".join(SECRETS),
            "SHOP_URL": SHOP_URL,
            **more,
        }

    def once(self, command: str) -> None:
        arguments = [sys.executable, "-m", "services.payments", command]
        subprocess.run(arguments, env=self.environment(), check=True)

    @contextmanager
    def running(self, stripe_url: str, **more: str) -> Iterator["Started"]:
        """The process, not yet ready; stopped at the end if it still runs."""
        grpc_address = f"127.0.0.1:{free_port()}"
        webhooks = more.pop("WEBHOOK_LISTEN", f"127.0.0.1:{free_port()}")
        environment = self.environment(
            GRPC_LISTEN=grpc_address, WEBHOOK_LISTEN=webhooks, STRIPE_API_BASE=stripe_url, **more
        )
        with (self.logs / "payments.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.payments"], env=environment, stderr=log
            )
        try:
            yield Started(process, grpc_address, f"http://{webhooks}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(15)


@dataclass(frozen=True)
class Started:
    process: "subprocess.Popen[bytes]"
    grpc_address: str
    webhook_origin: str


@pytest.fixture(scope="session")
def process(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> PaymentsProcess:
    process = PaymentsProcess(servers, tmp_path_factory.mktemp("payments"))
    for command in ("migrate", "seed"):
        process.once(command)
    return process


@pytest.fixture(scope="session")
async def database(process: PaymentsProcess) -> AsyncIterator[Database]:
    """The database as the service's own code sees it, for what no RPC reaches."""
    database = Database(
        app_url=SecretStr(process.url("app")),
        worker_url=SecretStr(process.url("worker")),
        pool_size=10,
        name="test",
    )
    yield database
    await database.dispose()


def sign(body: bytes, *, secret: str = SECRETS[0], at: float | None = None) -> str:
    stamp = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


@dataclass
class Payments:
    """What the tests do with a running payments, and how they look into its database."""

    stub: "payments_pb2_grpc.PaymentsServiceAsyncStub"
    operator: "payments_pb2_grpc.PaymentsOperatorServiceAsyncStub"
    stripe: StripeDouble
    started: Started
    http: httpx.AsyncClient
    superuser_url: str
    user_id: UUID = field(default_factory=uuid4)

    async def sql(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Runs as the superuser, who reads past row-level security."""
        connect = psycopg.AsyncConnection.connect(self.superuser_url, row_factory=dict_row, autocommit=True)
        async with await connect as connection:
            cursor = await connection.execute(statement.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []

    async def until(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        """Waits until the query finds rows."""
        pause = pauses()
        async with asyncio.timeout(20):
            while not (rows := await self.sql(query, *parameters)):
                await asyncio.sleep(next(pause))
        return rows

    async def until_status(self, checkout_id: str, status: str) -> dict[str, Any]:
        [row] = await self.until("SELECT * FROM checkouts WHERE id = %s AND status = %s", checkout_id, status)
        return row

    async def settled(self, event_id: str) -> dict[str, Any]:
        """The stored event, once it is handled."""
        query = "SELECT * FROM stripe_events WHERE id = %s AND status <> 'received'"
        [row] = await self.until(query, event_id)
        return row

    async def row(self, checkout_id: str) -> dict[str, Any]:
        [row] = await self.sql("SELECT * FROM checkouts WHERE id = %s", checkout_id)
        return row

    async def change(self, checkout_id: str, assignments: str) -> None:
        """Turns the clock: sets the times of a checkout."""
        await self.sql(f"UPDATE checkouts SET {assignments} WHERE id = %s", checkout_id)

    async def points_checkout(
        self, *, key: str | None = None, package_id: str = "premium", **more: Any
    ) -> pb.Checkout:
        request = pb.CreatePointsCheckoutRequest(
            user_id=str(self.user_id),
            email="buyer@example.com",
            idempotency_key=key or str(uuid4()),
            package_id=package_id,
            **more,
        )
        return (await self.stub.CreatePointsCheckout(request)).checkout

    def order_request(self, order_id: UUID, *, unit_price_cents: int = 700) -> pb.CreateOrderCheckoutRequest:
        return pb.CreateOrderCheckoutRequest(
            user_id=str(self.user_id),
            order_id=str(order_id),
            currency="usd",
            lines=[
                pb.OrderLine(title="Dawn", unit_price_cents=unit_price_cents, quantity=2),
                pb.OrderLine(title="Dusk", unit_price_cents=100, quantity=1),
            ],
        )

    async def order_checkout(self, order_id: UUID | None = None) -> pb.Checkout:
        request = self.order_request(order_id or uuid4())
        return (await self.stub.CreateOrderCheckout(request)).checkout

    async def expire(self, order_id: UUID | str) -> pb.Checkout:
        request = pb.ExpireOrderCheckoutRequest(user_id=str(self.user_id), order_id=str(order_id))
        return (await self.stub.ExpireOrderCheckout(request)).checkout

    async def get(self, checkout_id: str, *, user_id: UUID | None = None) -> pb.Checkout:
        request = pb.GetCheckoutRequest(user_id=str(user_id or self.user_id), checkout_id=checkout_id)
        return (await self.stub.GetCheckout(request)).checkout

    async def post(self, body: bytes, *, signature: str | bytes | None = None) -> httpx.Response:
        """Delivers a webhook, well signed unless the test says otherwise ('' sends no signature)."""
        if signature is None:
            signature = sign(body)
        raw = signature.encode() if isinstance(signature, str) else signature
        headers = {b"stripe-signature": raw} if raw else {}
        return await self.http.post("/api/webhooks/stripe", content=body, headers=headers)

    async def deliver(self, event_type: str, session: Fields, *, event_id: str | None = None) -> str:
        """Delivers an event and waits until it is settled; returns its id."""
        event_id = event_id or f"evt_{uuid4().hex}"
        response = await self.post(event_body(event_id, event_type, session))
        assert (response.status_code, response.json()) == (200, {"received": True})
        await self.settled(event_id)
        return event_id

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The process stands still, as in a long pause of its machine."""
        os.kill(self.started.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.started.process.pid, signal.SIGCONT)

    async def facts(self, subject: str, event: type[Message], checkout_id: str) -> list[Any]:
        """The facts in the outbox about one checkout."""
        rows = await self.sql("SELECT payload FROM outbox WHERE subject = %s ORDER BY id", subject)
        facts: list[Any] = [event.FromString(row["payload"]) for row in rows]
        return [
            fact
            for fact in facts
            if getattr(fact, "source_id", None) == checkout_id
            or getattr(fact, "checkout_id", None) == checkout_id
        ]


@contextmanager
def refused(reason: str, code: grpc.StatusCode, **fields: str) -> Iterator[None]:
    """The block's call fails with this reason, code and these fields."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error: DomainError = as_domain_error(caught.value)
    assert (error.reason, caught.value.code()) == (reason, code)
    assert fields.items() <= error.fields.items()


@asynccontextmanager
async def payments_running(
    process: PaymentsProcess, stripe: StripeDouble, **more: str
) -> AsyncIterator[Payments]:
    """A payments process of one test."""
    with process.running(stripe.url, **more) as started:
        async with (
            grpc.aio.insecure_channel(started.grpc_address) as channel,
            httpx.AsyncClient(base_url=started.webhook_origin, verify=NO_TLS) as http,
        ):
            async with asyncio.timeout(60):
                await channel.channel_ready()
            yield Payments(
                payments_pb2_grpc.PaymentsServiceStub(channel),
                payments_pb2_grpc.PaymentsOperatorServiceStub(channel),
                stripe,
                started,
                http,
                process.admin_url,
            )


@pytest.fixture(scope="session")
def stripe_double() -> Iterator[StripeDouble]:
    with running_double() as double:
        yield double


@pytest.fixture(scope="module")
async def running_payments(process: PaymentsProcess, stripe_double: StripeDouble) -> AsyncIterator[Payments]:
    """Ends with the module: beside one that asks another Stripe, each takes the other's work and fails."""
    async with payments_running(process, stripe_double) as payments:
        yield payments


@pytest.fixture
def payments(running_payments: Payments) -> Iterator[Payments]:
    """The running service, for a customer of this test; no accident is left to the next one."""
    running_payments.user_id = uuid4()
    yield running_payments
    running_payments.stripe.accidents.clear()
    running_payments.stripe.before_answer = None
    running_payments.stripe.refusals.clear()
    running_payments.stripe.look_seconds = 0.0


@pytest.fixture(scope="session")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Any, str]]:
    """The sandbox's process, and the address where it expects payments' webhooks."""
    # The module needs this one's names.
    from tests.integration.payments import sandbox as at

    address, webhooks = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with at.sandbox_running(address, webhooks, tmp_path_factory.mktemp("sandbox")):
        stripe = at.Sandbox(f"http://{address}")
        await at.until_healthy(stripe.http)
        yield stripe, webhooks
        await stripe.http.aclose()


@pytest.fixture(scope="module")
async def shared_sandboxed(process: PaymentsProcess, sandbox: tuple[Any, str]) -> AsyncIterator[Payments]:
    """Ends with the module, as `running_payments` does."""
    stripe, webhooks = sandbox
    async with payments_running(process, stripe, WEBHOOK_LISTEN=webhooks) as payments:
        yield payments


@pytest.fixture
async def sandboxed(shared_sandboxed: Payments) -> AsyncIterator[Payments]:
    """payments with the sandbox for its Stripe, for a customer of this test."""
    from tests.integration.payments.sandbox import sandbox_of

    shared_sandboxed.user_id = uuid4()
    yield shared_sandboxed
    await sandbox_of(shared_sandboxed).quiet()
