"""The primary is lost and its standby promoted: what wallet acknowledged is there, and wallet goes on."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from nats.js import JetStreamContext

from deploy.local.ephemeral import wait_until
from deploy.postgres.roles import role
from services.chassis.tasks import background
from tests.integration.wallet.client import WalletProcess, connected
from tests.integration.wallet.customers import Customer, more
from tests.support.postgres_pair import PostgresPair, postgres_pair
from tests.support.servers import Servers

_CUSTOMERS = 8
_PATIENCE_SECONDS = 60.0
# Nobody is there: facts wait in the outbox, and disturb no other wallet.
_NO_BROKER = "nats://127.0.0.1:1"


@dataclass(frozen=True)
class WalletOfPair(WalletProcess):
    pair: PostgresPair

    def url(self, login: str) -> str:
        return self.pair.url("wallet", role("wallet", login))


async def test_what_was_acknowledged_is_on_the_promoted_standby(
    servers: Servers, jetstream: JetStreamContext, tmp_path: Path
) -> None:
    with postgres_pair(tmp_path) as pair:
        process = WalletOfPair(servers, tmp_path, pair)
        process.migrate()
        with process.running(NATS_URL=_NO_BROKER) as (_, address):
            wallet = replace(await connected(process, address, jetstream), superuser_url=pair.url("wallet"))
            customers = [Customer(wallet) for _ in range(_CUSTOMERS)]

            async with background(*(customer.go_on() for customer in customers)):
                await more(customers, 100, seconds=_PATIENCE_SECONDS)
                pair.cut_replication()
                await asyncio.to_thread(
                    wait_until,
                    lambda: pair.waiting() > 1,
                    seconds=_PATIENCE_SECONDS,
                    what="commits that wait",
                )
                await asyncio.to_thread(pair.promote)
                await more(customers, 50, seconds=_PATIENCE_SECONDS)
        # Nothing that was asked for last is still on its way.
        for customer in customers:
            await customer.assert_nothing_is_lost()
