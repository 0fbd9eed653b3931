"""What an operator decides about money that a customer is owed: settled outside of Stripe, or written off.
(The third way is another refund.) One transaction each, with its audit entry."""

from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.orders import errors
from services.orders.commands import standing
from services.orders.models import orders, owed_decisions
from services.orders.queries.orders import Order, find_order, lock_order


class Decision(StrEnum):
    SETTLED_OUTSIDE = "settled_outside"
    WRITTEN_OFF = "written_off"


@dataclass(frozen=True, slots=True)
class DebtDecision:
    """What becomes of so much of a debt, by whom, and why. `reference` finds what was settled."""

    id: UUID
    order_id: UUID
    decision: Decision
    amount_cents: int
    reference: str
    actor: str
    reason: str


async def decide_debt(connection: AsyncConnection, wanted: DebtDecision) -> Order:
    """The order afterwards; the same id decides once. Raises ORDER_NOT_FOUND, DECISION_MISMATCH,
    NOTHING_OWED {owed}."""
    order = await lock_order(connection, wanted.order_id)
    if order is None:
        raise errors.order_not_found(wanted.order_id)
    if await _is_known(connection, wanted):
        return order
    if not 0 < wanted.amount_cents <= order.owed_cents:
        raise errors.nothing_owed(requested=wanted.amount_cents, owed=order.owed_cents)
    await _write(connection, order, wanted)
    column = "settled_cents" if wanted.decision is Decision.SETTLED_OUTSIDE else "written_off_cents"
    amount = getattr(order, column) + wanted.amount_cents
    await connection.execute(update(orders).where(orders.c.id == order.id).values({column: amount}))
    now = replace(order, **{column: amount})
    await standing.settle_standing(connection, now, actor=wanted.actor)
    found = await find_order(connection, order.id)
    assert found is not None, "orders are never deleted"
    return found


async def _is_known(connection: AsyncConnection, wanted: DebtDecision) -> bool:
    query = select(owed_decisions).where(owed_decisions.c.id == wanted.id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return False
    known = (row.order_id, row.decision, row.amount_cents, row.reference)
    if known != (wanted.order_id, wanted.decision, wanted.amount_cents, wanted.reference):
        raise errors.decision_mismatch(wanted.id)
    return True


async def _write(connection: AsyncConnection, order: Order, wanted: DebtDecision) -> None:
    await connection.execute(
        insert(owed_decisions).values(
            id=wanted.id,
            order_id=order.id,
            user_id=order.user_id,
            decision=wanted.decision,
            amount_cents=wanted.amount_cents,
            reference=wanted.reference,
            actor=wanted.actor,
            reason=wanted.reason,
        )
    )
    await audit_log.append(
        connection,
        actor=wanted.actor,
        action=f"debt.{wanted.decision}",
        subject=str(order.id),
        reason=wanted.reason,
        details={"cents": wanted.amount_cents, "reference": wanted.reference},
    )
