"""An operator's decision about money that fits nothing: fulfil it after all, or give it back."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.chassis.ids import uuid7
from services.payments import errors, facts, queries
from services.payments.commands import refunds
from services.payments.commands.checkouts import change_state
from services.payments.commands.payments import change_payment, tell
from services.payments.commands.refunds import Begun, Wanted
from services.payments.models import quarantine
from services.payments.rules import Checkout, Contest, Payment, Standing, Status, moves


@dataclass(frozen=True, slots=True)
class Decision:
    quarantine_id: UUID
    # The operator.
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Parked:
    row: Row[Any]
    checkout: Checkout | None
    payment: Payment | None


async def fulfil_parked(connection: AsyncConnection, decision: Decision) -> None:
    """Gives what the checkout or the metadata says was bought; done before changes nothing. Raises
    QUARANTINE_NOT_FOUND, QUARANTINE_RESOLVED, CANNOT_FULFIL."""
    parked = await _lock(connection, decision.quarantine_id)
    if parked.row.status == "fulfilled":
        return
    if parked.row.status != "parked":
        raise errors.quarantine_resolved(parked.row.status)
    if parked.payment is None:
        raise errors.cannot_fulfil("Stripe names no payment")
    await _give(connection, parked, parked.payment)
    await _resolve(connection, decision, status="fulfilled", resolved_at=func.now())


async def _give(connection: AsyncConnection, parked: _Parked, payment: Payment) -> None:
    checkout = _payable(parked)
    if checkout is None and (payment.points == 0 or payment.user_id is None):
        raise errors.cannot_fulfil("nothing says what was bought, or the order has its payment")
    if checkout is not None:
        changed = await change_state(
            connection,
            checkout,
            {
                "status": Status.PAID,
                "payment_intent_id": payment.payment_intent_id,
                "session_id": parked.row.session_id or checkout.session_id,
                "failure_reason": None,
            },
        )
        await facts.emit_checkout(connection, changed)
    source = (
        (str(checkout.id) if checkout else payment.invoice_id or str(payment.id)) if payment.points else None
    )
    fulfilled = await change_payment(
        connection, payment, {"standing": Standing.FULFILLED, "grant_source": source}
    )
    await tell(connection, fulfilled)


def _payable(parked: _Parked) -> Checkout | None:
    """The checkout that this payment can still pay."""
    checkout = parked.checkout
    if checkout is None or checkout.plan_id is not None or not moves(checkout.status, Status.PAID):
        return None
    return checkout if parked.row.session_id or checkout.session_id else None


async def refund_parked(connection: AsyncConnection, decision: Decision) -> Begun | None:
    """Begins to give all that is left back; None when it is on its way, or there is nothing to give. Raises
    QUARANTINE_NOT_FOUND, QUARANTINE_RESOLVED, PAYMENT_DISPUTED."""
    parked = await _lock(connection, decision.quarantine_id)
    if parked.row.status == "fulfilled":
        raise errors.quarantine_resolved(parked.row.status)
    if parked.row.status != "parked":
        return None
    payment = parked.payment
    if payment is not None and payment.dispute is Contest.OPEN:
        # What is left shows when the bank has decided.
        raise errors.payment_disputed()
    if payment is None or payment.refundable_cents == 0:
        await _resolve(connection, decision, status="refunded", resolved_at=func.now())
        return None
    wanted = Wanted(refund_id=uuid7(), amount_cents=payment.refundable_cents, reason=decision.reason)
    begun = await refunds.begin_refund(connection, payment_intent_id=payment.payment_intent_id, wanted=wanted)
    await _resolve(connection, decision, status="refunding", refund_id=begun.refund.id)
    return begun


async def _lock(connection: AsyncConnection, quarantine_id: UUID) -> _Parked:
    """Checkout, payment, quarantine: the order in which everyone locks."""
    query = select(quarantine).where(quarantine.c.id == quarantine_id)
    named = (await connection.execute(query)).one_or_none()
    if named is None:
        raise errors.quarantine_not_found()
    checkout = await queries.lock_checkout(connection, named.checkout_id) if named.checkout_id else None
    payment = None
    if named.payment_id is not None:
        payment = await queries.lock_payment(connection, named.payment_intent_id)
    return _Parked((await connection.execute(query.with_for_update())).one(), checkout, payment)


async def _resolve(connection: AsyncConnection, decision: Decision, *, status: str, **values: Any) -> None:
    await connection.execute(
        update(quarantine)
        .where(quarantine.c.id == decision.quarantine_id)
        .values(status=status, resolved_by=decision.actor, resolution_reason=decision.reason, **values)
    )
    await audit_log.append(
        connection,
        actor=decision.actor,
        action=f"quarantine.{status}",
        subject=str(decision.quarantine_id),
        reason=decision.reason,
    )
