"""deploy/nats on a real server: each service can do all that its code does, and nothing else."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig
from pydantic import SecretStr

from deploy.local.parts import ROOT
from services.chassis.bus import Bus
from services.chassis.consumer import Subscription, subscribe
from services.chassis.workers import background
from services.orders import events as orders_events
from services.orders.fulfilment import Terms
from services.wallet import events as wallet_events

OWNERS = ("wallet", "orders", "payments")
# Nothing is handled here: what it would do is no matter.
TERMS = Terms(grant_days=1, downloads=1, reissues=1, link_seconds=1)
SUBSCRIPTIONS: tuple[tuple[str, Subscription], ...] = (
    *(("wallet", each) for each in wallet_events.SUBSCRIPTIONS),
    *(("orders", each) for each in orders_events.subscriptions(TERMS, forget_catalogue=lambda: None)),
)


def password(user: str) -> str:
    return f"p{user}"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the configuration that containers use, on a port of this machine."""
    port, monitoring = (str(_free_port()) for _ in range(2))
    folder = tmp_path_factory.mktemp("nats")
    moved = (ROOT / "deploy/nats/nats.conf").read_text().replace('"/data"', f'"{folder}"')
    (folder / "nats.conf").write_text(moved)
    shutil.copy(ROOT / "deploy/nats/accounts.conf", folder)
    command = [str(Path(sys.executable).parent / "nats-server"), "-c", str(folder / "nats.conf")]
    command += ["-a", "127.0.0.1", "-p", port, "-m", monitoring]
    passwords = {f"NATS_{user.upper()}_PASSWORD": password(user) for user in OWNERS}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=passwords, stderr=log) as server:
        yield f"127.0.0.1:{port}"
        server.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def bus_of(user: str, address: str) -> AsyncIterator[Bus]:
    """As the service itself connects; its stream is there afterwards."""
    url = SecretStr(f"nats://{user}:{password(user)}@{address}")
    bus = Bus(url, name=user, stream=user.upper())
    async with background(bus.run()), asyncio.timeout(20):
        await bus.connected()
        yield bus


@pytest.fixture(scope="module")
async def buses(address: str) -> AsyncIterator[dict[str, Bus]]:
    async with AsyncExitStack() as stack:
        yield {owner: await stack.enter_async_context(bus_of(owner, address)) for owner in OWNERS}


@pytest.fixture
async def intruder(address: str, buses: dict[str, Bus]) -> AsyncIterator["Intruder"]:
    """A client with orders' password."""
    intruder = Intruder(address)
    await intruder.client.connect(
        f"nats://orders:{password('orders')}@{address}",
        error_cb=intruder.refused,
        inbox_prefix="_INBOX.orders",
    )
    yield intruder
    await intruder.client.close()


class Intruder:
    """Notes what the server refuses."""

    def __init__(self, address: str) -> None:
        self.client = Client()
        self.refusals: asyncio.Queue[str] = asyncio.Queue()

    async def refused(self, error: Exception) -> None:
        self.refusals.put_nowait(str(error))

    async def hears_no_for(self, subject: str) -> None:
        async with asyncio.timeout(10):
            refusal = await self.refusals.get()
        assert "permissions violation" in refusal.lower()
        assert subject.lower() in refusal.lower()


@pytest.mark.parametrize(("user", "of"), SUBSCRIPTIONS, ids=lambda each: getattr(each, "durable", each))
async def test_a_service_reads_what_its_code_listens_to(
    buses: dict[str, Bus], user: str, of: Subscription
) -> None:
    owner = buses[of.stream.lower()].jetstream
    sent = str(uuid4()).encode()
    await owner.publish(of.subject, sent)
    reader = await subscribe(buses[user].jetstream, of, ack_wait_seconds=10)
    [message] = await reader.fetch(1, timeout=5)
    assert message.data == sent
    await message.ack_sync(timeout=5)
    info = await buses[user].jetstream.consumer_info(of.stream, of.durable)
    assert (info.num_pending, info.num_ack_pending) == (0, 0)
    await reader.unsubscribe()


@pytest.mark.parametrize(
    "subject",
    [
        "payments.points.grant_changed",
        "wallet.hold.overdue",
        "$JS.API.STREAM.DELETE.PAYMENTS",
        "$JS.API.STREAM.DELETE.ORDERS",
        "$JS.API.STREAM.PURGE.ORDERS",
        "$JS.API.CONSUMER.MSG.NEXT.PAYMENTS.wallet__grant",
        "$JS.ACK.PAYMENTS.wallet__grant.1.1.1.1.0",
        "$JS.API.CONSUMER.CREATE.PAYMENTS",
        "$JS.API.CONSUMER.CREATE.PAYMENTS.orders__other.payments.refund.changed",
        "$JS.API.CONSUMER.CREATE.PAYMENTS.orders__refund.payments.points.grant_changed",
    ],
)
async def test_a_service_says_nothing_in_anothers_name(intruder: Intruder, subject: str) -> None:
    await intruder.client.publish(subject, b"{}")
    await intruder.hears_no_for(subject)


@pytest.mark.parametrize("subject", ["_INBOX.wallet.>", "_INBOX.>", "payments.>", "$JS.ACK.>", ">"])
async def test_a_service_hears_nothing_that_is_not_for_it(intruder: Intruder, subject: str) -> None:
    await intruder.client.subscribe(subject)
    await intruder.hears_no_for(subject)


async def test_a_service_cannot_take_anothers_subjects_into_its_stream(intruder: Intruder) -> None:
    jetstream = intruder.client.jetstream()
    greedy = StreamConfig(name="ORDERS", subjects=["orders.>", "payments.>"])
    with pytest.raises(nats.js.errors.BadRequestError, match="overlap"):
        await jetstream.update_stream(greedy)


@pytest.mark.parametrize(
    "login", [{}, {"user": "wallet", "pass": "wrong"}, {"user": "no", "pass": "pwallet"}]
)
async def test_nobody_else_comes_in(address: str, login: dict[str, str]) -> None:
    host, _, port = address.partition(":")
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, int(port))
        assert (await reader.readline()).startswith(b"INFO")
        writer.write(f"CONNECT {json.dumps(login | {'verbose': False})}\r\nPING\r\n".encode())
        assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
        writer.close()
        await writer.wait_closed()
