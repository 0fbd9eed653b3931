"""The second wall: what the database itself refuses, to whom, and that the migrations match the models."""

import re
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from psycopg.errors import (
    CheckViolation,
    InsufficientPrivilege,
    RestrictViolation,
    UniqueViolation,
)
from psycopg.rows import TupleRow
from sqlalchemy import create_engine

from services.wallet.models import metadata
from services.wallet.queries import account_of, entry_of
from services.wallet.rules import broken_at
from tests.integration.wallet.client import Wallet, WalletProcess

Connection = psycopg.Connection[TupleRow]
HASH = b"\x01" * 32
USER_TABLES = ("profiles", "points_transactions", "holds", "grants")


@pytest.fixture
def superuser(wallet: Wallet) -> Iterator[Connection]:
    with psycopg.connect(wallet.superuser_url) as connection:
        yield connection
        connection.rollback()


def login(process: WalletProcess, name: str, *, user_id: UUID | None = None) -> Connection:
    connection = psycopg.connect(process.url(name))
    if user_id is not None:
        connection.execute("SELECT set_config('app.user_id', %s, true)", (str(user_id),))
    return connection


async def user_with_rows(wallet: Wallet) -> UUID:
    user = await wallet.user(550)
    await wallet.reserve(user, uuid4(), 100)
    await wallet.spent(user, 100)
    return user


# --- row-level security -----------------------------------------------------------------------------


async def test_a_customer_sees_only_what_is_theirs(process: WalletProcess, wallet: Wallet) -> None:
    mine, other = await user_with_rows(wallet), await user_with_rows(wallet)
    with login(process, "app", user_id=mine) as connection:
        for table in USER_TABLES:
            owner = "id" if table == "profiles" else "user_id"
            seen = {row[0] for row in connection.execute(f"SELECT {owner} FROM {table}".encode())}
            assert seen == {mine}, table
        moved = connection.execute("UPDATE profiles SET points_held = points_held WHERE id = %s", (other,))
        assert moved.rowcount == 0


@pytest.mark.parametrize("setting", [None, ""])
async def test_without_a_user_nothing_is_seen(
    process: WalletProcess, wallet: Wallet, setting: str | None
) -> None:
    await user_with_rows(wallet)
    with login(process, "app") as connection:
        if setting is not None:
            connection.execute("SELECT set_config('app.user_id', %s, true)", (setting,))
        for table in USER_TABLES:
            assert connection.execute(f"SELECT 1 FROM {table}".encode()).fetchall() == [], table


async def test_a_customer_writes_nothing_for_somebody_else(process: WalletProcess, wallet: Wallet) -> None:
    mine, other = await user_with_rows(wallet), await user_with_rows(wallet)
    statements = {
        "INSERT INTO profiles (id) VALUES (%s)": (uuid4(),),
        "INSERT INTO holds (user_id, order_id, points, status, due_at) VALUES (%s, %s, 1, 'held', now())": (
            other,
            uuid4(),
        ),
    }
    for statement, parameters in statements.items():
        with (
            login(process, "app", user_id=mine) as connection,
            pytest.raises(InsufficientPrivilege) as refused,
        ):
            connection.execute(statement.encode(), parameters)
        assert "row-level security" in str(refused.value)


_LEDGER_ROW = """
    INSERT INTO points_transactions
        (id, user_id, seq, amount, type, order_id, idempotency_key, prev_hash, hash,
         description, balance_after, hash_version)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, '', 0, 1)"""


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE profiles SET points = points + 1",
        "UPDATE profiles SET points_debt = 0",
        "UPDATE profiles SET ledger_seq = 0",
        "INSERT INTO profiles (id, points) VALUES ({user}, 1)",
        "DELETE FROM profiles",
        "UPDATE holds SET status = 'released'",
        "DELETE FROM holds",
        # As if it were captured, with nothing spent; or given back.
        "INSERT INTO holds (user_id, order_id, points, status, due_at)"
        " VALUES ({user}, uuidv7(), 1, 'captured', now())",
        "INSERT INTO points_transactions (id, user_id, seq, amount, type, idempotency_key, prev_hash, hash,"
        " description, balance_after, hash_version)"
        " SELECT uuidv7(), {user}, 99, 1, 'adjustment', 'x', hash, hash, '', 0, 1 FROM points_transactions",
        "UPDATE points_transactions SET amount = 1",
        "DELETE FROM points_transactions",
        "TRUNCATE points_transactions",
        "INSERT INTO grants (source_id, user_id, version, net_points) VALUES ('x', {user}, 1, 1)",
        "UPDATE grants SET net_points = 1",
        "SELECT 1 FROM outbox",
        "INSERT INTO outbox (subject, payload) VALUES ('wallet.hold.overdue', '')",
        "SELECT pg_advisory_lock(4713)",
        "SELECT pg_try_advisory_xact_lock(4713)",
        "SELECT 1 FROM inbox",
        "SELECT 1 FROM dead_letters",
        "SELECT 1 FROM audit_log",
        "INSERT INTO audit_log SELECT * FROM audit_log",
        "ALTER TABLE holds DISABLE ROW LEVEL SECURITY",
        "DROP TABLE holds",
        "CREATE TABLE mine (id int)",
    ],
)
async def test_the_customers_login_can_do_no_more_than_hold_points(
    process: WalletProcess, wallet: Wallet, statement: str
) -> None:
    mine = await user_with_rows(wallet)
    with login(process, "app", user_id=mine) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement.replace("{user}", f"'{mine}'").encode())


