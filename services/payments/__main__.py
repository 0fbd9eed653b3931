"""Starts payments: `python -m services.payments`; `migrate` brings its database up to date, `seed` puts the
sample packages in, `rekey` seals what it stores with the newest key."""

import asyncio
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from uuid import UUID

import uvloop

from protos.payments.v1 import payments_pb2, payments_pb2_grpc
from services.chassis import failpoints, invariants, logs, rekey, republish
from services.chassis.bodies import MIB, Bodies
from services.chassis.bus import Bus
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.grpc_server import GrpcServer
from services.chassis.http_server import serving
from services.chassis.metrics import serving_metrics
from services.chassis.rekey import SealedColumn
from services.chassis.relay import Relay
from services.chassis.retention import Retention
from services.chassis.sampling import Sampler
from services.chassis.settings import BAD_SETTINGS, SeedSettings, load
from services.chassis.trace_export import exporting
from services.chassis.usage import end_with_usage
from services.chassis.watching import Watchers
from services.chassis.workers import Worker, background, run_until_signal
from services.payments import accounts, closing, metrics, opening, queries, reconciliation, refunding
from services.payments.accounts import Accountant, WrongAccount
from services.payments.api.operator import PaymentsOperatorServicer
from services.payments.api.payments import PaymentsServicer
from services.payments.callers import CALLERS
from services.payments.closing import Closer
from services.payments.commands.accounts import Identity, adopt_account
from services.payments.commands.packages import SAMPLE_PACKAGES, SAMPLE_PLANS, add_packages, add_plans
from services.payments.events import EventWorker, payload_place
from services.payments.invariants import INVARIANTS
from services.payments.looks import Looker
from services.payments.opening import Opener, request_place
from services.payments.reconciliation import Reconciler
from services.payments.refunding import Refunder
from services.payments.settings import Settings
from services.payments.stripe_client import Stripe
from services.payments.webhooks import MAX_BODY_BYTES, Door, Receiver, create_app

log = logs.get(__name__)

# What a webhook in flight gets when the process ends; Stripe delivers again what it does not hear of.
_STOP_SECONDS = 3
_ADOPT = "adopt-account ACCOUNT test|live ACTOR REASON"
_SEALED = (
    SealedColumn("checkouts", "request", request_place),
    SealedColumn("stripe_events", "payload", payload_place),
)


async def serve(settings: Settings) -> None:
    """Runs both servers and the workers until SIGTERM."""
    database = Database(
        app_url=settings.database_app_url,
        worker_url=settings.database_worker_url,
        pool_size=settings.database_pool_size,
        pooling=settings.database_pooling,
        name="payments",
    )
    await database.require_settings()
    stripe = Stripe(
        secret_key=settings.stripe_secret_key,
        api_base=settings.stripe_api_base,
        shop_url=settings.shop_url,
        shop_id=settings.shop_mark,
    )
    accountant = Accountant(database=database, stripe=stripe, settings=settings)
    await accountant.settle()
    keyring = Keyring(settings.data_encryption_keys)
    bus = Bus(settings.nats_url, name="payments", stream="PAYMENTS", replicas=settings.nats_stream_replicas)
    relay = Relay(
        database_url=settings.database_worker_url,
        bus=bus,
        source="payments",
        poll_seconds=settings.relay_poll_seconds,
        pooling=settings.database_pooling,
    )

    async def read_versions(checkout_ids: Collection[UUID]) -> Mapping[UUID, int]:
        async with database.worker() as connection:
            return await queries.versions_of(connection, checkout_ids)

    watchers = Watchers(read_versions, most=settings.max_watchers, longest_seconds=settings.watch_seconds)

    def tell_changes() -> None:
        relay.wake()
        watchers.wake()

    looker = Looker(database=database, stripe=stripe, shop_id=settings.shop_mark)
    opener = Opener(database=database, stripe=stripe, keyring=keyring, after_commit=tell_changes)
    closer = Closer(database=database, stripe=stripe, opener=opener, looker=looker)
    refunder = Refunder(database=database, stripe=stripe, looker=looker, after_commit=tell_changes)
    handling = EventWorker(
        database=database,
        keyring=keyring,
        looker=looker,
        lease_seconds=settings.event_lease_seconds,
        livemode=settings.livemode,
        after_commit=tell_changes,
    )
    reconciler = Reconciler(
        database=database,
        stripe=stripe,
        keyring=keyring,
        looker=looker,
        every_seconds=settings.reconcile_seconds,
        wake_events=handling.wake,
        after_commit=tell_changes,
    )
    reconciling = Worker(
        "stripe.reconcile",
        reconciler.run_due,
        tick_seconds=reconciliation.TICK_SECONDS,
        longest_seconds=reconciliation.LONGEST_SECONDS,
    )
    receiver = Receiver(
        database=database,
        keyring=keyring,
        secrets=settings.webhook_secrets(),
        livemode=settings.livemode,
        wake=handling.wake,
    )
    door = Door(
        receiver,
        rate=settings.rate_limit_webhooks,
        most_at_once=settings.max_webhooks_per_source,
        bodies=Bodies(
            max_bytes=MAX_BODY_BYTES,
            seconds=settings.webhook_body_seconds,
            max_bytes_under_way=settings.max_bodies_mib * MIB,
        ),
        trusted_proxies=settings.trusted_proxies,
    )
    grpc = GrpcServer(
        settings.grpc_listen,
        transport=settings.transport,
        callers=CALLERS,
        max_streams=settings.max_watchers,
    )
    grpc.add(
        PaymentsServicer(
            database=database,
            keyring=keyring,
            opener=opener,
            closer=closer,
            refunder=refunder,
            watchers=watchers,
            door=door,
            max_open_checkouts=settings.max_open_checkouts,
            promotion_codes=settings.allow_promotion_codes,
        ),
        payments_pb2_grpc.add_PaymentsServiceServicer_to_server,
        payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"],
    )
    grpc.add(
        PaymentsOperatorServicer(
            database=database,
            keyring=keyring,
            refunder=refunder,
            wake_events=handling.wake,
            wake_reconciler=reconciling.wake,
            after_commit=tell_changes,
        ),
        payments_pb2_grpc.add_PaymentsOperatorServiceServicer_to_server,
        payments_pb2.DESCRIPTOR.services_by_name["PaymentsOperatorService"],
    )
    async with (
        background(
            bus.run(),
            relay.run(),
            watchers.run(),
            handling.run(),
            reconciling.run(),
            Worker("refunds.complete", refunder.complete_batch, tick_seconds=refunding.TICK_SECONDS).run(),
            Worker("checkouts.complete", opener.complete_batch, tick_seconds=opening.TICK_SECONDS).run(),
            Worker("checkouts.settle", closer.settle_overdue, tick_seconds=closing.TICK_SECONDS).run(),
            Worker("subscriptions.cancel", closer.cancel_seconds, tick_seconds=closing.TICK_SECONDS).run(),
            Worker("stripe.account", accountant.check, tick_seconds=accounts.CHECK_SECONDS).run(),
            Retention(database).run(),
            Sampler(database, metrics.samples()).run(),
            invariants.watching(database, INVARIANTS, is_ours=lambda: relay.leads).run(),
        ),
        serving(
            create_app(door),
            settings.webhook_listen,
            stop_seconds=_STOP_SECONDS,
            limits=settings.wire_limits,
        ),
    ):
        log.info("webhooks.serving", address=settings.webhook_listen)
        await grpc.start()
        await run_until_signal()
        watchers.close()
        await grpc.stop()
    await stripe.close()
    await database.dispose()


