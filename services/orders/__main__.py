"""Composition root: `python -m services.orders [migrate|seed|rekey|republish]`."""

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from uuid import UUID

import uvloop

from protos.messaging.v1 import messaging_pb2, messaging_pb2_grpc
from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from services.chassis import consumer, failpoints, invariants, logs, rekey, republish
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.dead_letters import DeadLetters
from services.chassis.grpc_server import GrpcServer
from services.chassis.metrics import serving_metrics
from services.chassis.rekey import SealedColumn
from services.chassis.relay import Relay
from services.chassis.retention import Retention
from services.chassis.sampling import Sampler
from services.chassis.settings import load
from services.chassis.trace_export import exporting
from services.chassis.usage import end_with_usage
from services.chassis.watching import Watchers
from services.chassis.workers import background, run_until_signal
from services.orders import events, metrics
from services.orders.api.cart import CartService
from services.orders.api.catalog import CatalogService
from services.orders.api.catalog_operator import CatalogOperatorService
from services.orders.api.operator import OrdersOperatorService
from services.orders.api.orders import OrdersService
from services.orders.callers import CALLERS
from services.orders.card_saga import CardSaga
from services.orders.catalog_cache import CatalogCache
from services.orders.checkout import Checkout
from services.orders.commands.bounds import Bounds
from services.orders.commands.purging import purge_unbought
from services.orders.commands.settling import Confirmed
from services.orders.downloading import Downloads
from services.orders.fulfilment import Terms
from services.orders.invariants import INVARIANTS
from services.orders.mails.mailer import Mailer
from services.orders.points_saga import PointsSagas
from services.orders.queries.orders import Order, versions_of
from services.orders.refund_saga import RefundSaga
from services.orders.remote import Remote
from services.orders.saga import Runner
from services.orders.sealing import email_place
from services.orders.settings import OrdersSeedSettings, OrdersSettings
from services.orders.storage import AssetStore

NAME = "orders"


