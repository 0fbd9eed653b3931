"""Points that an operator gives or takes, with a reason. The only way in besides grants and refunds."""

from dataclasses import dataclass
from uuid import UUID

import psycopg
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.wallet import queries, rules
from services.wallet.commands import ledger
from services.wallet.errors import AdjustmentMismatch
from services.wallet.queries import Profile
from services.wallet.rules import Account, Entry, Posting


@dataclass(frozen=True, slots=True)
class Adjustment:
    """`points` is signed; `reason` is shown in the customer's ledger."""

    id: UUID
    user_id: UUID
    points: int
    reason: str


async def adjust_points(
    connection: AsyncConnection, adjustment: Adjustment, *, actor: str
) -> tuple[Entry, Profile]:
    """Posts the adjustment with its audit entry; the same id gives the same transaction, and one entry.

    Points that come settle debt first; those that are taken and not free become debt, and held points stay
    held. Returns the transaction and the profile as it is now. Raises AdjustmentMismatch.
    """
    account = await ledger.open_account(connection, user_id=adjustment.user_id)
    entry = await queries.find_entry(connection, idempotency_key=_key(adjustment))
    if entry is None:
        entry = await _post(connection, account, adjustment, actor=actor)
        await _record(connection, adjustment, entry, actor=actor)
    elif (entry.user_id, entry.amount, entry.description) != (
        adjustment.user_id,
        adjustment.points,
        adjustment.reason,
    ):
        raise AdjustmentMismatch(adjustment_id=adjustment.id)
    return entry, await queries.find_profile(connection, user_id=adjustment.user_id)


def _key(adjustment: Adjustment) -> str:
    return f"adjustment:{adjustment.id}"


async def _post(
    connection: AsyncConnection, account: Account, adjustment: Adjustment, *, actor: str
) -> Entry:
    posting = Posting(
        amount=adjustment.points,
        type="adjustment",
        description=adjustment.reason,
        idempotency_key=_key(adjustment),
        metadata={"adjustment_id": str(adjustment.id), "actor": actor},
    )
    balance = rules.change(account.balance, adjustment.points)
    try:
        return await ledger.post(connection, account, posting, balance=balance)
    except IntegrityError as error:
        if not isinstance(error.orig, psycopg.errors.UniqueViolation):
            raise
        # The profile's lock makes twins of one user wait: this id went to somebody else just now.
        raise AdjustmentMismatch(adjustment_id=adjustment.id) from error


async def _record(connection: AsyncConnection, adjustment: Adjustment, entry: Entry, *, actor: str) -> None:
    await audit_log.append(
        connection,
        actor=actor,
        action="points.adjusted",
        subject=str(adjustment.user_id),
        reason=adjustment.reason,
        details={
            "adjustment_id": str(adjustment.id),
            "transaction_id": str(entry.id),
            "points": adjustment.points,
        },
    )
