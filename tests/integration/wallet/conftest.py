"""wallet as it really runs: its own process on a migrated database, with NATS beside it."""

from collections.abc import AsyncIterator

import nats
import pytest
from nats.js import JetStreamContext
from pydantic import SecretStr

from services.chassis.bus import ensure_stream
from services.chassis.db import Database
from tests.integration.wallet.client import Wallet, WalletProcess, connected
from tests.support.servers import Servers


@pytest.fixture(scope="session")
def process(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> WalletProcess:
    process = WalletProcess(servers, tmp_path_factory.mktemp("wallet"))
    process.migrate()
    return process


@pytest.fixture(scope="session")
async def jetstream(process: WalletProcess) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(process.servers.nats_url)
    jetstream = client.jetstream()
    await ensure_stream(jetstream, "PAYMENTS")
    yield jetstream
    await client.close()


@pytest.fixture(scope="session")
async def database(process: WalletProcess) -> AsyncIterator[Database]:
    """The database as the service's own code sees it, for what no RPC reaches."""
    database = Database(
        app_url=SecretStr(process.url("app")),
        worker_url=SecretStr(process.url("worker")),
        pool_size=10,
        name="test",
    )
    yield database
    await database.dispose()


@pytest.fixture(scope="session")
async def wallet(process: WalletProcess, jetstream: JetStreamContext) -> AsyncIterator[Wallet]:
    with process.running() as (_, address):
        yield await connected(process, address, jetstream)
