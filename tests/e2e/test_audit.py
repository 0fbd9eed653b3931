"""The audit finds what breaks an invariant, says which, and finds nothing while the shop is busy."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from deploy.local import audit
from deploy.local.ephemeral import RunningStack, running_stack, wait_until
from deploy.local.quiet import is_quiet
from tests.e2e.rest_client import Customer, pay, sign_in, until


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningStack]:
    """A shop of its own: its books are falsified, one line at a time."""
    with running_stack() as running:
        yield running


@pytest.fixture(scope="module")
async def traded(stack: RunningStack) -> AsyncIterator[Customer]:
    """One who bought points, an image with points, and an image by card; and failed once."""
    async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as customer:
        await customer.top_up()
        image = (await customer.read("/api/products"))["items"][0]
        items = [{"productId": image["id"], "quantity": 1}]
        assert (await customer.buy("points", items=items)).status_code == 201
        assert (await customer.buy("points", items=[items[0] | {"quantity": 900}])).status_code == 402
        placed = (await customer.buy("stripe", items=items)).json()
        await pay(placed["url"])
        await until(lambda: customer.order(placed["orderId"]), lambda order: order["status"] == "completed")
        wait_until(lambda: is_quiet(stack.file.database_urls), seconds=30, what="quiet")
        yield customer


_TABLES = {
    "wallet": ("profiles", "points_transactions", "holds", "grants"),
    "orders": ("orders", "order_items", "stock_movements", "product_inventory", "stock_reservations"),
    "payments": ("payments",),
}


@contextmanager
def falsified(stack: RunningStack, database: str, change: str) -> Iterator[None]:
    """Changes rows behind the triggers' and constraints' backs, and puts the database back afterwards."""
    url = stack.file.database_urls[database]
    tables = _TABLES[database]
    with psycopg.connect(url) as connection:
        for table in tables:
            connection.execute(f"CREATE TABLE kept_{table} AS TABLE {table}".encode())
    try:
        with psycopg.connect(url) as connection:
            connection.execute("SET session_replication_role = replica")
            done = connection.execute(change.encode())
            assert done.rowcount > 0, "the falsification must hit a row"
        yield
    finally:
        with psycopg.connect(url) as connection:
            connection.execute("SET session_replication_role = replica")
            for table in tables:
                connection.execute(f"DELETE FROM {table}".encode())
                connection.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}".encode())
                connection.execute(f"DROP TABLE kept_{table}".encode())


async def test_honest_books_are_in_order(stack: RunningStack, traded: Customer) -> None:
    assert audit.audit(stack.file) == []
    assert audit.main(stack.file, as_json=True) == 0


@pytest.mark.parametrize(
    ("database", "change", "invariant"),
    [
        ("wallet", "UPDATE profiles SET points = points + 1", "I1"),
        ("wallet", "UPDATE points_transactions SET amount = amount + 1 WHERE type = 'purchase'", "I1"),
        ("wallet", "UPDATE points_transactions SET description = 'a gift'", "I1"),
        ("wallet", "DELETE FROM points_transactions WHERE seq = 2", "I1"),
        ("wallet", "UPDATE grants SET net_points = net_points + 1", "I1"),
        ("wallet", "UPDATE profiles SET points_held = 1", "I2"),
        ("wallet", "UPDATE holds SET status = 'held' WHERE status = 'captured'", "I3"),
        ("wallet", "UPDATE holds SET points = points + 1 WHERE status = 'captured'", "I3"),
        ("wallet", "DELETE FROM holds WHERE status = 'captured'", "I5"),
        ("orders", "UPDATE orders SET total_points = total_points + 1 WHERE total_points > 0", "I5"),
        ("orders", "UPDATE order_items SET price_cents = price_cents + 1", "I5"),
        (
            "orders",
            "UPDATE orders SET status = 'failed', failure_reason = 'x' WHERE status = 'completed'",
            "I5",
        ),
        ("orders", "DELETE FROM orders WHERE payment_method = 'points' AND status = 'completed'", "I5"),
        ("payments", "DELETE FROM payments", "I5"),
        ("payments", "UPDATE payments SET amount_cents = 1", "I5"),
        ("orders", "UPDATE product_inventory SET stock_quantity = stock_quantity + 1", "I9"),
        ("orders", "DELETE FROM stock_movements WHERE reason = 'sold'", "I9"),
        ("orders", "UPDATE product_inventory SET reserved_quantity = 1 WHERE stock_quantity > 0", "I9"),
        ("orders", "UPDATE stock_reservations SET status = 'held' WHERE status = 'taken'", "I9"),
    ],
)
async def test_falsified_books_are_seen(
    stack: RunningStack, traded: Customer, database: str, change: str, invariant: str
) -> None:
    with falsified(stack, database, change):
        found = {finding.invariant for finding in audit.audit(stack.file, second_look_seconds=0.1)}
    assert invariant in found
    assert audit.audit(stack.file) == []


async def test_findings_are_printed_and_counted(
    stack: RunningStack, traded: Customer, capsys: pytest.CaptureFixture[str]
) -> None:
    with falsified(stack, "wallet", "UPDATE profiles SET points_held = 1"):
        assert audit.main(stack.file, as_json=True) == 1
    assert '"invariant": "I2"' in capsys.readouterr().out


async def test_a_busy_shop_breaks_nothing(stack: RunningStack, traded: Customer) -> None:
    image = (await traded.read("/api/products"))["items"][0]
    items = [{"productId": image["id"], "quantity": 1}]
    busy = True

    async def shopper() -> None:
        async with sign_in(stack.file.gateway_url, stack.file.auth_jwt_secret) as customer:
            await customer.top_up("premium")
            while busy:
                await customer.buy("points", items=items)

    shoppers = [asyncio.create_task(shopper()) for _ in range(3)]
    looks = [await asyncio.to_thread(audit.audit, stack.file) for _ in range(10)]
    busy = False
    await asyncio.gather(*shoppers)
    assert looks == [[]] * 10
