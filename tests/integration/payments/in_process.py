"""payments in the test's own process, on a database where no other worker takes its events: the test decides
when each event is looked at, and when what was seen is settled."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.postgres.roles import LOGINS, role
from protos.payments.v1 import payments_pb2 as pb
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.watching import Watchers
from services.payments.api.payments import PaymentsServicer
from services.payments.closing import Closer
from services.payments.commands.events import claim_events
from services.payments.events import EventWorker
from services.payments.looks import Looker
from services.payments.opening import Opener
from services.payments.reconciliation import Reconciler
from services.payments.refunding import Refunder
from services.payments.stripe_client import Stripe
from services.payments.webhooks import Door
from tests.integration.payments.conftest import KEY, SHOP_ID, SHOP_URL, PaymentsProcess
from tests.integration.payments.sandbox import KEY as STRIPE_KEY
from tests.integration.payments.sandbox import Sandbox
from tests.integration.payments.stripe_double import Fields


def create_database(process: PaymentsProcess) -> None:
    """A second database of payments, migrated and stocked."""
    with psycopg.connect(process.servers.admin_url(), autocommit=True) as connection:
        owner, name = sql.Identifier(role("payments", "owner")), sql.Identifier(process.name)
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, owner))
        logins = [sql.Identifier(role("payments", login)) for login in LOGINS]
        connection.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(name, sql.SQL(", ").join(logins))
        )
    with psycopg.connect(process.admin_url) as connection:
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(owner))
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(sql.SQL(", ").join(logins)))
    for command in ("migrate", "seed"):
        process.once(command)


# Longer than any test hesitates.
_LEASE_SECONDS = 600.0


class Hesitation(Database):
    """The database of a worker that stands still between its look and its settling: its first transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._opened = 0
        self.has_looked = asyncio.Event()
        self.may_settle = asyncio.Event()

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[AsyncConnection]:
        self._opened += 1
        if self._opened == 1:
            self.has_looked.set()
            await self.may_settle.wait()
        async with self._database.worker() as connection:
            yield connection


@dataclass(frozen=True)
class Settling:
    """An event that was looked at and waits for its turn."""

    hesitation: Hesitation
    task: "asyncio.Task[None]"


class Desk:
    """The parts of payments that a purchase and its events go through."""

    def __init__(
        self,
        database: Database,
        superuser: psycopg.AsyncConnection[dict[str, Any]],
        stripe: Stripe,
        sandbox: Sandbox,
    ) -> None:
        self._database = database
        self._superuser = superuser
        self.sandbox = sandbox
        self._keyring = Keyring(SecretStr(f"test:{KEY}"))
        self._looker = Looker(database=database, stripe=stripe, shop_id=SHOP_ID)
        opener = Opener(database=database, stripe=stripe, keyring=self._keyring, after_commit=_nobody_waits)
        self._servicer = PaymentsServicer(
            database=database,
            keyring=self._keyring,
            opener=opener,
            closer=Closer(database=database, stripe=stripe, opener=opener, looker=self._looker),
            refunder=Refunder(
                database=database, stripe=stripe, looker=self._looker, after_commit=_nobody_waits
            ),
            watchers=Watchers(_nothing_changes, most=1, longest_seconds=1),
            door=cast(Door, None),
            max_open_checkouts=1000,
        )
        self._reconciler = Reconciler(
            database=database,
            stripe=stripe,
            keyring=self._keyring,
            looker=self._looker,
            every_seconds=3600,
            wake_events=_nobody_waits,
            after_commit=_nobody_waits,
        )

    async def sell_points(self, user_id: UUID) -> pb.Checkout:
        request = pb.CreatePointsCheckoutRequest(
            user_id=str(user_id), idempotency_key=str(uuid4()), package_id="premium"
        )
        return (await self._servicer.CreatePointsCheckout(request, None)).checkout

    async def sell_order(self, user_id: UUID) -> pb.Checkout:
        lines = [pb.OrderLine(title="Dawn", unit_price_cents=3999, quantity=1)]
        request = pb.CreateOrderCheckoutRequest(
            user_id=str(user_id), order_id=str(uuid4()), currency="usd", lines=lines
        )
        return (await self._servicer.CreateOrderCheckout(request, None)).checkout

    async def sell_subscription(self, user_id: UUID) -> pb.Checkout:
        request = pb.CreateSubscriptionCheckoutRequest(
            user_id=str(user_id), idempotency_key=str(uuid4()), plan_id="monthly"
        )
        return (await self._servicer.CreateSubscriptionCheckout(request, None)).checkout

    async def take(self, event: Fields) -> Settling | None:
        """An event arrives, and a worker looks at what it is about; None when the event was known."""
        if not await self._reconciler.keep_event(event):
            return None
        hesitation = Hesitation(self._database)
        worker = EventWorker(
            database=hesitation,
            keyring=self._keyring,
            looker=self._looker,
            lease_seconds=_LEASE_SECONDS,
            livemode=False,
            after_commit=_nobody_waits,
        )
        async with self._database.worker() as connection:
            [claimed] = await claim_events(connection, limit=1, lease_seconds=_LEASE_SECONDS)
        task = asyncio.create_task(worker.settle_event(claimed))
        looking = asyncio.create_task(hesitation.has_looked.wait())
        await asyncio.wait({task, looking}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            looking.cancel()
            raise AssertionError(f"no look was taken: {task.exception()!r}")
        return Settling(hesitation, task)

    async def sql(self, statement: str, *values: object) -> Sequence[dict[str, Any]]:
        """As the superuser, who reads past row-level security."""
        cursor = await self._superuser.execute(statement.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def _nothing_changes(_: Collection[UUID]) -> Mapping[UUID, int]:
    return {}


def _nobody_waits() -> None:
    """Nothing runs beside the test."""


@asynccontextmanager
async def desk_on(process: PaymentsProcess, sandbox: Sandbox) -> AsyncIterator[Desk]:
    database = Database(
        app_url=SecretStr(process.url("app")),
        worker_url=SecretStr(process.url("worker")),
        pool_size=20,
        name="desk",
    )
    stripe = Stripe(
        secret_key=SecretStr(STRIPE_KEY), api_base=sandbox.url, shop_url=SHOP_URL, shop_id=SHOP_ID
    )
    superuser = await psycopg.AsyncConnection.connect(
        process.admin_url, autocommit=True, row_factory=dict_row
    )
    try:
        yield Desk(database, superuser, stripe, sandbox)
    finally:
        await superuser.close()
        await stripe.close()
        await database.dispose()
