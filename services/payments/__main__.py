"""Starts payments: `python -m services.payments`; `migrate` brings its database up to date, `seed` puts the
sample packages in."""

import asyncio
import sys
from pathlib import Path

import uvloop

from protos.payments.v1 import payments_pb2, payments_pb2_grpc
from services.chassis import failpoints, logs, migrate
from services.chassis.bus import Bus
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.grpc_server import GrpcServer
from services.chassis.relay import Relay
from services.chassis.retention import Retention
from services.chassis.settings import SeedSettings
from services.chassis.workers import Worker, background, run_until_signal
from services.payments import closing, events, opening
from services.payments.api import PaymentsServicer
from services.payments.closing import Closer
from services.payments.commands.packages import SAMPLE_PACKAGES, add_packages
from services.payments.events import EventWorker
from services.payments.opening import Opener
from services.payments.settings import Settings
from services.payments.stripe_client import Stripe
from services.payments.webhooks import Receiver, WebhookServer


async def serve(settings: Settings) -> None:
    """Runs both servers and the workers until SIGTERM."""
    database = Database(
        app_url=settings.database_app_url,
        worker_url=settings.database_worker_url,
        pool_size=settings.database_pool_size,
        name="payments",
    )
    stripe = Stripe(
        secret_key=settings.stripe_secret_key, api_base=settings.stripe_api_base, shop_url=settings.shop_url
    )
    keyring = Keyring(settings.data_encryption_keys)
    bus = Bus(settings.nats_url, name="payments", stream="PAYMENTS")
    relay = Relay(database_url=settings.database_worker_url, bus=bus, source="payments")
    opener = Opener(database=database, stripe=stripe, keyring=keyring, after_commit=relay.wake)
    closer = Closer(database=database, stripe=stripe, opener=opener)
    handling = Worker(
        "events.handle",
        EventWorker(database=database, keyring=keyring, after_commit=relay.wake).handle_batch,
        tick_seconds=events.TICK_SECONDS,
    )
    receiver = Receiver(
        database=database, keyring=keyring, secrets=settings.webhook_secrets(), wake=handling.wake
    )
    webhooks = WebhookServer(settings.webhook_listen, receiver)
    grpc = GrpcServer(settings.grpc_listen)
    grpc.add(
        PaymentsServicer(database=database, keyring=keyring, opener=opener, closer=closer),
        payments_pb2_grpc.add_PaymentsServiceServicer_to_server,
        payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"],
    )
    async with background(
        bus.run(),
        relay.run(),
        handling.run(),
        Worker("checkouts.complete", opener.complete_batch, tick_seconds=opening.TICK_SECONDS).run(),
        Worker("checkouts.settle", closer.settle_overdue, tick_seconds=closing.TICK_SECONDS).run(),
        Retention(database).run(),
    ):
        await webhooks.start()
        await grpc.start()
        await run_until_signal()
        await asyncio.gather(webhooks.stop(), grpc.stop())
    await stripe.close()
    await database.dispose()


async def _seed(settings: SeedSettings) -> None:
    database = Database(
        app_url=settings.database_worker_url,
        worker_url=settings.database_worker_url,
        pool_size=1,
        name="payments-seed",
    )
    async with database.worker() as connection:
        await add_packages(connection, SAMPLE_PACKAGES)
    await database.dispose()


def main() -> None:
    match sys.argv[1:]:
        case []:
            settings = Settings()
            logs.configure("payments", settings.log_level)
            failpoints.arm(settings.failpoints, settings.failpoints_fired)
            uvloop.run(serve(settings))
        case ["migrate"]:
            migrate.upgrade(Path(__file__).parent / "migrations")
        case ["seed"]:
            asyncio.run(_seed(SeedSettings()))
        case _:
            sys.exit("usage: python -m services.payments [migrate|seed]")


if __name__ == "__main__":
    main()