def test_no_run_time_login_owns_a_table_or_passes_row_level_security(superuser: Connection) -> None:
    owners = superuser.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert owners.fetchall() == [("wallet_owner",)]
    roles = superuser.execute(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'wallet%%' AND (rolbypassrls OR rolsuper)"
    )
    assert roles.fetchall() == []
    secured = superuser.execute(
        "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity ORDER BY relname"
    )
    assert [row[0] for row in secured] == sorted(USER_TABLES)


# --- the ledger and the holds -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["postgres", "owner", "worker", "app"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE points_transactions SET description = 'x'",
        "UPDATE points_transactions SET description = 'x' WHERE false",
        "DELETE FROM points_transactions",
        "TRUNCATE points_transactions CASCADE",
        "UPDATE audit_log SET reason = 'x'",
        "UPDATE audit_log SET reason = 'x' WHERE false",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ],
)
async def test_nobody_rewrites_the_ledger_or_the_audit_log(
    process: WalletProcess, wallet: Wallet, name: str, statement: str
) -> None:
    user = await wallet.user(550)
    url = wallet.superuser_url if name == "postgres" else process.url(name)
    with psycopg.connect(url) as connection:
        connection.execute("SELECT set_config('app.user_id', %s, true)", (str(user),))
        # The run-time logins lack the privilege; whoever has it meets the trigger.
        expected = RestrictViolation if name in ("postgres", "owner") else InsufficientPrivilege
        with pytest.raises(expected):
            connection.execute(statement.encode())
    assert len(await wallet.ledger(user)) == 1


