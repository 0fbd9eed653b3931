"""The orders database, migrated and seeded, as the service's logins see it."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.js import JetStreamContext
from pydantic import SecretStr

from deploy.local.parts import ROOT
from services.chassis.bus import ensure_stream
from services.chassis.db import Database
from tests.integration.orders.payments_double import PaymentsDouble, running_payments
from tests.integration.orders.shop import OrdersProcess, RunningWallet, Shop, connected, free_port
from tests.integration.orders.smtp_server import SmtpServer
from tests.integration.wallet.client import WalletProcess
from tests.integration.wallet.client import connected as connected_to_wallet
from tests.support.servers import Servers


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the asset store; the seed puts pictures in."""
    return tmp_path_factory.mktemp("assets")


@pytest.fixture(scope="session")
def migrated(servers: Servers, assets: Path) -> Servers:
    migrate_and_seed(servers, assets)
    return servers


def migrate_and_seed(servers: Servers, assets: Path) -> None:
    for command, variable, login in (
        ("migrate", "DATABASE_OWNER_URL", "owner"),
        ("seed", "DATABASE_WORKER_URL", "worker"),
    ):
        subprocess.run(
            [sys.executable, "-m", "services.orders", command],
            env=os.environ | {variable: servers.url("orders", login), "ASSET_STORE_URL": assets.as_uri()},
            cwd=ROOT,
            check=True,
        )


@pytest.fixture
async def database(migrated: Servers) -> AsyncIterator[Database]:
    database = Database(
        app_url=SecretStr(migrated.url("orders", "app")),
        worker_url=SecretStr(migrated.url("orders", "worker")),
        pool_size=10,
        name="orders-test",
    )
    yield database
    await database.dispose()


@pytest.fixture(scope="session")
def wallet_process(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> WalletProcess:
    process = WalletProcess(servers, tmp_path_factory.mktemp("wallet"))
    process.migrate()
    return process


@pytest.fixture(scope="session")
async def jetstream(servers: Servers) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(servers.nats_url)
    jetstream = client.jetstream()
    for stream in ("PAYMENTS", "WALLET", "ORDERS"):
        await ensure_stream(jetstream, stream)
    yield jetstream
    await client.close()


@pytest.fixture(scope="session")
async def wallet(wallet_process: WalletProcess, jetstream: JetStreamContext) -> AsyncIterator[RunningWallet]:
    with wallet_process.running() as (process, address):
        client = await connected_to_wallet(wallet_process, address, jetstream)
        yield RunningWallet(process, address, client)


@pytest.fixture(scope="session")
async def payments() -> AsyncIterator[tuple[PaymentsDouble, str]]:
    async with running_payments() as running:
        yield running


@pytest.fixture(scope="session")
async def smtp() -> AsyncIterator[SmtpServer]:
    server = SmtpServer(free_port())
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
def orders_process(
    migrated: Servers,
    wallet: RunningWallet,
    payments: tuple[PaymentsDouble, str],
    smtp: SmtpServer,
    assets: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> OrdersProcess:
    logs = tmp_path_factory.mktemp("orders")
    return OrdersProcess(migrated, logs, wallet.address, payments[1], smtp.url, assets)


@pytest.fixture(scope="module")
async def shop(
    orders_process: OrdersProcess,
    wallet: RunningWallet,
    payments: tuple[PaymentsDouble, str],
    smtp: SmtpServer,
    jetstream: JetStreamContext,
) -> AsyncIterator[Shop]:
    """Ends with the module: other modules drive the runs of this database by hand."""
    with orders_process.running() as (_, address):
        async with connected(
            address,
            orders_process.servers,
            wallet=wallet.client,
            payments=payments[0],
            smtp=smtp,
            jetstream=jetstream,
        ) as shop:
            yield shop