async def serve(settings: OrdersSettings) -> None:
    database = Database(
        app_url=settings.database_app_url,
        worker_url=settings.database_worker_url,
        pool_size=settings.database_pool_size,
        pooling=settings.database_pooling,
        name=NAME,
    )
    await database.require_settings()
    bus = Bus(settings.nats_url, name=NAME, stream="ORDERS", replicas=settings.nats_stream_replicas)
    relay = Relay(
        database_url=settings.database_worker_url,
        bus=bus,
        source=NAME,
        poll_seconds=settings.relay_poll_seconds,
        pooling=settings.database_pooling,
    )
    keyring = Keyring(settings.data_encryption_keys)
    mailer = Mailer(
        database,
        keyring,
        smtp_url=settings.smtp_url.get_secret_value(),
        sender=settings.mail_from,
        shop_url=settings.shop_url,
        grant_days=settings.download_grant_days,
        lease_seconds=settings.mail_lease_seconds,
    )
    remote = Remote(
        wallet_target=settings.wallet_target,
        payments_target=settings.payments_target,
        transport=settings.transport,
    )

    cache = CatalogCache(settings.valkey_url)

    async def read_versions(order_ids: Collection[UUID]) -> Mapping[UUID, int]:
        async with database.worker() as connection:
            return await versions_of(connection, order_ids)

    watchers = Watchers(read_versions, most=settings.max_watchers, longest_seconds=settings.watch_seconds)

    def tell_changes() -> None:
        relay.wake()
        watchers.wake()

    def wake_publishers() -> None:
        tell_changes()
        mailer.wake()

    def publish_completed(order: Order, confirmed: Confirmed) -> None:
        tell_changes()
        mailer.hand_over(order, confirmed)

    def publish_ended(released: Collection[UUID]) -> None:
        tell_changes()
        cache.note_products(released)

    terms = Terms(
        grant_days=settings.download_grant_days,
        downloads=settings.downloads_per_grant,
        reissues=settings.reissues_per_grant,
        link_seconds=settings.download_link_seconds,
    )
    lease_seconds = settings.saga_lease_seconds
    points = PointsSagas(
        database,
        remote,
        lease_seconds=lease_seconds,
        mail_lease_seconds=settings.mail_lease_seconds,
        terms=terms,
        completed=publish_completed,
        ended=publish_ended,
    )
    cards = CardSaga(
        database, remote, keyring, terms=terms, after_commit=wake_publishers, ended=publish_ended
    )
    giving_back = RefundSaga(database, remote, after_commit=lambda: wake_everyone())
    sagas = [*points.table(), *cards.table(), *giving_back.table()]
    runner = Runner(database, sagas, lease_seconds=lease_seconds)

    def wake_everyone() -> None:
        wake_publishers()
        runner.wake()

    subscriptions = events.subscriptions(terms, forget_catalogue=cache.note_catalogue)
    consumers = [
        Consumer(
            each,
            bus=bus,
            database=database,
            after_commit=wake_everyone,
            ack_wait_seconds=settings.consumer_ack_wait_seconds,
        )
        for each in subscriptions
    ]
    checkout = Checkout(
        database,
        runner,
        keyring,
        lease_seconds=lease_seconds,
        bounds=Bounds(
            open_orders=settings.max_open_orders,
            reserved_pieces=settings.max_reserved_pieces,
            failed_checkouts=settings.max_failed_checkouts,
        ),
        reserved=cache.note_products,
    )
    downloads = Downloads(database, keyring, AssetStore(settings), terms)
    server = GrpcServer(
        settings.grpc_listen,
        transport=settings.transport,
        callers=CALLERS,
        max_streams=settings.max_watchers,
    )
    _add_services(server, database, cache, OrdersService(database, checkout, downloads, watchers))
    server.add(
        CatalogOperatorService(database, cache, publish=relay.wake),
        orders_pb2_grpc.add_CatalogOperatorServiceServicer_to_server,
        orders_pb2.DESCRIPTOR.services_by_name["CatalogOperatorService"],
    )
    server.add(
        OrdersOperatorService(
            database,
            table=sagas,
            wake=wake_everyone,
        ),
        orders_pb2_grpc.add_OrdersOperatorServiceServicer_to_server,
        orders_pb2.DESCRIPTOR.services_by_name["OrdersOperatorService"],
    )
    server.add(
        DeadLetters(database, subscriptions, after_commit=wake_everyone),
        messaging_pb2_grpc.add_DeadLetterServiceServicer_to_server,
        messaging_pb2.DESCRIPTOR.services_by_name["DeadLetterService"],
    )
    async with background(
        bus.run(),
        relay.run(),
        runner.run(),
        mailer.run(),
        watchers.run(),
        Retention(database, {"unbought orders": purge_unbought}).run(),
        cache.run(),
        Sampler(database, metrics.samples([saga.name for saga in sagas])).run(),
        consumer.watching(database, consumers).run(),
        invariants.watching(database, INVARIANTS, is_ours=lambda: relay.leads).run(),
        *(each.run() for each in consumers),
    ):
        await server.start()
        await run_until_signal()
        watchers.close()
        await server.stop()
    await remote.close()
    await cache.close()
    await database.dispose()


def _add_services(server: GrpcServer, database: Database, cache: CatalogCache, orders: OrdersService) -> None:
    services = orders_pb2.DESCRIPTOR.services_by_name
    server.add(
        CatalogService(database, cache),
        orders_pb2_grpc.add_CatalogServiceServicer_to_server,
        services["CatalogService"],
    )
    server.add(
        CartService(database), orders_pb2_grpc.add_CartServiceServicer_to_server, services["CartService"]
    )
    server.add(
        orders,
        orders_pb2_grpc.add_OrdersServiceServicer_to_server,
        services["OrdersService"],
    )


def main() -> None:
    match sys.argv[1:]:
        case []:
            settings = load(OrdersSettings)
            logs.configure(NAME, settings.log_level)
            failpoints.arm(settings.failpoints, settings.failpoints_fired)
            with (
                serving_metrics(settings.metrics_listen, settings.transport.certificates),
                exporting(NAME, settings),
            ):
                uvloop.run(serve(settings))
        case ["migrate"]:
            # Alembic alone takes a tenth of a second to load, at every start.
            from services.chassis.migrate import upgrade

            upgrade(Path(__file__).parent / "migrations")
        case ["seed"]:
            # It draws pictures; nobody else needs the library for that.
            from services.orders import seed

            seed.run(load(OrdersSeedSettings))
        case ["rekey", *arguments]:
            rekey.run(NAME, [SealedColumn("orders", "email", email_place)], arguments)
        case ["republish", *arguments]:
            republish.run(NAME, arguments)
        case _:
            end_with_usage(f"services.{NAME}", "migrate", "seed", "rekey", "republish")


if __name__ == "__main__":
    main()
