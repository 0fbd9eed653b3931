"""The database's own walls: migrations that match the models, row-level security, grants, constraints."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from services.chassis.db import Database, FixedSql
from services.chassis.errors import Rejected
from services.chassis.ids import uuid7
from services.payments import queries
from services.payments.commands import checkouts, events
from services.payments.commands.packages import add_packages, add_plans
from services.payments.errors import LeaseLost
from services.payments.models import metadata
from services.payments.rules import Checkout, Package, Plan
from tests.integration.payments.conftest import PaymentsProcess

_SHAPE = """
    SELECT table_name, column_name, data_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = current_schema() AND table_name <> 'alembic_version'
    ORDER BY table_name, column_name"""
_CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = current_schema()::regnamespace AND conrelid::regclass::text <> 'alembic_version'
    ORDER BY 1, 2"""
_INDEXES = """
    SELECT tablename, indexname, regexp_replace(indexdef, ' ON [a-z]+\\.', ' ON ') FROM pg_indexes
    WHERE schemaname = current_schema() AND tablename <> 'alembic_version' ORDER BY 1, 2"""


@pytest.mark.parametrize("query", [_SHAPE, _CONSTRAINTS, _INDEXES], ids=["columns", "constraints", "indexes"])
async def test_the_migrations_build_what_the_models_say(process: PaymentsProcess, query: str) -> None:
    url = process.admin_url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url)
    with engine.connect() as connection:
        migrated = connection.execute(text(query)).all()
        connection.execute(text("CREATE SCHEMA modelled"))
        connection.execute(text("SET LOCAL search_path TO modelled"))
        metadata.create_all(connection)
        modelled = connection.execute(text(query)).all()
        connection.rollback()
    engine.dispose()
    assert len(modelled) > 10
    assert migrated == modelled


async def test_migrating_and_seeding_again_changes_nothing(process: PaymentsProcess) -> None:
    def seeded() -> list[tuple[object, ...]]:
        query = "SELECT to_jsonb(p) FROM points_packages p UNION ALL SELECT to_jsonb(p) FROM plans p"
        with psycopg.connect(process.admin_url) as connection:
            return connection.execute(query).fetchall()

    before = seeded()
    for command in ("migrate", "seed"):
        process.once(command)
    assert before == seeded() != []


@pytest.mark.parametrize("table", ["checkouts", "payments", "idempotency_keys", "subscriptions", "invoices"])
async def test_tables_of_users_are_under_forced_row_security(process: PaymentsProcess, table: str) -> None:
    query = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = %s::regclass"
    with psycopg.connect(process.admin_url) as connection:
        assert connection.execute(query, (table,)).fetchone() == (True,)


async def _begin(database: Database, user_id: UUID, *, order_id: UUID | None = None) -> Checkout:
    async with database.customer(user_id) as connection:
        checkout = await checkouts.begin_order_checkout(
            connection,
            checkout_id=uuid7(),
            user_id=user_id,
            order_id=order_id or uuid4(),
            amount_cents=100,
            currency="usd",
            sealed_request=b"sealed",
        )
    assert checkout is not None
    return checkout


@pytest.fixture
async def checkout(database: Database) -> AsyncIterator[Checkout]:
    """A checkout whose lease nobody else takes while the test runs."""
    checkout = await _begin(database, uuid4())
    yield checkout
    async with database.worker() as connection:
        await checkouts.refuse_checkout(connection, checkout, reason="end_of_test")


async def test_a_customer_sees_only_their_own_checkouts(database: Database, checkout: Checkout) -> None:
    async with database.customer(uuid4()) as connection:
        assert await queries.find_checkout(connection, checkout.id) is None
    async with database.anyone() as connection:
        assert await queries.find_checkout(connection, checkout.id) is None
    async with database.customer(checkout.user_id) as connection:
        assert await queries.find_checkout(connection, checkout.id) is not None


async def test_a_customer_cannot_write_for_another(database: Database) -> None:
    with pytest.raises(DBAPIError, match="row-level security"):
        async with database.customer(uuid4()) as connection:
            await checkouts.begin_order_checkout(
                connection,
                checkout_id=uuid7(),
                user_id=uuid4(),
                order_id=uuid4(),
                amount_cents=100,
                currency="usd",
                sealed_request=b"",
            )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE checkouts SET status = 'paid'",
        "DELETE FROM checkouts",
        "INSERT INTO checkouts (status) VALUES ('paid')",
        "INSERT INTO checkouts (payment_intent_id) VALUES ('pi')",
        "SELECT 1 FROM stripe_events",
        "SELECT 1 FROM payments",
        "SELECT 1 FROM quarantine",
        "SELECT 1 FROM outbox",
        "UPDATE points_packages SET price_cents = 1",
    ],
)
async def test_the_customers_login_may_not(database: Database, statement: str) -> None:
    with pytest.raises(DBAPIError, match="permission denied"):
        async with database.customer(uuid4()) as connection:
            await connection.execute(text(statement))


