"""Seals again with the newest key what an older one sealed: `python -m services.<name> rekey [--check]`.

Rotation: (1) every process gets the new key first in DATA_ENCRYPTION_KEYS and the old one behind it; (2)
this; (3) every process gets the new key alone. Whoever changes a row meanwhile seals it with the new key
anyway. Every batch is a transaction of its own: a run may be broken off and repeated. With `--check` nothing
is written; exit 1 tells that a value needs an older key, or opens with none.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from cryptography.exceptions import InvalidTag
from psycopg import sql

from services.chassis import logs
from services.chassis.connections import WORKER, connect_now
from services.chassis.crypto import Keyring
from services.chassis.settings import RekeySettings, load
from services.chassis.usage import end_with_usage

log = logs.get(__name__)

_BATCH = 500
_CHECK = "--check"


@dataclass(frozen=True)
class SealedColumn:
    """`place` of a row's id is what its value was sealed for."""

    table: str
    column: str
    place: Callable[[Any], str]


@dataclass
class Counts:
    """What became of one column's values; `lost` are the ids of those that no key opens."""

    old: int = 0
    sealed_again: int = 0
    lost: list[str] = field(default_factory=list)


def run(service: str, columns: Sequence[SealedColumn], arguments: Sequence[str]) -> None:
    """The command; exits 1 when a value stays behind, 2 for arguments that it does not know."""
    if list(arguments) not in ([], [_CHECK]):
        end_with_usage(f"services.{service} rekey", _CHECK)
    settings = load(RekeySettings)
    logs.configure(service, settings.log_level)
    keyring = Keyring(settings.data_encryption_keys)
    stays_behind = False
    with connect_now(
        settings.database_worker_url,
        WORKER,
        name=f"{service}-rekey",
        pooling=settings.database_pooling,
        autocommit=True,
    ) as connection:
        for column in columns:
            counts = rekey(connection, keyring, column, is_check=_CHECK in arguments)
            log.info(
                "rekey.done",
                column=f"{column.table}.{column.column}",
                old=counts.old,
                sealed_again=counts.sealed_again,
                lost=counts.lost,
            )
            stays_behind |= counts.sealed_again < counts.old
    sys.exit(1 if stays_behind else 0)


def rekey(
    connection: psycopg.Connection, keyring: Keyring, column: SealedColumn, *, is_check: bool = False
) -> Counts:
    """Goes through one column in the order of ids; opens every value that the newest key did not seal."""
    counts = Counts()
    last = None
    while batch := _sealed_before(connection, keyring, column, last):
        with connection.transaction():
            for row_id, sealed in batch:
                _count(connection, keyring, column, row_id, sealed, counts, is_check=is_check)
        last = batch[-1][0]
    return counts


def _sealed_before(
    connection: psycopg.Connection, keyring: Keyring, column: SealedColumn, last: object
) -> list[tuple[Any, bytes]]:
    query = sql.SQL(
        "SELECT id, {value} FROM {table} WHERE substring({value} FOR {length}) <> %(head)s"
        " AND {later} ORDER BY id LIMIT {limit}"
    ).format(
        value=sql.Identifier(column.column),
        table=sql.Identifier(column.table),
        length=len(keyring.current_head),
        later=sql.SQL("true" if last is None else "id > %(last)s"),
        limit=_BATCH,
    )
    with connection.transaction():
        # It may read the whole table to find the few that are left.
        connection.execute("SET LOCAL statement_timeout = 0")
        found = connection.execute(query, {"head": keyring.current_head, "last": last}).fetchall()
    return [(row_id, bytes(sealed)) for row_id, sealed in found]


def _count(
    connection: psycopg.Connection,
    keyring: Keyring,
    column: SealedColumn,
    row_id: object,
    sealed: bytes,
    counts: Counts,
    *,
    is_check: bool,
) -> None:
    counts.old += 1
    place = column.place(row_id)
    try:
        plain = keyring.open(sealed, place=place)
    except (InvalidTag, KeyError, ValueError, IndexError):
        counts.lost.append(str(row_id))
        return
    if not is_check:
        # Only the value that was read: whoever changed it meanwhile has sealed it anew.
        update = sql.SQL("UPDATE {table} SET {value} = %s WHERE id = %s AND {value} = %s").format(
            value=sql.Identifier(column.column), table=sql.Identifier(column.table)
        )
        connection.execute(update, (keyring.seal(plain, place=place), row_id, sealed))
        counts.sealed_again += 1
