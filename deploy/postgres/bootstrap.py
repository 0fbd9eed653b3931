"""Databases and roles, the same for the embedded stack and for containers. Idempotent.

Each service has a database and three logins: `<svc>_owner` migrates and owns the tables, `<svc>_app` serves
customers under row-level security, `<svc>_worker` serves consumers and sagas. No login may connect to
another service's database. From postgres and template1 they are kept out by pg_hba.conf (roles.py). Each
login's sessions are bounded and pinned by the role's own settings, for those that come through a pooler.
"""

from collections.abc import Mapping

import psycopg
from psycopg import sql

from deploy.postgres.roles import LOGINS, LOGINS_GROUP, SERVICES, role
from services.chassis.connections import LIMITS, NETWORK

_ADVISORY = """
    SELECT oid::regprocedure::text FROM pg_proc
    WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^pg_(try_)?advisory_'"""


def bootstrap(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Creates what is missing and sets every password; `passwords` is by role name."""
    with psycopg.connect(admin_url, autocommit=True, **NETWORK) as connection:
        _create_group(connection)
        for service in SERVICES:
            for login in LOGINS:
                _create_role(connection, role(service, login), passwords[role(service, login)])
                _bound_sessions(connection, service, login)
            _create_database(connection, service)
    for service in SERVICES:
        with psycopg.connect(admin_url, dbname=service, autocommit=True, **NETWORK) as connection:
            _prepare_schema(connection, service)


def _create_group(connection: psycopg.Connection) -> None:
    if _has_role(connection, LOGINS_GROUP):
        return
    if _has_role(connection, role(SERVICES[0], LOGINS[0])):
        # Up to 0.1 the logins were kept out at the expense of everybody else: as it was before.
        connection.execute("GRANT CONNECT, TEMPORARY ON DATABASE postgres TO PUBLIC")
        connection.execute("GRANT CONNECT ON DATABASE template1 TO PUBLIC")
    _execute(connection, "CREATE ROLE {} NOLOGIN", LOGINS_GROUP)


def _has_role(connection: psycopg.Connection, name: str) -> bool:
    return connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is not None


def _create_role(connection: psycopg.Connection, name: str, password: str) -> None:
    verb = "ALTER" if _has_role(connection, name) else "CREATE"
    statement = sql.SQL(verb + " ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}")
    connection.execute(statement.format(sql.Identifier(name), sql.Literal(password)))
    _execute(connection, "GRANT {} TO {} WITH INHERIT FALSE, SET FALSE", LOGINS_GROUP, name)


def _bound_sessions(connection: psycopg.Connection, service: str, login: str) -> None:
    for setting, value in LIMITS[login].settings().items():
        statement = sql.SQL("ALTER ROLE {} SET {} = {}")
        connection.execute(
            statement.format(
                sql.Identifier(role(service, login)), sql.Identifier(setting), sql.Literal(value)
            )
        )


def _create_database(connection: psycopg.Connection, service: str) -> None:
    known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (service,)).fetchone()
    if not known:
        _execute(connection, "CREATE DATABASE {} OWNER {}", service, role(service, "owner"))
    _execute(connection, "REVOKE ALL ON DATABASE {} FROM PUBLIC", service)
    for login in LOGINS:
        _execute(connection, "GRANT CONNECT ON DATABASE {} TO {}", service, role(service, login))


def _prepare_schema(connection: psycopg.Connection, service: str) -> None:
    _execute(connection, "ALTER SCHEMA public OWNER TO {}", role(service, "owner"))
    for login in ("app", "worker"):
        _execute(connection, "GRANT USAGE ON SCHEMA public TO {}", role(service, login))
    # Locks without a table are anybody's: who serves customers must not hold up operators (audit_log.py).
    for (function,) in connection.execute(_ADVISORY).fetchall():
        connection.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC").format(sql.SQL(function)))
        for login in ("owner", "worker"):
            statement = sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}")
            name = sql.Identifier(role(service, login))
            connection.execute(statement.format(sql.SQL(function), name))


def _execute(connection: psycopg.Connection, statement: str, *names: str) -> None:
    connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))
