"""Reads of wallet, and the locking reads that every change of a balance begins with.

Lock order, everywhere: profiles by id, then what belongs to them. Whoever holds a profile's row owns its
holds, grants and ledger; only the overdue question touches a hold without it, and waits for nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.wallet.models import grants, holds, points_transactions, profiles
from services.wallet.rules import Account, Balance, Entry, Hold

_ACCOUNT = select(
    profiles.c.id,
    profiles.c.points,
    profiles.c.points_held,
    profiles.c.points_debt,
    profiles.c.ledger_seq,
    profiles.c.ledger_head,
)
_HOLD = select(
    holds.c.id,
    holds.c.user_id,
    holds.c.order_id,
    holds.c.points,
    holds.c.refunded_points,
    holds.c.status,
    holds.c.due_at,
)


@dataclass(frozen=True, slots=True)
class Profile:
    """A customer as the API shows it; `email` is still sealed."""

    id: UUID
    balance: Balance
    email: bytes | None = None
    email_hmac: bytes | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a paid source is worth as far as wallet has heard."""

    user_id: UUID
    version: int
    net_points: int


async def find_profile(connection: AsyncConnection, *, user_id: UUID) -> Profile:
    """Zeros for a user never seen."""
    row = (
        await connection.execute(
            select(
                profiles.c.points,
                profiles.c.points_held,
                profiles.c.points_debt,
                profiles.c.email,
                profiles.c.email_hmac,
            ).where(profiles.c.id == user_id)
        )
    ).one_or_none()
    if row is None:
        return Profile(user_id, Balance())
    return Profile(user_id, Balance(row[0], row[1], row[2]), row[3], row[4])


async def lock_account(connection: AsyncConnection, *, user_id: UUID) -> Account | None:
    """The profile under its row lock; None when there is none."""
    query = _ACCOUNT.where(profiles.c.id == user_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else account_of(row)


def account_of(row: Any) -> Account:
    """An account from (id, points, points_held, points_debt, ledger_seq, ledger_head)."""
    user_id, points, held, debt, ledger_seq, ledger_head = row
    return Account(user_id, Balance(points, held, debt), ledger_seq, ledger_head)


async def find_hold(connection: AsyncConnection, *, order_id: UUID) -> Hold | None:
    row = (await connection.execute(_HOLD.where(holds.c.order_id == order_id))).one_or_none()
    return None if row is None else Hold(*row)


async def find_grant(connection: AsyncConnection, *, source_id: str) -> Grant | None:
    query = select(grants.c.user_id, grants.c.version, grants.c.net_points)
    row = (await connection.execute(query.where(grants.c.source_id == source_id))).one_or_none()
    return None if row is None else Grant(*row)


async def find_entry(connection: AsyncConnection, *, idempotency_key: str) -> Entry | None:
    """The transaction that was posted under a key."""
    query = select(points_transactions).where(points_transactions.c.idempotency_key == idempotency_key)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else entry_of(row._mapping)


async def list_entries(
    connection: AsyncConnection, *, user_id: UUID, before_seq: int | None, limit: int
) -> list[Entry]:
    """A page of the ledger, newest first."""
    query = select(points_transactions).where(points_transactions.c.user_id == user_id)
    if before_seq is not None:
        query = query.where(points_transactions.c.seq < before_seq)
    rows = await connection.execute(query.order_by(points_transactions.c.seq.desc()).limit(limit))
    return [entry_of(row._mapping) for row in rows]


def entry_of(columns: Mapping[Any, Any]) -> Entry:
    """An entry from a row's columns by name, with the stored hash in it."""
    return Entry(**{name: columns[name] for name in Entry.__dataclass_fields__})


async def database_now(connection: AsyncConnection) -> datetime:
    """The database's clock at this moment, not at the start of the transaction: ask under the lock."""
    return cast(datetime, await connection.scalar(select(func.clock_timestamp())))
