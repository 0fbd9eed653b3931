"""Wallet's database hangs, moves and dies under load: wallet serves again by itself, and ends if told to."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from nats.js import JetStreamContext

from services.chassis.tasks import background
from tests.integration.wallet.client import WalletProcess, connected
from tests.integration.wallet.customers import Customer, more
from tests.support.tcp_proxy import TcpProxy, tcp_proxy

_CUSTOMERS = 6
_CALLS = 40
# From the moment when there is a database to be reached.
_BACK_SECONDS = 30.0
# What the local supervisor gives a process before it kills it.
_GRACE_SECONDS = 15.0
# Nobody is there: facts wait in the outbox, and disturb no other wallet.
_NO_BROKER = "nats://127.0.0.1:1"


@dataclass(frozen=True)
class WalletBehind(WalletProcess):
    proxy: TcpProxy

    def url(self, login: str) -> str:
        parts = urlsplit(super().url(login))
        return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.proxy.port}").geturl()


@pytest.fixture
def postgres_port(process: WalletProcess) -> int:
    port = urlsplit(process.url("worker")).port
    assert port is not None, "the servers listen on TCP"
    return port


@pytest.fixture
def proxy(postgres_port: int) -> Iterator[TcpProxy]:
    with tcp_proxy(postgres_port) as running:
        yield running


async def test_wallet_serves_again_after_a_hang_and_a_death_and_ends_though_its_database_hangs(
    process: WalletProcess, jetstream: JetStreamContext, proxy: TcpProxy, postgres_port: int
) -> None:
    behind = WalletBehind(process.servers, process.logs, proxy)
    with behind.running(NATS_URL=_NO_BROKER, DATABASE_POOL_SIZE="4") as (running, address):
        wallet = await connected(process, address, jetstream)
        customers = [Customer(wallet) for _ in range(_CUSTOMERS)]
        async with background(*(customer.go_on() for customer in customers)):
            await more(customers, _CALLS, seconds=_BACK_SECONDS)
            # The machine of the primary hangs; a second later its address is another one's.
            proxy.freeze()
            with pytest.raises(TimeoutError):
                await more(customers, _CALLS, seconds=1)
            proxy.lead_to(postgres_port)
            await more(customers, _CALLS, seconds=_BACK_SECONDS)
            # The next one dies, and is there again.
            proxy.cut()
            await more(customers, _CALLS, seconds=_BACK_SECONDS)
            assert running.poll() is None
            proxy.freeze()
            running.terminate()
            assert running.wait(_GRACE_SECONDS) == 0
    for customer in customers:
        await customer.assert_nothing_is_lost()
