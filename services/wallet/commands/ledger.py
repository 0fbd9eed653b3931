"""The one place that writes the ledger one entry at a time (captures are written as a batch)."""

from dataclasses import asdict
from uuid import UUID

from sqlalchemy import func, insert, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import tracing
from services.chassis.ids import uuid7
from services.wallet import queries, rules
from services.wallet.models import points_transactions, profiles
from services.wallet.rules import Account, Balance, Entry, Posting


async def open_account(connection: AsyncConnection, *, user_id: UUID) -> Account:
    """The profile under its row lock, created when the user was never seen."""
    account = await queries.lock_account(connection, user_id=user_id)
    if account is not None:
        return account
    await connection.execute(upsert(profiles).values(id=user_id).on_conflict_do_nothing())
    account = await queries.lock_account(connection, user_id=user_id)
    assert account is not None, "profiles are never deleted"
    return account


async def post(connection: AsyncConnection, account: Account, posting: Posting, *, balance: Balance) -> Entry:
    """Appends a posting to a locked account's chain and moves its balance to `balance`."""
    after, entry = rules.append(
        account, posting, balance=balance, id=uuid7(), now=await queries.database_now(connection)
    )
    await connection.execute(
        insert(points_transactions).values(asdict(entry) | {"trace_id": tracing.trace_id()})
    )
    await _save(connection, after)
    return entry


async def save_balance(connection: AsyncConnection, account: Account, balance: Balance) -> None:
    """Moves points between free, held and debt: the net stays, so that the ledger has nothing to say."""
    assert balance.net == account.balance.net, "a change of the net needs a posting"
    await _save(connection, Account(account.user_id, balance, account.ledger_seq, account.ledger_head))


async def _save(connection: AsyncConnection, account: Account) -> None:
    await connection.execute(
        update(profiles)
        .where(profiles.c.id == account.user_id)
        .values(
            points=account.balance.points,
            points_held=account.balance.held,
            points_debt=account.balance.debt,
            ledger_seq=account.ledger_seq,
            ledger_head=account.ledger_head,
            updated_at=func.now(),
        )
    )
