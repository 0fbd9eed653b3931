"""Points of a paid source arrive and leave by net: the newest version says what the source is worth."""

from uuid import UUID

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import tracing
from services.wallet import queries, rules
from services.wallet.commands import ledger
from services.wallet.errors import GrantOfAnotherUser
from services.wallet.models import grants
from services.wallet.rules import Posting


async def apply_grant(
    connection: AsyncConnection,
    *,
    source_id: str,
    user_id: UUID,
    version: int,
    net_points: int,
    payment_intent_id: str,
    description: str,
) -> int:
    """Posts the difference to the version before, and returns it; 0 for an old version.

    The first posting of a source is its `purchase`, each later one a `reversal` of either sign. So the
    order and number of versions do not matter: what counts is the newest. What cannot be taken back from
    free points becomes debt. Raises GrantOfAnotherUser.
    """
    account = await ledger.open_account(connection, user_id=user_id)
    known = await queries.find_grant(connection, source_id=source_id)
    if known is not None and known.user_id != user_id:
        raise GrantOfAnotherUser(source_id=source_id)
    if known is not None and version <= known.version:
        return 0
    await _save_grant(connection, source_id, user_id, version, net_points)
    amount = net_points - (known.net_points if known else 0)
    if amount == 0:
        return 0
    purchase_key = f"purchase:{source_id}"
    is_first = known is None or await queries.find_entry(connection, idempotency_key=purchase_key) is None
    posting = Posting(
        amount=amount,
        type="purchase" if is_first else "reversal",
        description=description,
        idempotency_key=purchase_key if is_first else f"reversal:{source_id}:{version}",
        stripe_payment_intent_id=payment_intent_id or None,
        metadata={"source_id": source_id, "version": str(version)},
    )
    await ledger.post(connection, account, posting, balance=rules.change(account.balance, amount))
    return amount


async def _save_grant(
    connection: AsyncConnection, source_id: str, user_id: UUID, version: int, net_points: int
) -> None:
    newest = {"version": version, "net_points": net_points, "trace_id": tracing.trace_id()}
    await connection.execute(
        insert(grants)
        .values(source_id=source_id, user_id=user_id, **newest)
        .on_conflict_do_update(index_elements=["source_id"], set_={**newest, "updated_at": func.now()})
    )
