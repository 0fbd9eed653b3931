"""The orders database, migrated and seeded, as the service's logins see it."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from deploy.local.parts import ROOT
from services.chassis.db import Database
from tests.support.servers import Servers


@pytest.fixture(scope="session")
def migrated(servers: Servers) -> Servers:
    for command, variable, login in (
        ("migrate", "DATABASE_OWNER_URL", "owner"),
        ("seed", "DATABASE_WORKER_URL", "worker"),
    ):
        for _ in range(2):
            # Twice: both must find their own work done.
            subprocess.run(
                [sys.executable, "-m", "services.orders", command],
                env=os.environ | {variable: servers.url("orders", login)},
                cwd=ROOT,
                check=True,
            )
    return servers


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