def _run(settings: Settings) -> None:
    try:
        uvloop.run(serve(settings))
    except WrongAccount as error:
        print(error, file=sys.stderr)
        sys.exit(BAD_SETTINGS)


async def _adopt(settings: SeedSettings, identity: Identity, *, actor: str, reason: str) -> None:
    """`python -m services.payments adopt-account acct_... test|live ACTOR REASON`"""
    database = _worker_database(settings, "payments-adopt")
    async with database.worker() as connection:
        before = await adopt_account(connection, identity, actor=actor, reason=reason)
    await database.dispose()
    print(f"adopted {identity}" + (f" after {before.identity}" if before else ""))


def _worker_database(settings: SeedSettings, name: str) -> Database:
    return Database(
        app_url=settings.database_worker_url,
        worker_url=settings.database_worker_url,
        pool_size=1,
        name=name,
        pooling=settings.database_pooling,
    )


async def _seed(settings: SeedSettings) -> None:
    database = _worker_database(settings, "payments-seed")
    async with database.worker() as connection:
        await add_packages(connection, SAMPLE_PACKAGES)
        await add_plans(connection, SAMPLE_PLANS)
    await database.dispose()


def main() -> None:
    match sys.argv[1:]:
        case []:
            settings = load(Settings)
            logs.configure("payments", settings.log_level)
            failpoints.arm(settings.failpoints, settings.failpoints_fired)
            with (
                serving_metrics(settings.metrics_listen, settings.transport.certificates),
                exporting("payments", settings),
            ):
                _run(settings)
        case ["migrate"]:
            # Alembic alone takes a tenth of a second to load, at every start.
            from services.chassis import migrate

            migrate.upgrade(Path(__file__).parent / "migrations")
        case ["seed"]:
            asyncio.run(_seed(load(SeedSettings)))
        case ["rekey", *arguments]:
            rekey.run("payments", _SEALED, arguments)
        case ["adopt-account", account_id, ("test" | "live") as mode, actor, reason]:
            identity = Identity(account_id, mode == "live")
            asyncio.run(_adopt(load(SeedSettings), identity, actor=actor, reason=reason))
        case ["republish", *arguments]:
            republish.run("payments", arguments)
        case _:
            end_with_usage("services.payments", "migrate", "seed", "rekey", "republish", _ADOPT)


if __name__ == "__main__":
    main()
