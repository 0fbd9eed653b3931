"""Two that want the same at the same time: one has its way, the other one changes nothing.

Straight on the database with orders' own code, so that hundreds of tries take seconds; `make chaos` tries ten
times as often.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from services.chassis.db import Database
from services.chassis.errors import Rejected
from services.orders import refund_saga
from services.orders.card_saga import AWAIT, EXPIRED, OPEN, PAID, PLACE_WITH_CARD, Outcome, apply_outcome
from services.orders.commands import refunds
from services.orders.commands.bounds import Bounds
from services.orders.commands.carts import set_cart_item
from services.orders.commands.placing import Placement, place_order
from services.orders.commands.refunds import Wanted
from services.orders.fulfilment import Terms
from services.orders.queries import carts
from services.orders.queries.catalog import list_products
from services.orders.queries.orders import find_order
from services.orders.rules import Method, Status
from tests.support.servers import Servers

TRIES = [200, pytest.param(2000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
TERMS = Terms(grant_days=30, downloads=5, reissues=3, link_seconds=900)
PRODUCT = UUID("01920000-0000-7000-8000-000000000003")
_AT_ONCE = 4


async def repeat(race: Callable[[], Awaitable[None]], times: int) -> None:
    """A few at once, as many as there are connections for."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one() -> None:
        async with slots:
            await race()

    async with asyncio.TaskGroup() as group:
        for _ in range(times):
            group.create_task(one())


def placement_of(method: Method, user_id: UUID, *, cart_version: int | None = None) -> Placement:
    return Placement(
        order_id=uuid4(),
        user_id=user_id,
        method=method,
        quantities={PRODUCT: 1},
        email=None,
        idempotency_key=str(uuid4()),
        request_hash=b"x",
        cart_version=cart_version,
        saga=PLACE_WITH_CARD,
        first_step=OPEN,
        lease_token=uuid4(),
        lease_seconds=600,
        bounds=Bounds(open_orders=5, reserved_pieces=100, failed_checkouts=100),
    )


async def placed_by_card(database: Database) -> Placement:
    placement = placement_of(Method.STRIPE, uuid4())
    async with database.customer_sql(placement.user_id) as connection:
        assert await place_order(connection, placement) is not None
    async with database.worker_sql() as connection:
        await connection.execute(
            "UPDATE saga_runs SET step = %s WHERE order_id = %s", (AWAIT, placement.order_id)
        )
    return placement


async def news(database: Database, placement: Placement, outcome: Outcome) -> None:
    async with database.worker() as connection:
        await apply_outcome(connection, placement.order_id, outcome, TERMS)


async def status_of(database: Database, order_id: UUID) -> Status:
    async with database.worker() as connection:
        order = await find_order(connection, order_id)
    assert order is not None
    return order.status


async def price_of(database: Database) -> int:
    async with database.anyone() as connection:
        products = await list_products(connection, limit=100, after=None)
    return next(product.price_cents for product in products if product.id == PRODUCT)


@pytest.mark.parametrize("tries", TRIES)
async def test_twin_checkouts_of_one_cart_are_one_order(database: Database, tries: int) -> None:
    async def click(user_id: UUID) -> UUID | None:
        async with database.customer_sql(user_id) as connection:
            version, _ = await carts.lock_contents(connection, user_id)
            placement = placement_of(Method.STRIPE, user_id, cart_version=version)
            placed = await place_order(connection, placement)
        return None if placed is None else placement.order_id

    async def race() -> None:
        user_id = uuid4()
        async with database.customer(user_id) as connection:
            await set_cart_item(
                connection, user_id=user_id, product_id=PRODUCT, quantity=1, expected_version=None
            )
        orders = await asyncio.gather(click(user_id), click(user_id))
        assert len([order for order in orders if order is not None]) == 1

    await repeat(race, tries)


