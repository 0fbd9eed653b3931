"""Which account of Stripe the shop's objects are made by: known from the first start on, and changed by an
operator alone.

A trigger writes the current account on each checkout, payment, refund and subscription; rows of before there
were accounts bear none, and are the first one's.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.payments.models import checkouts, stripe_accounts
from services.payments.rules import Status

# Any number that nobody else locks (commands/events.py has the others).
_ACCOUNT_LOCK = 4_730
_COLUMNS = (
    stripe_accounts.c.id,
    stripe_accounts.c.account_id,
    stripe_accounts.c.livemode,
    stripe_accounts.c.key_hash,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """An account as Stripe names it. Test and live mode of one account share nothing but its id."""

    account_id: str
    livemode: bool

    def __str__(self) -> str:
        return f"{self.account_id} ({'live' if self.livemode else 'test'} mode)"


@dataclass(frozen=True, slots=True)
class Account:
    id: UUID
    account_id: str
    livemode: bool
    # Of the key that was last seen to be this account's.
    key_hash: bytes | None

    @property
    def identity(self) -> Identity:
        return Identity(self.account_id, self.livemode)


async def find_current(connection: AsyncConnection) -> Account | None:
    row = (await connection.execute(select(*_COLUMNS).where(stripe_accounts.c.is_current))).one_or_none()
    return Account(**row._mapping) if row else None


async def keep_first(connection: AsyncConnection, identity: Identity) -> None:
    """The first account is the shop's; whoever was first wins."""
    await connection.execute(select(func.pg_advisory_xact_lock(_ACCOUNT_LOCK)))
    if await find_current(connection) is None:
        await _adopt(connection, identity, actor="payments", reason="the first start")


async def keep_key(connection: AsyncConnection, account: Account, key_hash: bytes) -> None:
    """Remembers that a key is this account's, for a start while Stripe is away."""
    await connection.execute(
        update(stripe_accounts).where(stripe_accounts.c.id == account.id).values(key_hash=key_hash)
    )


async def adopt_account(
    connection: AsyncConnection, identity: Identity, *, actor: str, reason: str
) -> Account | None:
    """Makes this account the shop's from now on; returns the one that it follows, None when it is the shop's
    already. Objects of the one before stay its own: a 404 for them is no news of theirs but ends what waits
    for them (closing.py). Nobody is sent to its pages any more to begin a subscription."""
    await connection.execute(select(func.pg_advisory_xact_lock(_ACCOUNT_LOCK)))
    before = await find_current(connection)
    if before is not None and before.identity == identity:
        return None
    await connection.execute(
        update(stripe_accounts)
        .where(stripe_accounts.c.is_current)
        .values(is_current=False, left_at=func.now())
    )
    await _adopt(connection, identity, actor=actor, reason=reason)
    await connection.execute(
        update(checkouts)
        .where(checkouts.c.plan_page, checkouts.c.status.in_((Status.CREATING, Status.OPEN)))
        .values(plan_page=False)
    )
    return before


async def _adopt(connection: AsyncConnection, identity: Identity, *, actor: str, reason: str) -> None:
    adopted = {"is_current": True, "adopted_at": func.now(), "adopted_by": actor, "left_at": None}
    await connection.execute(
        insert(stripe_accounts)
        .values(account_id=identity.account_id, livemode=identity.livemode, **adopted)
        .on_conflict_do_update(constraint="stripe_accounts_account_key", set_=adopted)
    )
    await audit_log.append(
        connection,
        actor=actor,
        action="stripe_account.adopted",
        subject=identity.account_id,
        reason=reason,
        details={"livemode": identity.livemode},
    )


async def made_by(connection: AsyncConnection, account: UUID | None) -> Account | None:
    """The account of a row; of one that bears none, the first."""
    query = select(*_COLUMNS).order_by(stripe_accounts.c.id).limit(1)
    row = (
        await connection.execute(query.where(stripe_accounts.c.id == account) if account else query)
    ).one_or_none()
    return Account(**row._mapping) if row else None
