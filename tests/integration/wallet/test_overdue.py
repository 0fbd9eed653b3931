"""A hold that is due asks what became of its order; nothing is released by time."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
from nats.js import JetStreamContext

from protos.events.v1 import events_pb2
from services.chassis.db import Database
from services.wallet.commands.holds import ask_about_overdue
from tests.integration.wallet.client import Wallet

EVENTS = """
    SELECT payload FROM outbox WHERE subject = 'wallet.hold.overdue' AND position(%s in payload) > 0"""


async def make_due(wallet: Wallet, order: UUID) -> None:
    await wallet.sql("UPDATE holds SET due_at = now() WHERE order_id = %s", order)


async def events_of(wallet: Wallet, order: UUID) -> list[dict[str, object]]:
    return await wallet.sql(EVENTS, str(order).encode())


async def next_question(inbox: JetStreamContext.PushSubscription, order: UUID) -> events_pb2.HoldOverdue:
    """The next message about this order; holds of other tests ask as well."""
    while True:
        message = await inbox.next_msg(timeout=10)
        question = events_pb2.HoldOverdue.FromString(message.data)
        if question.order_id == str(order):
            return question


async def test_a_due_hold_asks_once_per_interval_and_is_never_released(
    wallet: Wallet, jetstream: JetStreamContext
) -> None:
    user, order = await wallet.user(550), uuid4()
    hold = await wallet.reserve(user, order, 200)
    assert await events_of(wallet, order) == []
    inbox = await jetstream.subscribe("wallet.hold.overdue")

    for asked, pause_seconds in ((1, 30), (2, 60), (3, 120), (4, 240), (5, 480), (6, 480), (7, 480)):
        await make_due(wallet, order)
        query = "SELECT due_at, status FROM holds WHERE order_id = %s AND asked = %s"
        [row] = await wallet.until(query, order, asked)
        assert row["status"] == "held"
        pause = row["due_at"] - datetime.now(UTC)  # type: ignore[operator]
        assert timedelta(seconds=pause_seconds - 10) < pause <= timedelta(seconds=pause_seconds)
        assert len(await events_of(wallet, order)) == asked
        assert await next_question(inbox, order) == events_pb2.HoldOverdue(
            hold_id=hold.id, user_id=str(user), order_id=str(order), points=200
        )
    await inbox.unsubscribe()
    assert await wallet.balance(user) == (550, 200, 0)


async def test_parallel_askers_ask_once(wallet: Wallet, database: Database) -> None:
    user = await wallet.user(550)
    orders = [uuid4() for _ in range(20)]
    for order in orders:
        await wallet.reserve(user, order, 1)

    async def ask() -> int:
        async with database.worker() as connection:
            return await ask_about_overdue(connection, ask_again_seconds=30)

    await wallet.sql("UPDATE holds SET due_at = now() WHERE order_id = ANY(%s)", orders)
    await asyncio.gather(*(ask() for _ in range(5)))
    for order in orders:
        await wallet.until("SELECT 1 FROM holds WHERE order_id = %s AND asked = 1", order)
        assert len(await events_of(wallet, order)) == 1


async def test_an_asker_passes_by_a_hold_that_is_being_changed(wallet: Wallet, database: Database) -> None:
    user, busy, idle = await wallet.user(550), uuid4(), uuid4()
    for order in (busy, idle):
        await wallet.reserve(user, order, 1)
    async with await psycopg.AsyncConnection.connect(wallet.superuser_url) as other:
        questions = await lock_while_due(wallet, other, busy)
        await make_due(wallet, idle)
        async with database.worker() as connection, asyncio.timeout(3):
            await ask_about_overdue(connection, ask_again_seconds=30)
        await wallet.until("SELECT 1 FROM holds WHERE order_id = %s AND asked = 1", idle)
        assert len(await events_of(wallet, busy)) == questions


async def lock_while_due(wallet: Wallet, connection: psycopg.AsyncConnection, order: UUID) -> int:
    """Locks a hold that is due; wallet may have asked before the lock, so that it takes a few tries."""
    while True:
        await make_due(wallet, order)
        cursor = await connection.execute(
            "SELECT asked, due_at <= now() FROM holds WHERE order_id = %s FOR UPDATE", (order,)
        )
        row = await cursor.fetchone()
        assert row is not None
        if row[1]:
            return int(row[0])
        await connection.rollback()


async def test_resolved_holds_do_not_ask(wallet: Wallet, database: Database) -> None:
    user, released = await wallet.user(550), uuid4()
    captured = await wallet.spent(user, 10)
    await wallet.reserve(user, released, 10)
    await wallet.release(user, released)
    for order in (captured, released):
        await make_due(wallet, order)
    async with database.worker() as connection:
        await ask_about_overdue(connection, ask_again_seconds=30)
    for order in (captured, released):
        assert await events_of(wallet, order) == []
