"""What a stack consists of, as data: each part's command, environment, readiness and place in the order."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import httpx
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local import postgres, valkey
from deploy.local.ports import HOST
from deploy.local.secret_store import Secrets
from deploy.postgres.roles import SERVICES, role
from services.chassis.connections import deadline

ROOT = Path(__file__).resolve().parent.parent.parent
_PROBE_SECONDS = 1.0
# What everything else stands on: started first, ended last.
SERVERS = ("postgres", "nats", "valkey")
_NATS_USER = "aishop"
_MAIL_FROM = "shop@aishop.local"

Probe = Callable[[], Awaitable[bool]]


@dataclass(frozen=True)
class Part:
    """One long-running process. `ready` answers whether it serves; it may raise OSError meanwhile. `sick`
    answers whether it says of itself that only a new start helps."""

    name: str
    command: list[str]
    ready: Probe
    environment: dict[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 15.0
    sick: Probe | None = None


@dataclass(frozen=True)
class RealStripe:
    """Stripe itself instead of the sandbox."""

    secret_key: str
    # None: unknown, so that nobody's signature is right.
    webhook_secret: str | None
    # For a restricted key, which may not ask; None: Stripe says it.
    account_id: str | None = None


@dataclass(frozen=True)
class Plan:
    """Everything needed to write down the process table of one stack."""

    data: Path
    ports: Mapping[str, int]
    secrets: Secrets
    real_stripe: RealStripe | None
    # Variables added to a part's environment, by part; a test arms failpoints so.
    extra: Mapping[str, Mapping[str, str]]
    # Origin of the shop's pages, when they are not the gateway's own.
    frontend: str | None = None

    def address(self, name: str) -> str:
        return f"{HOST}:{self.ports[name]}"

    def url(self, name: str) -> str:
        return f"http://{self.address(name)}"

    def database_url(self, service: str, login: str) -> str:
        name = role(service, login)
        password = self.secrets.role_passwords[name]
        return f"postgresql://{name}:{password}@{self.address('postgres')}/{service}"

    def admin_url(self, database: str) -> str:
        return f"postgresql://postgres:{self.secrets.postgres_password}@{self.address('postgres')}/{database}"

    @property
    def nats_url(self) -> str:
        return f"nats://{_NATS_USER}:{self.secrets.nats_password}@{self.address('nats')}"

    @property
    def valkey_url(self) -> str:
        return f"valkey://:{self.secrets.valkey_password}@{self.address('valkey')}"

    @property
    def webhook_url(self) -> str:
        return f"{self.url('webhooks')}/api/webhooks/stripe"

    @property
    def stripe_key(self) -> str:
        return self.real_stripe.secret_key if self.real_stripe else self.secrets.stripe_secret_key

    @property
    def stripe_webhook_secret(self) -> str:
        known = self.real_stripe.webhook_secret if self.real_stripe else None
        return known or self.secrets.stripe_webhook_secret


def servers(plan: Plan) -> list[Part]:
    """The parts of SERVERS."""
    jetstream = plan.data / "nats"
    config = plan.data / "nats.conf"
    config.write_text(
        f'server_name: aishop\nlisten: "{plan.address("nats")}"\nhttp: "{plan.address("nats monitor")}"\n'
        f'jetstream {{ store_dir: "{jetstream}" }}\n'
        f'authorization {{ user: "{_NATS_USER}", password: "{plan.secrets.nats_password}" }}\n'
    )
    config.chmod(0o600)
    return [
        Part(
            "postgres",
            postgres.command(plan.data / "postgres", plan.ports["postgres"]),
            ready=partial(_answers_sql, plan.admin_url("postgres")),
            stop_signal=signal.SIGINT,
        ),
        Part(
            "nats",
            [str(Path(sys.executable).parent / "nats-server"), "-c", str(config)],
            ready=partial(_says_info, plan.ports["nats"]),
            # A stream that could not be written once (disk full, read-only, no descriptors) takes nothing
            # until NATS is started again; only the full check says so.
            sick=partial(_answers_unwell, f"{plan.url('nats monitor')}/healthz"),
        ),
        Part(
            "valkey",
            valkey.command(plan.data, port=plan.ports["valkey"], password=plan.secrets.valkey_password),
            ready=partial(_answers_pong, plan.ports["valkey"], plan.secrets.valkey_password),
        ),
    ]


def one_shots(plan: Plan) -> list[list[tuple[str, list[str], dict[str, str]]]]:
    """Migrations, then seeds: (name, command, environment), each inner list at the same time."""
    migrations = [
        (
            f"migrate-{service}",
            python(f"services.{service}", "migrate"),
            {"DATABASE_OWNER_URL": plan.database_url(service, "owner")},
        )
        for service in SERVICES
    ]
    seeds = [
        (
            f"seed-{service}",
            python(f"services.{service}", "seed"),
            {"DATABASE_WORKER_URL": plan.database_url(service, "worker"), **environment},
        )
        for service, environment in (("orders", _assets(plan)), ("payments", {}))
    ]
    return [migrations, seeds]


def applications(plan: Plan) -> list[Part]:
    """Our own processes; the outside world's stand-ins come first."""
    parts = [_mailbox(plan), *([] if plan.real_stripe else [_sandbox(plan)])]
    parts += [_service(plan, service, environment) for service, environment in _services(plan).items()]
    parts.append(_gateway(plan))
    return [
        Part(**{**part.__dict__, "environment": part.environment | dict(plan.extra.get(part.name, {}))})
        for part in parts
    ]


