"""The second wall: what the orders database refuses, to whom, and that migrations match the models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg.errors import CheckViolation, InsufficientPrivilege, RestrictViolation, UniqueViolation
from sqlalchemy import create_engine

from services.orders.models import APPEND_ONLY_TABLES, USER_TABLES, metadata
from tests.integration.orders.conftest import migrate_and_seed
from tests.support.servers import Servers

PRODUCT = UUID("01920000-0000-7000-8000-000000000001")
_ORDER = """
    INSERT INTO orders (id, user_id, status, payment_method, total_cents, total_points, currency,
        idempotency_key, request_hash, failure_reason, stripe_payment_intent_id, cart_version)
    VALUES (%(id)s, %(user_id)s, %(status)s, %(method)s, %(cents)s, %(points)s, 'usd', %(key)s, '\\x00',
        %(reason)s, %(intent)s, %(cart)s)"""


def order(**other: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": uuid4(),
        "user_id": uuid4(),
        "status": "pending",
        "method": "points",
        "cents": 0,
        "points": 50,
        "key": str(uuid4()),
        "reason": None,
        "intent": None,
        "cart": None,
    }
    return fields | other


@pytest.fixture
def superuser(migrated: Servers) -> Iterator[psycopg.Connection]:
    """Everything it does is rolled back."""
    with psycopg.connect(migrated.admin_url("orders")) as connection:
        yield connection
        connection.rollback()


def test_the_migrations_lead_to_the_models(migrated: Servers) -> None:
    engine = create_engine(migrated.admin_url("orders").replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []


def test_migrating_and_seeding_again_changes_nothing(migrated: Servers, assets: Path) -> None:
    def seeded() -> list[tuple[object, ...]]:
        query = "SELECT p.*, i.stock_quantity FROM products p JOIN product_inventory i ON i.product_id = p.id"
        with psycopg.connect(migrated.admin_url("orders")) as connection:
            return connection.execute(f"{query} ORDER BY p.id".encode()).fetchall()

    before = seeded()
    migrate_and_seed(migrated, assets)
    assert before == seeded() != []


def _with_rows(url: str, user_id: UUID) -> None:
    """One row of the user in every table that bears users."""
    placed = order(user_id=user_id)
    mine = {"order": placed["id"], "user": user_id, "product": PRODUCT}
    with psycopg.connect(url) as connection:
        connection.execute(_ORDER, placed)
        for statement in (
            "INSERT INTO order_items"
            " (order_id, product_id, user_id, title, price_cents, price_points, quantity)"
            " VALUES (%(order)s, %(product)s, %(user)s, 'x', 499, 50, 1)",
            "INSERT INTO order_history (order_id, user_id, to_status, actor, reason)"
            " VALUES (%(order)s, %(user)s, 'pending', 'test', 'placed')",
            "INSERT INTO stock_reservations (order_id, product_id, user_id, quantity, status)"
            " VALUES (%(order)s, %(product)s, %(user)s, 1, 'released')",
            "INSERT INTO saga_runs (order_id, saga, user_id, step, status)"
            " VALUES (%(order)s, 'test', %(user)s, 'x', 'done')",
            "INSERT INTO mails (order_id, kind, user_id, sent_at)"
            " VALUES (%(order)s, 'receipt', %(user)s, now())",
            "INSERT INTO refunds (id, order_id, user_id, amount_cents, amount_points, return_stock, actor,"
            " reason, request_hash) VALUES (%(order)s, %(order)s, %(user)s, 0, 50, false, 'x', 'x', '\\x00')",
            "INSERT INTO refund_items (refund_id, product_id, order_id, user_id, quantity, cents, points)"
            " VALUES (%(order)s, %(product)s, %(order)s, %(user)s, 1, 0, 50)",
            "INSERT INTO download_grants (id, order_id, product_id, user_id, downloads_left, reissues_left,"
            " expires_at) VALUES (%(order)s, %(order)s, %(product)s, %(user)s, 5, 3, now())",
            "INSERT INTO downloads (grant_id, order_id, product_id, user_id)"
            " VALUES (%(order)s, %(order)s, %(product)s, %(user)s)",
            "INSERT INTO carts (user_id) VALUES (%(user)s)",
            "INSERT INTO cart_items (user_id, product_id, quantity, price_cents, price_points)"
            " VALUES (%(user)s, %(product)s, 1, 499, 50)",
            "INSERT INTO idempotency_keys (user_id, route, key, request_hash, resource_id)"
            " VALUES (%(user)s, 'r', 'k', '\\x00', %(order)s)",
        ):
            connection.execute(statement.encode(), mine)


# What the app login may not even look at.
_HIDDEN = {"mails", "refunds", "refund_items", "owed_decisions"}


@pytest.mark.parametrize("table", sorted(set(USER_TABLES) - _HIDDEN))
def test_a_customer_sees_only_what_is_theirs(migrated: Servers, table: str) -> None:
    mine, other = uuid4(), uuid4()
    for user_id in (mine, other):
        _with_rows(migrated.admin_url("orders"), user_id)
    query = f"SELECT DISTINCT user_id FROM {table}".encode()
    with psycopg.connect(migrated.url("orders", "app")) as connection:
        assert connection.execute(query).fetchall() == []
        connection.execute("SELECT set_config('app.user_id', %s, true)", (str(mine),))
        assert connection.execute(query).fetchall() == [(mine,)]
    with psycopg.connect(migrated.url("orders", "worker")) as connection:
        assert len(connection.execute(query).fetchall()) >= 2


def test_a_customer_places_nothing_for_somebody_else(migrated: Servers) -> None:
    with psycopg.connect(migrated.url("orders", "app")) as connection:
        connection.execute("SELECT set_config('app.user_id', %s, true)", (str(uuid4()),))
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            connection.execute(_ORDER, order())


@pytest.mark.parametrize(
    "statement",
    [
        # A run past its payment, and an order that needs none.
        "INSERT INTO saga_runs (order_id, user_id, saga, step) SELECT id, user_id,"
        " 'place_order_with_points/v1', 'capture_points' FROM orders",
        "INSERT INTO orders (id, user_id, status, payment_method, total_cents, total_points, currency,"
        " idempotency_key, request_hash, fulfilled_at)"
        " SELECT uuidv7(), user_id, 'completed', 'points', 0, 1, 'usd', 'k', '\\x00', now() FROM orders",
    ],
)
def test_a_customers_login_places_what_is_yet_to_be_paid(migrated: Servers, statement: str) -> None:
    mine = uuid4()
    _with_rows(migrated.admin_url("orders"), mine)
    with psycopg.connect(migrated.url("orders", "app")) as connection:
        connection.execute("SELECT set_config('app.user_id', %s, true)", (str(mine),))
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET status = 'completed'",
        "DELETE FROM orders",
        "UPDATE saga_runs SET status = 'done'",
        "UPDATE product_inventory SET stock_quantity = 1",
        "INSERT INTO products (title, price_cents, price_points, currency, asset_key)"
        " VALUES ('x', 1, 1, 'usd', 'x')",
        "INSERT INTO stock_movements (product_id, delta, reason, actor)"
        " SELECT id, 1, 'received', 'x' FROM products",
        "SELECT 1 FROM mails",
        "SELECT 1 FROM outbox",
        "INSERT INTO outbox (subject, payload) VALUES ('orders.order.completed', '')",
        "SELECT pg_advisory_xact_lock(4713)",
        "SELECT 1 FROM inbox",
        "SELECT 1 FROM dead_letters",
        "CREATE TABLE mine (id int)",
    ],
)
def test_a_customers_login_may_do_no_more_than_buy(migrated: Servers, statement: str) -> None:
    with (
        psycopg.connect(migrated.url("orders", "app")) as connection,
        pytest.raises(InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


@pytest.mark.parametrize("table", APPEND_ONLY_TABLES)
@pytest.mark.parametrize("verb", ["UPDATE {} SET created_at = now()", "DELETE FROM {}", "TRUNCATE {}"])
def test_what_happened_stays(superuser: psycopg.Connection, table: str, verb: str) -> None:
    with pytest.raises(RestrictViolation, match="append-only"):
        superuser.execute(verb.format(table).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "lost"},
        {"method": "cash"},
        {"points": 0},
        {"cents": 100},
        {"method": "stripe"},
        {"method": "stripe", "cents": 100},
        {"status": "failed"},
        {"status": "completed", "method": "stripe", "cents": 100, "points": 0},
    ],
)
def test_an_impossible_order_is_refused(superuser: psycopg.Connection, wrong: dict[str, Any]) -> None:
    with pytest.raises(CheckViolation):
        superuser.execute(_ORDER, order(**wrong))


@pytest.mark.parametrize(
    "same", [{"key": "k"}, {"cart": 7}, {"intent": "pi_1", "method": "stripe", "cents": 100, "points": 0}]
)
def test_one_key_one_cart_one_payment_is_one_order(
    superuser: psycopg.Connection, same: dict[str, Any]
) -> None:
    user_id = uuid4()
    superuser.execute(_ORDER, order(user_id=user_id, **same))
    with pytest.raises(UniqueViolation):
        superuser.execute(_ORDER, order(user_id=user_id, **same))


@pytest.mark.parametrize(
    "change",
    [
        "stock_quantity = -1",
        "reserved_quantity = -1",
        "reserved_quantity = stock_quantity + 1",
        "stock_quantity = NULL, reserved_quantity = 1",
    ],
)
def test_stock_is_never_oversold(superuser: psycopg.Connection, change: str) -> None:
    query = f"UPDATE product_inventory SET {change} WHERE product_id = %s"
    with pytest.raises(CheckViolation):
        superuser.execute(query.encode(), (PRODUCT,))


@pytest.mark.parametrize(
    "change",
    [
        "asset_key = '/x'",
        "asset_key = '../x'",
        "asset_key = 'a/../x'",
        "asset_key = 'a//x'",
        "asset_key = E'x\n'",
        "asset_key = ''",
        "type = 'liquid'",
        "title = ''",
        "price_cents = 0",
    ],
)
def test_an_impossible_product_is_refused(superuser: psycopg.Connection, change: str) -> None:
    with pytest.raises(CheckViolation):
        superuser.execute(f"UPDATE products SET {change} WHERE id = %s".encode(), (PRODUCT,))


@pytest.mark.parametrize(
    ("delta", "reason"),
    [(0, "corrected"), (-1, "received"), (1, "sold"), (-1, "returned"), (1, "stolen"), (1, "returned")],
)
def test_an_impossible_movement_is_refused(superuser: psycopg.Connection, delta: int, reason: str) -> None:
    statement = "INSERT INTO stock_movements (product_id, delta, reason, actor) VALUES (%s, %s, %s, 'x')"
    with pytest.raises(CheckViolation):
        superuser.execute(statement.encode(), (PRODUCT, delta, reason))


def test_the_seed_receives_its_stock_once(superuser: psycopg.Connection) -> None:
    query = """
        SELECT count(*) FROM product_inventory i
        WHERE stock_quantity IS NOT NULL AND stock_quantity <>
            (SELECT sum(delta) FROM stock_movements m WHERE m.product_id = i.product_id)"""
    assert superuser.execute(query).fetchone() == (0,)
    assert superuser.execute("SELECT count(*) > 10 FROM products").fetchone() == (True,)
