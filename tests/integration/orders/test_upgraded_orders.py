"""What becomes of orders that a release before 0.2.0 has left, when its database is migrated."""

import subprocess
import sys
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from alembic.config import Config

from deploy.local.parts import ROOT
from deploy.postgres.roles import role
from tests.support.servers import Servers

# The last migration of the release before.
_BEFORE = "0004"
_ORDER = """
    INSERT INTO orders (id, user_id, status, payment_method, total_cents, total_points, currency,
        idempotency_key, request_hash, stripe_payment_intent_id, refunded_cents, dispute, failure_reason)
    VALUES (%s, %s, %s, 'stripe', 2297, 0, 'usd', %s, '\\x00', %s, %s, %s, %s)"""
_MONEY = "SELECT id, status, paid_cents, lost_cents, promised_cents, owed_cents FROM orders"


@pytest.fixture
def database(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database of the orders' owner, as the release before has migrated it."""
    name = f"orders_{uuid4().hex[:8]}"
    with psycopg.connect(servers.admin_url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER {role('orders', 'owner')}".encode())
        monkeypatch.setenv("DATABASE_OWNER_URL", _of_owner(servers, name))
        config = Config()
        config.set_main_option("script_location", str(ROOT / "services/orders/migrations"))
        command.upgrade(config, _BEFORE)
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _of_owner(servers: Servers, name: str) -> str:
    return f"{servers.url('orders', 'owner').rpartition('/')[0]}/{name}"


# Status, refunded cents, dispute and failure_reason then; paid, lost, promised and owed cents now.
_ORDERS: tuple[tuple[tuple[str, int, str, str | None], tuple[int | None, int | None, int, int]], ...] = (
    (("pending", 0, "none", None), (None, None, 0, 0)),
    (("completed", 0, "none", None), (2297, None, 0, 0)),
    (("completed", 999, "open", None), (2297, None, 999, 0)),
    (("refunded", 2297, "won", None), (2297, None, 2297, 0)),
    (("refunded", 0, "lost", "dispute_lost"), (2297, 2297, 0, 0)),
    # The bank decided for the shop after all; it promised the customer nothing.
    (("refunded", 0, "won", "dispute_lost"), (2297, None, 0, 0)),
    # The refund came back, and nobody was told.
    (("refunded", 0, "none", None), (2297, None, 2297, 2297)),
)


def test_orders_of_the_release_before_get_their_amounts(servers: Servers, database: str) -> None:
    placed = [(uuid4(), *order) for order in _ORDERS]
    with psycopg.connect(servers.admin_url(database)) as connection:
        for order_id, (status, refunded_cents, dispute, failure_reason), _ in placed:
            intent = None if status == "pending" else f"pi_{order_id.hex}"
            money = (intent, refunded_cents, dispute, failure_reason)
            connection.execute(_ORDER, (order_id, uuid4(), status, str(uuid4()), *money))
    subprocess.run([sys.executable, "-m", "services.orders", "migrate"], cwd=ROOT, check=True)
    with psycopg.connect(servers.admin_url(database)) as connection:
        found = {row[0]: row[1:] for row in connection.execute(_MONEY).fetchall()}
    assert found == {order_id: (status, *money) for order_id, (status, *_), money in placed}