@pytest.mark.parametrize("tries", TRIES)
async def test_a_payment_and_an_expiry_at_once_leave_paid_goods(database: Database, tries: int) -> None:
    """Paid wins however they meet: an order that expired first is revived, its stock reserved again."""
    cents = await price_of(database)
    expired = Outcome(state=EXPIRED, version=2, amount_cents=cents, currency="usd", payment_intent_id="")

    async def race() -> None:
        placement = await placed_by_card(database)
        paid = replace(expired, state=PAID, version=3, payment_intent_id=f"pi_{placement.order_id.hex}")
        await asyncio.gather(news(database, placement, paid), news(database, placement, expired))
        assert await status_of(database, placement.order_id) is Status.COMPLETED

    await repeat(race, tries)


@pytest.mark.parametrize("tries", TRIES)
async def test_twin_refunds_give_an_order_back_once(
    database: Database, migrated: Servers, tries: int
) -> None:
    cents = await price_of(database)

    async def refund(placement: Placement) -> bool:
        wanted = Wanted(
            refund_id=uuid4(), pieces={}, return_stock=False, actor="x", reason="x", request_hash=b"x"
        )
        try:
            async with database.worker() as connection:
                await refund_saga.begin(connection, order_id=placement.order_id, user_id=placement.user_id)
                await refunds.request_refund(connection, placement.order_id, wanted)
        except Rejected as error:
            return error.reason != "REFUND_EXCEEDS_ORDER"
        return True

    orders: list[UUID] = []

    async def race() -> None:
        placement = await placed_by_card(database)
        intent = f"pi_{placement.order_id.hex}"
        paid = Outcome(state=PAID, version=2, amount_cents=cents, currency="usd", payment_intent_id=intent)
        await news(database, placement, paid)
        assert sorted(await asyncio.gather(refund(placement), refund(placement))) == [False, True]
        orders.append(placement.order_id)

    await repeat(race, tries)
    query = "SELECT count(*) AS n, sum(amount_cents) AS cents FROM refunds WHERE order_id = ANY(%s)"
    async with await AsyncConnection.connect(
        migrated.admin_url("orders"), row_factory=dict_row
    ) as connection:
        [row] = await (await connection.execute(query, (orders,))).fetchall()
        # Nobody carries these out.
        await connection.execute("DELETE FROM saga_runs WHERE order_id = ANY(%s)", (orders,))
    assert (row["n"], row["cents"]) == (tries, tries * cents)


async def test_a_second_click_while_a_payment_is_applied_deadlocks_with_nobody(
    database: Database, migrated: Servers
) -> None:
    """The click holds cart and stock and inserts last; it would wait for an order that was changed before."""
    user_id = uuid4()
    async with database.customer(user_id) as connection:
        await set_cart_item(
            connection, user_id=user_id, product_id=PRODUCT, quantity=1, expected_version=None
        )
    first, second = (placement_of(Method.STRIPE, user_id, cart_version=1) for _ in range(2))
    async with database.customer_sql(user_id) as clicking:
        assert await place_order(clicking, first) is not None
    paid = Outcome(
        state=PAID,
        version=2,
        amount_cents=await price_of(database),
        currency="usd",
        payment_intent_id=f"pi_{first.order_id.hex}",
    )
    async with database.customer_sql(user_id) as clicking:
        await carts.lock_contents(clicking, user_id)
        applying = asyncio.create_task(news(database, first, paid))
        await _until_a_worker_waits_for_a_lock(migrated)
        assert await place_order(clicking, second) is None
    await applying
    assert await status_of(database, first.order_id) is Status.COMPLETED


async def _until_a_worker_waits_for_a_lock(servers: Servers) -> None:
    waiting = "SELECT FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
    async with await AsyncConnection.connect(servers.admin_url("orders"), autocommit=True) as connection:
        async with asyncio.timeout(10):
            while (await connection.execute(waiting, ("orders-test-worker",))).rowcount == 0:
                await asyncio.sleep(0.01)
