"""Refunds that we ask for, up to the moment when Stripe knows them: begin, claim, try anew, refuse.

Whoever changes a refund holds its payment's row lock: what is asked for together never exceeds what was paid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import tracing
from services.chassis.ids import uuid7
from services.payments import errors, queries
from services.payments.commands import money_back, payments
from services.payments.models import refunds
from services.payments.queries import REFUND_COLUMNS
from services.payments.rules import ATTEMPT_LIFETIME, LEASE, Payment, Refund


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks to be given back."""

    refund_id: UUID
    amount_cents: int
    reason: str


@dataclass(frozen=True, slots=True)
class Begun:
    refund: Refund
    # Written by this call, which holds the row's lease; otherwise found.
    is_new: bool


async def begin_refund(connection: AsyncConnection, *, payment_intent_id: str, wanted: Wanted) -> Begun:
    """Writes a refund, leased to the caller, before Stripe is called; the same id gives the same refund.
    Raises REFUND_MISMATCH, PAYMENT_DISPUTED, REFUND_EXCEEDS_PAYMENT."""
    payment = await queries.lock_payment(connection, payment_intent_id)
    if payment is None:
        raise errors.payment_not_found()
    known = await queries.find_refund(connection, wanted.refund_id)
    if known is not None:
        if (known.payment_id, known.amount_cents) != (payment.id, wanted.amount_cents):
            raise errors.refund_mismatch(wanted.refund_id)
        return Begun(known, is_new=False)
    _refuse(payment, wanted)
    requested = payment.requested_cents + wanted.amount_cents
    await payments.change_payment(connection, payment, {"requested_cents": requested})
    return Begun(await _insert(connection, payment, wanted), is_new=True)


def _refuse(payment: Payment, wanted: Wanted) -> None:
    beyond = wanted.amount_cents - payment.refundable_cents
    if 0 < beyond <= payment.open_cents:
        raise errors.payment_disputed()
    if beyond > 0:
        raise errors.refund_exceeds_payment(
            requested=wanted.amount_cents, refundable=payment.refundable_cents
        )


async def _insert(connection: AsyncConnection, payment: Payment, wanted: Wanted) -> Refund:
    row = (
        await connection.execute(
            insert(refunds)
            .values(
                id=wanted.refund_id,
                payment_id=payment.id,
                payment_intent_id=payment.payment_intent_id,
                order_id=payment.order_id,
                amount_cents=wanted.amount_cents,
                currency=payment.currency,
                status="creating",
                is_ours=True,
                reason=wanted.reason,
                attempt_until=func.now() + ATTEMPT_LIFETIME,
                lease_token=uuid7(),
                lease_until=func.now() + LEASE,
                traceparent=tracing.current(),
            )
            .returning(*REFUND_COLUMNS)
        )
    ).one()
    return Refund(**row._mapping)


async def claim_unfinished(connection: AsyncConnection, *, limit: int) -> Sequence[Refund]:
    """Leases refunds that nobody finished asking Stripe for."""
    due = (
        select(refunds.c.id)
        .where(refunds.c.status == "creating", refunds.c.lease_until <= func.now())
        .order_by(refunds.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    rows = await connection.execute(
        update(refunds)
        .where(refunds.c.id == due.c.id)
        .values(lease_token=uuid7(), lease_until=func.now() + LEASE, tries=refunds.c.tries + 1)
        .returning(*REFUND_COLUMNS)
    )
    return [Refund(**row._mapping) for row in rows]


async def release_refund(connection: AsyncConnection, refund: Refund, *, delay_seconds: float) -> None:
    """Gives a lease back; does nothing when the refund moved on or another worker holds it."""
    await connection.execute(
        update(refunds)
        .where(refunds.c.id == refund.id, refunds.c.lease_token == refund.lease_token)
        .values(
            lease_token=None,
            lease_until=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, literal(delay_seconds)),
        )
    )


async def begin_next_attempt(connection: AsyncConnection, refund: Refund) -> None:
    """Stripe lists nothing of ours under the attempt's key: the next one gets a new key, at once."""
    await connection.execute(
        update(refunds)
        .where(
            refunds.c.id == refund.id,
            refunds.c.lease_token == refund.lease_token,
            refunds.c.status == "creating",
        )
        .values(
            attempt=refund.attempt + 1,
            attempt_until=func.now() + ATTEMPT_LIFETIME,
            lease_token=None,
            lease_until=func.now(),
        )
    )


async def refuse_refund(connection: AsyncConnection, refund: Refund, *, code: str) -> None:
    """Stripe said no for good, and lists nothing of ours: the amount may be asked for again."""
    payment = await queries.lock_payment(connection, refund.payment_intent_id)
    current = await queries.find_refund(connection, refund.id)
    assert payment is not None, "payments are never deleted"
    assert current is not None, "refunds are never deleted"
    if current.status == "creating" and current.lease_token == refund.lease_token:
        await money_back.change_refund(connection, current, status="failed", failure_reason=code)
        await money_back.free_requested(connection, payment)
