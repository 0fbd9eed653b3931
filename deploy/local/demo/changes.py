"""What changed in which database between two moments: every table, row by row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from services.chassis.connections import NETWORK

Rows = dict[tuple[Any, ...], dict[str, Any]]
# database.table → rows by primary key
Picture = dict[str, Rows]

_TABLES = """
    SELECT c.relname AS table, array_agg(a.attname ORDER BY array_position(i.indkey, a.attnum)) AS key
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
        JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
    WHERE c.relkind = 'r' AND c.relname <> 'alembic_version'
    GROUP BY c.oid ORDER BY c.relname"""


@dataclass(frozen=True)
class Change:
    """One row that came, changed or went. `columns` of a changed row are (before, after)."""

    table: str
    kind: str
    columns: Mapping[str, Any]


def picture(database_urls: Mapping[str, str]) -> Picture:
    """Every row of every table, now."""
    return {
        f"{database}.{table}": rows
        for database, url in database_urls.items()
        for table, rows in _tables(url).items()
    }


def changes(before: Picture, after: Picture) -> list[Change]:
    """What one has to do to `before` to get `after`."""
    found: list[Change] = []
    for table, rows in after.items():
        old = before.get(table, {})
        for key, row in rows.items():
            if key not in old:
                found.append(Change(table, "+", row))
            elif old[key] != row:
                moved = {
                    name: (old[key][name], value) for name, value in row.items() if old[key][name] != value
                }
                found.append(Change(table, "~", moved))
        found += [Change(table, "-", row) for key, row in old.items() if key not in rows]
    return found


def _tables(url: str) -> dict[str, Rows]:
    with psycopg.connect(url, row_factory=dict_row, **NETWORK) as connection:
        return {
            table["table"]: _rows(connection, table["table"], table["key"])
            for table in connection.execute(_TABLES).fetchall()
        }


def _rows(connection: psycopg.Connection[dict[str, Any]], table: str, key: list[str]) -> Rows:
    query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(table))
    return {tuple(row[column] for column in key): row for row in connection.execute(query)}