@pytest.mark.parametrize(
    ("table", "grantee"),
    [("points_transactions", "worker"), ("points_transactions", "app"), ("audit_log", "worker")],
)
async def test_the_trigger_stands_even_behind_a_privilege(
    superuser: Connection, table: str, grantee: str
) -> None:
    superuser.execute(f"GRANT ALL ON {table} TO wallet_{grantee}".encode())
    superuser.execute(f"SET LOCAL ROLE wallet_{grantee}".encode())
    for statement in ("UPDATE {} SET seq = 1", "DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(RestrictViolation), superuser.transaction():
            superuser.execute(statement.format(table).encode())


async def test_a_hold_resolves_once_and_stays_what_it_was_made_for(
    superuser: Connection, wallet: Wallet
) -> None:
    user = await wallet.user(550)
    captured, released, held = await wallet.spent(user, 1), uuid4(), uuid4()
    for order in (released, held):
        await wallet.reserve(user, order, 1)
    await wallet.release(user, released)
    for order, change in (
        (captured, "status = 'released'"),
        (captured, "status = 'held'"),
        (released, "status = 'captured'"),
        (released, "status = 'held'"),
        (held, "points = 2"),
        (held, "order_id = uuidv7()"),
        (held, "id = uuidv7()"),
        (held, f"user_id = '{await wallet.user(1)}'"),
    ):
        with pytest.raises(RestrictViolation), superuser.transaction():
            superuser.execute(f"UPDATE holds SET {change} WHERE order_id = '{order}'".encode())


# --- constraints ------------------------------------------------------------------------------------

_NEW_HOLD = "INSERT INTO holds (user_id, order_id, points, status, due_at) VALUES ('{user}', "
_ENTRY = """
    INSERT INTO points_transactions (id, user_id, description, balance_after, hash_version,
        seq, amount, type, order_id, idempotency_key, prev_hash, hash)
    VALUES (uuidv7(), '{user}', '', 0, 1, """
_AUDIT = """
    INSERT INTO audit_log (subject, details, created_at, seq, actor, reason, action, prev_hash, hash)
    VALUES ('{user}', '{}', now(), """
_HASHES = "sha256('x'), sha256('y'))"
_ZERO_FIRST = "decode(repeat('00', 32), 'hex'), sha256('y'))"


@pytest.mark.parametrize(
    ("constraint", "statement"),
    [
        ("profiles_held_within_points", "UPDATE profiles SET points = -1, points_held = -1"),
        ("profiles_held_within_points", "UPDATE profiles SET points_held = points + 1"),
        ("profiles_held_within_points", "UPDATE profiles SET points_held = -1"),
        ("profiles_debt_not_negative", "UPDATE profiles SET points_debt = -1, points_held = points"),
        ("profiles_debt_only_when_nothing_is_free", "UPDATE profiles SET points_debt = 1"),
        ("profiles_ledger_seq_not_negative", "UPDATE profiles SET ledger_seq = -1"),
        ("profiles_ledger_head_is_sha256", "UPDATE profiles SET ledger_head = 'x'"),
        ("profiles_email_with_its_hmac", "UPDATE profiles SET email = 'x', email_hmac = NULL"),
        ("points_transactions_type_is_known", f"{_ENTRY} 9, 1, 'gift', NULL, 'k', {_HASHES}"),
        ("points_transactions_amount_not_zero", f"{_ENTRY} 9, 0, 'reversal', NULL, 'k', {_HASHES}"),
        ("points_transactions_credits_are_positive", f"{_ENTRY} 9, -1, 'purchase', NULL, 'k', {_HASHES}"),
        (
            "points_transactions_credits_are_positive",
            f"{_ENTRY} 9, -1, 'refund', uuidv7(), 'k', {_HASHES}",
        ),
        ("points_transactions_spends_are_negative", f"{_ENTRY} 9, 1, 'spend', uuidv7(), 'k', {_HASHES}"),
        ("points_transactions_order_is_named", f"{_ENTRY} 9, -1, 'spend', NULL, 'k', {_HASHES}"),
        ("points_transactions_seq_is_positive", f"{_ENTRY} 0, 1, 'purchase', NULL, 'k', {_HASHES}"),
        ("points_transactions_hashes_are_sha256", f"{_ENTRY} 9, 1, 'purchase', NULL, 'k', sha256('x'), 'x')"),
        ("points_transactions_hashes_are_sha256", f"{_ENTRY} 9, 1, 'purchase', NULL, 'k', 'x', sha256('x'))"),
        ("points_transactions_first_has_no_previous", f"{_ENTRY} 9, 1, 'purchase', NULL, 'k', {_ZERO_FIRST}"),
        ("points_transactions_first_has_no_previous", f"{_ENTRY} 1, 1, 'purchase', NULL, 'k', {_HASHES}"),
        ("points_transactions_user_id_seq_key", f"{_ENTRY} 2, 1, 'purchase', NULL, 'k', {_HASHES}"),
        (
            "points_transactions_idempotency_key_key",
            f"{_ENTRY} 9, 1, 'purchase', NULL, 'spend:{{order}}', {_HASHES}",
        ),
        ("idx_points_transactions_one_spend", f"{_ENTRY} 9, -1, 'spend', '{{order}}', 'k', {_HASHES}"),
        ("holds_order_id_key", f"{_NEW_HOLD} '{{order}}', 1, 'held', now())"),
        ("holds_status_is_known", f"{_NEW_HOLD} uuidv7(), 1, 'open', now())"),
        ("holds_points_positive_or_tombstone", f"{_NEW_HOLD} uuidv7(), 0, 'held', now())"),
        ("holds_points_positive_or_tombstone", f"{_NEW_HOLD} uuidv7(), -1, 'released', now())"),
        ("holds_refunds_within_spend", "UPDATE holds SET refunded_points = points + 1"),
        ("holds_refunds_within_spend", "UPDATE holds SET refunded_points = -1"),
        ("holds_refunds_need_a_capture", "UPDATE holds SET refunded_points = 1 WHERE status = 'held'"),
        ("holds_asked_not_negative", "UPDATE holds SET asked = -1"),
        ("grants_version_is_positive", "UPDATE grants SET version = 0"),
        ("grants_net_not_negative", "UPDATE grants SET net_points = -1"),
        ("grants_source_is_named", "UPDATE grants SET source_id = ''"),
        ("audit_log_actor_and_reason_given", f"{_AUDIT} 1, '', 'x', 'y', {_HASHES}"),
        ("audit_log_actor_and_reason_given", f"{_AUDIT} 1, 'x', '', 'y', {_HASHES}"),
        ("audit_log_seq_positive", f"{_AUDIT} 0, 'x', 'y', 'z', {_HASHES}"),
        ("audit_log_hashes_are_sha256", f"{_AUDIT} 1, 'x', 'y', 'z', sha256('x'), 'x')"),
        ("audit_log_hashes_are_sha256", f"{_AUDIT} 1, 'x', 'y', 'z', 'x', sha256('x'))"),
        ("grants_pkey", "INSERT INTO grants (source_id, user_id, version, net_points) "
         "SELECT source_id, user_id, 9, 9 FROM grants"),
    ],
)  # fmt: skip
async def test_the_database_refuses_what_must_not_be(
    superuser: Connection, wallet: Wallet, constraint: str, statement: str
) -> None:
    user = await wallet.user(550)
    order = await wallet.spent(user, 50)
    await wallet.reserve(user, uuid4(), 50)
    if statement.startswith("UPDATE"):
        owner = "id" if "UPDATE profiles" in statement else "user_id"
        statement += f" {'AND' if 'WHERE' in statement else 'WHERE'} {owner} = '{user}'"
    with pytest.raises((CheckViolation, UniqueViolation)) as refused:
        superuser.execute(statement.replace("{user}", str(user)).replace("{order}", str(order)).encode())
    assert refused.value.diag.constraint_name == constraint


# --- migrations -------------------------------------------------------------------------------------


def test_the_migrations_lead_to_the_models(process: WalletProcess) -> None:
    engine = create_engine(process.servers.admin_url("wallet").replace("://", "+psycopg://"))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_constraints_and_indexes_are_those_of_the_models(process: WalletProcess) -> None:
    """Alembic compares neither checks nor conditions of indexes: build the models beside, and compare."""
    with psycopg.connect(process.servers.admin_url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS wallet_models")
        connection.execute("CREATE DATABASE wallet_models")
    url = process.servers.admin_url("wallet_models")
    engine = create_engine(url.replace("://", "+psycopg://"))
    metadata.create_all(engine)
    engine.dispose()
    assert _definitions(process.servers.admin_url("wallet")) == _definitions(url)


def _definitions(url: str) -> dict[str, str]:
    with psycopg.connect(url) as connection:
        constraints = connection.execute(
            "SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE connamespace = 'public'::regnamespace"
        ).fetchall()
        indexes = connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
        ).fetchall()
    found = dict((*constraints, *indexes))
    found.pop("alembic_version_pkc", None)
    found.pop("alembic_version.alembic_version_pkc", None)
    found.pop("alembic_version.alembic_version_version_num_not_null", None)
    return {name: re.sub(r"\s+", " ", definition) for name, definition in found.items()}


def test_the_seeds_index_is_kept(superuser: Connection) -> None:
    [(definition,)] = superuser.execute(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_points_transactions_user_created'"
    )
    assert definition.endswith("(user_id, created_at DESC)")


# --- tampering --------------------------------------------------------------------------------------


async def test_tampering_past_the_trigger_is_seen(superuser: Connection, wallet: Wallet) -> None:
    user = await wallet.user(550)
    await wallet.spent(user, 100)
    await wallet.spent(user, 50)
    await wallet.assert_adds_up(user)

    def first_break(tamper: str) -> int | None:
        with superuser.transaction(force_rollback=True):
            superuser.execute("ALTER TABLE points_transactions DISABLE TRIGGER USER")
            changed = superuser.execute(tamper.encode(), {"user": user})
            assert changed.rowcount == 1
            profile = superuser.execute(
                "SELECT id, points, points_held, points_debt, ledger_seq, ledger_head "
                "FROM profiles WHERE id = %s",
                (user,),
            ).fetchone()
            rows = superuser.execute(
                "SELECT * FROM points_transactions WHERE user_id = %s ORDER BY seq", (user,)
            )
            names = [column.name for column in rows.description or ()]
            entries = [entry_of(dict(zip(names, row, strict=True))) for row in rows]
            return broken_at(account_of(profile), entries)

    mine = "WHERE user_id = %(user)s AND seq ="
    assert first_break(f"UPDATE points_transactions SET description = 'y' {mine} 2") == 2
    assert first_break(f'UPDATE points_transactions SET metadata = \'{{"a": "b"}}\' {mine} 1') == 1
    assert first_break(f"UPDATE points_transactions SET created_at = created_at + '1 us' {mine} 3") == 3
    assert first_break(f"DELETE FROM points_transactions {mine} 2") == 2
    assert first_break(f"DELETE FROM points_transactions {mine} 3") == 3
    assert first_break("UPDATE profiles SET points = points + 1 WHERE id = %(user)s") == 4
