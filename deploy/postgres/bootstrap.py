"""Databases and roles, the same for the embedded stack and for containers. Idempotent.

Each service has a database and three logins: `<svc>_owner` migrates and owns the tables, `<svc>_app` serves
customers under row-level security, `<svc>_worker` serves consumers and sagas. No login may connect to
another service's database, nor to postgres or template1.
"""

from collections.abc import Mapping

import psycopg
from psycopg import sql

from deploy.postgres.roles import LOGINS, SERVICES, role


def bootstrap(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Creates what is missing and sets every password; `passwords` is by role name."""
    with psycopg.connect(admin_url, autocommit=True) as connection:
        for service in SERVICES:
            for login in LOGINS:
                _create_role(connection, role(service, login), passwords[role(service, login)])
            _create_database(connection, service)
        for database in ("postgres", "template1"):
            _execute(connection, "REVOKE ALL ON DATABASE {} FROM PUBLIC", database)
    for service in SERVICES:
        with psycopg.connect(admin_url, dbname=service, autocommit=True) as connection:
            _prepare_schema(connection, service)


def _create_role(connection: psycopg.Connection, name: str, password: str) -> None:
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
    verb = "ALTER" if known else "CREATE"
    statement = sql.SQL(verb + " ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {}")
    connection.execute(statement.format(sql.Identifier(name), sql.Literal(password)))


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


def _execute(connection: psycopg.Connection, statement: str, *names: str) -> None:
    connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))
