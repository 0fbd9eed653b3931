"""Starts wallet: `python -m services.wallet`; `migrate` brings its database up to date, `rekey` seals what it
stores with the newest key."""

import sys
from pathlib import Path

import uvloop

from protos.messaging.v1 import messaging_pb2, messaging_pb2_grpc
from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis import consumer, failpoints, invariants, logs, rekey, republish
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer
from services.chassis.crypto import EmailHasher, Keyring
from services.chassis.db import Database
from services.chassis.dead_letters import DeadLetters
from services.chassis.grpc_server import GrpcServer
from services.chassis.metrics import serving_metrics
from services.chassis.rekey import SealedColumn
from services.chassis.relay import Relay
from services.chassis.sampling import Sampler
from services.chassis.settings import load
from services.chassis.trace_export import exporting
from services.chassis.usage import end_with_usage
from services.chassis.workers import Worker, background, run_until_signal
from services.wallet import metrics
from services.wallet.api import WalletServicer, email_place
from services.wallet.callers import CALLERS
from services.wallet.events import SUBSCRIPTIONS
from services.wallet.invariants import INVARIANTS
from services.wallet.overdue import TICK_SECONDS, OverdueHolds
from services.wallet.settings import WalletSettings


async def serve(settings: WalletSettings) -> None:
    database = Database(
        app_url=settings.database_app_url,
        worker_url=settings.database_worker_url,
        pool_size=settings.database_pool_size,
        pooling=settings.database_pooling,
        name="wallet",
    )
    await database.require_settings()
    bus = Bus(settings.nats_url, name="wallet", stream="WALLET", replicas=settings.nats_stream_replicas)
    relay = Relay(
        database_url=settings.database_worker_url,
        bus=bus,
        source="wallet",
        poll_seconds=settings.relay_poll_seconds,
        pooling=settings.database_pooling,
    )
    consumers = [
        Consumer(
            of,
            bus=bus,
            database=database,
            after_commit=relay.wake,
            ack_wait_seconds=settings.consumer_ack_wait_seconds,
        )
        for of in SUBSCRIPTIONS
    ]
    overdue = OverdueHolds(database=database, relay=relay, ask_again_seconds=settings.hold_ask_again_seconds)
    server = GrpcServer(settings.grpc_listen, transport=settings.transport, callers=CALLERS)
    server.add(
        WalletServicer(
            database=database,
            keyring=Keyring(settings.data_encryption_keys),
            email_hasher=EmailHasher(settings.email_hmac_key),
            hold_seconds=settings.hold_seconds,
        ),
        wallet_pb2_grpc.add_WalletServiceServicer_to_server,
        wallet_pb2.DESCRIPTOR.services_by_name["WalletService"],
    )
    server.add(
        DeadLetters(database, SUBSCRIPTIONS, after_commit=relay.wake),
        messaging_pb2_grpc.add_DeadLetterServiceServicer_to_server,
        messaging_pb2.DESCRIPTOR.services_by_name["DeadLetterService"],
    )
    async with background(
        bus.run(),
        relay.run(),
        Worker("holds.overdue", overdue.ask, tick_seconds=TICK_SECONDS).run(),
        Sampler(database, metrics.samples()).run(),
        consumer.watching(database, consumers).run(),
        invariants.watching(database, INVARIANTS, is_ours=lambda: relay.leads).run(),
        *(each.run() for each in consumers),
    ):
        await server.start()
        await run_until_signal()
        await server.stop()
    await database.dispose()


def main() -> None:
    match sys.argv[1:]:
        case []:
            settings = load(WalletSettings)
            logs.configure("wallet", settings.log_level)
            failpoints.arm(settings.failpoints, settings.failpoints_fired)
            with (
                serving_metrics(settings.metrics_listen, settings.transport.certificates),
                exporting("wallet", settings),
            ):
                uvloop.run(serve(settings))
        case ["migrate"]:
            # Alembic alone takes a tenth of a second to load, at every start.
            from services.chassis import migrate

            migrate.upgrade(Path(__file__).parent / "migrations")
        case ["rekey", *arguments]:
            rekey.run("wallet", [SealedColumn("profiles", "email", email_place)], arguments)
        case ["republish", *arguments]:
            republish.run("wallet", arguments)
        case _:
            end_with_usage("services.wallet", "migrate", "rekey", "republish")


if __name__ == "__main__":
    main()