@pytest.mark.parametrize(
    ("assignments", "constraint"),
    [
        ("status = 'lost'", "known_status"),
        ("status = 'open', session_id = 'x'", "open_has_a_page"),
        ("status = 'processing'", "begun_has_a_session"),
        ("status = 'paid', session_id = 'x'", "paid_has_a_payment"),
        ("payment_intent_id = 'pi'", "paid_has_a_payment"),
        ("status = 'failed'", "failed_has_a_reason"),
        ("amount_cents = 0", "amount_positive"),
        ("amount_cents = -1", "amount_positive"),
        ("currency = 'USD'", "currency_is_iso_4217"),
        ("points = 5", "all_but_orders_give_points"),
        ("package_id = 'basic'", "one_purpose"),
        ("attempt_until = expires_at + interval '1 second'", "attempt_within_lifetime"),
        ("version = 0", "counters_in_range"),
    ],
)
async def test_an_impossible_checkout_is_refused(
    process: PaymentsProcess, checkout: Checkout, assignments: str, constraint: str
) -> None:
    with (
        psycopg.connect(process.admin_url) as connection,
        pytest.raises(psycopg.errors.CheckViolation, match=constraint),
    ):
        connection.execute(f"UPDATE checkouts SET {assignments} WHERE id = %s".encode(), (checkout.id,))


async def test_a_lease_is_held_by_one_worker(database: Database, checkout: Checkout) -> None:
    async with database.worker() as connection:
        assert await checkouts.lease_checkout(connection, checkout.id) is None
        claimed = await checkouts.claim_unfinished(connection, limit=1000)
    assert checkout.id not in {other.id for other in claimed}


async def test_whoever_lost_the_lease_changes_nothing(database: Database, checkout: Checkout) -> None:
    async with database.worker() as connection:
        await checkouts.release_checkout(connection, checkout, delay_seconds=60)
        leased = await checkouts.lease_checkout(connection, checkout.id)
        assert leased is not None
        assert leased.lease_token != checkout.lease_token
        await checkouts.refuse_checkout(connection, checkout, reason="late")
        await checkouts.abandon_checkout(connection, checkout)
        await checkouts.release_checkout(connection, checkout, delay_seconds=0)
        assert await checkouts.begin_next_attempt(connection, checkout) is None
        now = await queries.find_checkout(connection, checkout.id)
        assert now is not None
        assert (now.status, now.attempt, now.lease_token) == ("creating", 1, leased.lease_token)
        await checkouts.refuse_checkout(connection, leased, reason="end_of_test")


async def test_an_event_is_finished_by_whoever_holds_its_lease(database: Database) -> None:
    event = events.Envelope(id=f"evt_{uuid4().hex}", type="x", created=1)
    # One transaction: the running service would take what it can see.
    async with database.worker() as connection:
        sql = cast(FixedSql, (await connection.get_raw_connection()).driver_connection)
        assert await events.receive_event(sql, event, sealed_payload=b"")
        assert not await events.receive_event(sql, event, sealed_payload=b"")
        claimed = await events.claim_events(connection, limit=1000, lease_seconds=30)
        [late] = [one for one in claimed if one.id == event.id]
        holder = replace(late, lease_token=uuid4())
        await connection.execute(
            text("UPDATE stripe_events SET lease_token = :token WHERE id = :id"),
            {"token": holder.lease_token, "id": holder.id},
        )
        await events.retry_event(connection, late, error="late", delay_seconds=0, has_failed=True)
        with pytest.raises(LeaseLost):
            await events.finish_event(connection, late, ignored=False, effects=())
        await events.finish_event(connection, holder, ignored=True, effects=())
        with pytest.raises(LeaseLost):
            await events.finish_event(connection, holder, ignored=True, effects=())


async def test_a_package_or_plan_that_stripe_would_not_charge_is_not_put_up(database: Database) -> None:
    package = Package(id="crumb", name="Crumb", points=1, price_cents=49, currency="usd")
    plan = Plan(id="crumbs", name="Crumbs", points=1, price_cents=49, currency="usd", interval="month")
    async with database.worker() as connection:
        with pytest.raises(Rejected, match="no less than 50"):
            await add_packages(connection, [package])
        with pytest.raises(Rejected, match="no less than 50"):
            await add_plans(connection, [plan])