def _services(plan: Plan) -> dict[str, dict[str, str]]:
    shop_url = plan.frontend or plan.url("gateway")
    stripe = {} if plan.real_stripe else {"STRIPE_API_BASE": plan.url("stripe")}
    if plan.real_stripe and plan.real_stripe.account_id:
        stripe = {"STRIPE_ACCOUNT_ID": plan.real_stripe.account_id}
    return {
        "wallet": {"EMAIL_HMAC_KEY": plan.secrets.email_hmac_key},
        "payments": {
            "STRIPE_SECRET_KEY": plan.stripe_key,
            "STRIPE_WEBHOOK_SECRETS": plan.stripe_webhook_secret,
            "WEBHOOK_LISTEN": plan.address("webhooks"),
            "SHOP_URL": shop_url,
            "SHOP_ID": plan.secrets.shop_id,
            **stripe,
        },
        "orders": {
            "WALLET_TARGET": plan.address("wallet"),
            "PAYMENTS_TARGET": plan.address("payments"),
            "SMTP_URL": f"smtp://{plan.address('smtp')}",
            "MAIL_FROM": _MAIL_FROM,
            "VALKEY_URL": plan.valkey_url,
            "SHOP_URL": shop_url,
            **_assets(plan),
        },
    }


def _assets(plan: Plan) -> dict[str, str]:
    return {"ASSET_STORE_URL": (plan.data / "assets").absolute().as_uri()}


def _service(plan: Plan, service: str, environment: dict[str, str]) -> Part:
    return Part(
        service,
        python(f"services.{service}"),
        ready=partial(_is_serving, plan.address(service)),
        environment={
            "DATABASE_APP_URL": plan.database_url(service, "app"),
            "DATABASE_WORKER_URL": plan.database_url(service, "worker"),
            "NATS_URL": plan.nats_url,
            "GRPC_LISTEN": plan.address(service),
            "METRICS_LISTEN": plan.address(f"{service} metrics"),
            "DATA_ENCRYPTION_KEYS": plan.secrets.data_encryption_keys,
            **environment,
        },
    )


def _gateway(plan: Plan) -> Part:
    return Part(
        "gateway",
        python("gateway"),
        ready=partial(_answers_http, f"{plan.url('gateway')}/healthz"),
        environment={
            "LISTEN": plan.address("gateway"),
            "METRICS_LISTEN": plan.address("gateway metrics"),
            "WALLET_TARGET": plan.address("wallet"),
            "ORDERS_TARGET": plan.address("orders"),
            "PAYMENTS_TARGET": plan.address("payments"),
            "AUTH_JWT_SECRET": plan.secrets.auth_jwt_secret,
            "SHOP_URL": plan.frontend or plan.url("gateway"),
            "CORS_ORIGINS": plan.frontend or "",
            "VALKEY_URL": plan.valkey_url,
            # Here everybody has the same address.
            "RATE_LIMIT_ADDRESS": "5000, 2000/s",
        },
    )


def _sandbox(plan: Plan) -> Part:
    return Part(
        "stripe",
        python("deploy.local.stripe_sandbox"),
        ready=partial(_answers_http, f"{plan.url('stripe')}/healthz"),
        environment={
            "SANDBOX_LISTEN": plan.address("stripe"),
            "SANDBOX_PUBLIC_URL": plan.url("stripe"),
            "SANDBOX_WEBHOOK_URL": plan.webhook_url,
            "SANDBOX_DATA": str(plan.data / "stripe"),
            "STRIPE_SECRET_KEY": plan.stripe_key,
            "STRIPE_WEBHOOK_SECRET": plan.stripe_webhook_secret,
        },
    )


def _mailbox(plan: Plan) -> Part:
    return Part(
        "mailbox",
        python("deploy.local.mailbox"),
        ready=partial(_answers_http, f"{plan.url('mailbox')}/healthz"),
        environment={
            "MAILBOX_SMTP_LISTEN": plan.address("smtp"),
            "MAILBOX_WEB_LISTEN": plan.address("mailbox"),
            "MAILBOX_DATA": str(plan.data / "mailbox"),
        },
    )


def python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def base_environment() -> dict[str, str]:
    """What every child inherits: enough to run, nothing of the caller's settings."""
    kept = (
        *("PATH", "HOME", "LANG", "TMPDIR", "LOG_LEVEL", "RELAY_POLL_SECONDS"),
        *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER_ARG"),
    )
    ours = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    return {name: os.environ[name] for name in kept if name in os.environ} | ours


async def _answers_sql(url: str) -> bool:
    try:
        connection = await psycopg.AsyncConnection.connect(url, connect_timeout=2)
        # It may take connections and be frozen.
        with deadline(connection, _PROBE_SECONDS):
            async with connection:
                await connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


async def _says_info(port: int) -> bool:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        return (await asyncio.wait_for(reader.readline(), _PROBE_SECONDS)).startswith(b"INFO")
    finally:
        writer.close()


async def _answers_pong(port: int, password: str) -> bool:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"AUTH {password}\r\nPING\r\n".encode())
        answers = [await asyncio.wait_for(reader.readline(), _PROBE_SECONDS) for _ in range(2)]
        return answers == [b"+OK\r\n", b"+PONG\r\n"]
    finally:
        writer.close()


async def _answers_http(url: str) -> bool:
    async with httpx.AsyncClient(timeout=_PROBE_SECONDS) as client:
        try:
            return (await client.get(url)).is_success
        except httpx.HTTPError:
            return False


async def _answers_unwell(url: str) -> bool:
    """No answer is no such answer: it may be busy, frozen or starting."""
    async with httpx.AsyncClient(timeout=_PROBE_SECONDS) as client:
        try:
            return (await client.get(url)).is_server_error
        except httpx.HTTPError:
            return False


async def _is_serving(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
