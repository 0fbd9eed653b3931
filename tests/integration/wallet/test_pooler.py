"""Wallet behind PgBouncer in transaction mode: each transaction may get another session."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from nats.js import JetStreamContext
from pydantic import SecretStr

from deploy.local.ephemeral import wait_until
from deploy.local.secret_store import load_or_draw
from services.chassis.connections import REQUEST, WORKER, UnboundSession, connect
from services.chassis.db import Database
from services.chassis.tasks import background
from tests.integration.wallet.client import WalletProcess, connected
from tests.integration.wallet.customers import Customer, more
from tests.support.pgbouncer import pgbouncer
from tests.support.servers import Servers

_SECONDS = 30.0


@dataclass(frozen=True)
class WalletBehind(WalletProcess):
    port: int

    def url(self, login: str) -> str:
        return at_port(super().url(login), self.port)

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(DATABASE_POOLING="transaction", **more)


def at_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()


@pytest.fixture(scope="module")
def behind(
    servers: Servers, process: WalletProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WalletBehind]:
    folder: Path = tmp_path_factory.mktemp("pgbouncer")
    superuser = urlsplit(servers.admin_url()).password
    assert superuser is not None, "the superuser has a password"
    passwords = {**load_or_draw(servers.stack.data).role_passwords, "postgres": superuser}
    with pgbouncer(folder, servers.admin_url(), passwords) as port:
        yield WalletBehind(servers, process.logs, port)


async def test_customers_are_served_through_few_sessions(
    behind: WalletBehind, jetstream: JetStreamContext
) -> None:
    with behind.running() as (running, address):
        wallet = await connected(behind, address, jetstream)
        customers = [Customer(wallet) for _ in range(8)]
        async with background(*(customer.go_on() for customer in customers)):
            await more(customers, 100, seconds=_SECONDS)
        assert running.poll() is None
    # Nothing that was asked for last is still on its way.
    for customer in customers:
        await customer.assert_nothing_is_lost()


def test_migrations_wait_for_one_another_and_leave_no_lock(behind: WalletBehind) -> None:
    command = [sys.executable, "-m", "services.wallet", "migrate"]
    environment = behind.environment()
    with psycopg.connect(behind.servers.admin_url("wallet")) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(4711)")

        def one_asks() -> bool:
            asking = "SELECT FROM pg_stat_activity WHERE application_name = 'migrate'"
            with psycopg.connect(behind.servers.admin_url("wallet")) as looking:
                return looking.execute(asking).fetchone() is not None

        together = [subprocess.Popen(command, env=environment) for _ in range(2)]
        wait_until(one_asks, seconds=_SECONDS, what="a migration that asks for the lock")
        assert [each.poll() for each in together] == [None, None]
        holder.rollback()
        assert [each.wait(_SECONDS) for each in together] == [0, 0]
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"
        assert holder.execute(held).fetchone() == (0,)


async def test_the_roles_bound_their_sessions(behind: WalletBehind) -> None:
    connection = await connect(
        SecretStr(behind.url("app")), REQUEST, name="test", pooling="transaction", autocommit=True
    )
    with pytest.raises(psycopg.errors.QueryCanceled):
        await connection.execute("SELECT pg_sleep(10)")
    await connection.close()


async def test_a_role_without_its_limits_is_refused_with_what_to_do(behind: WalletBehind) -> None:
    """The superuser has none."""
    unbound = SecretStr(at_port(behind.servers.admin_url("wallet"), behind.port))
    with pytest.raises(UnboundSession, match="ALTER ROLE postgres SET statement_timeout = '5000ms'"):
        await connect(unbound, WORKER, name="test", pooling="transaction")
    database = Database(
        app_url=unbound, worker_url=unbound, pool_size=1, name=uuid4().hex, pooling="transaction"
    )
    with pytest.raises(SystemExit, match="DATABASE_POOLING"):
        await database.require_settings()
    await database.dispose()
