"""Payments: one row for each PaymentIntent that was paid, fulfilled or parked, and how much is left of it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import logs
from services.payments import facts
from services.payments.errors import LeaseLost
from services.payments.findings import OLD_NEWS, Effect, Outcome, Settlement
from services.payments.models import payments, quarantine
from services.payments.queries import PAYMENT_COLUMNS, as_payment
from services.payments.rules import Checkout, Paid, Payment, Standing, as_id
from services.payments.stripe_objects import Malformed

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a payment was for."""

    user_id: UUID
    points: int
    grant_source: str | None
    version: int
    checkout_id: UUID | None = None
    order_id: UUID | None = None


async def fulfil(connection: AsyncConnection, paid: Paid, terms: Terms) -> Outcome:
    """Records a payment that gives what was bought, and tells wallet when that is points."""
    payment = await _insert(
        connection,
        paid,
        user_id=terms.user_id,
        checkout_id=terms.checkout_id,
        order_id=terms.order_id,
        points=terms.points,
        grant_source=terms.grant_source,
        version=terms.version,
        standing=Standing.FULFILLED,
    )
    if payment is None:
        return OLD_NEWS
    effects = [Effect("payment", payment.payment_intent_id, "fulfilled")]
    if payment.grant_source is not None:
        # An order hears of its payment with its checkout.
        effects += await tell(connection, payment)
    return Outcome(Settlement.APPLIED, tuple(effects))


async def park(connection: AsyncConnection, paid: Paid, *, reason: str, checkout: Checkout | None) -> Outcome:
    """Keeps money that fits nothing for an operator, once, with an alert."""
    is_whole = paid.payment_intent_id and paid.currency and (paid.amount_cents or 0) > 0
    payment = await _insert_parked(connection, paid, checkout) if is_whole else None
    if is_whole and payment is None:
        return OLD_NEWS
    parked = await _quarantine(
        connection,
        session_id=paid.session_id,
        payment_intent_id=paid.payment_intent_id,
        invoice_id=paid.invoice_id,
        payment_id=payment.id if payment else None,
        checkout_id=checkout.id if checkout else None,
        amount_cents=paid.amount_cents,
        currency=paid.currency,
        metadata=dict(paid.metadata),
        reason=reason,
    )
    if parked is None:
        return OLD_NEWS
    log.error("payment.quarantined", quarantine_id=str(parked), reason=reason)
    return Outcome(Settlement.QUARANTINED, (Effect("quarantine", str(parked), reason),))


async def _quarantine(connection: AsyncConnection, **values: Any) -> UUID | None:
    """None when the session stands there. One that named no payment the first time is told of it now, and
    waits for an operator again."""
    statement = insert(quarantine).values(**values)
    told = statement.excluded
    parked: UUID | None = await connection.scalar(
        statement.on_conflict_do_update(
            constraint="quarantine_session_id_key",
            set_={
                "payment_id": told.payment_id,
                "payment_intent_id": told.payment_intent_id,
                "amount_cents": told.amount_cents,
                "currency": told.currency,
                "reason": told.reason,
                "status": "parked",
                "resolved_at": None,
            },
            where=quarantine.c.payment_id.is_(None) & told.payment_id.is_not(None),
        ).returning(quarantine.c.id)
    )
    if parked is None and values["payment_id"] is not None:
        raise Malformed("a session has two payments")
    return parked


async def _insert_parked(
    connection: AsyncConnection, paid: Paid, checkout: Checkout | None
) -> Payment | None:
    named = paid.metadata
    points = named.get("points_amount", "0")
    return await _insert(
        connection,
        paid,
        user_id=checkout.user_id if checkout else as_id(named.get("user_id")),
        checkout_id=checkout.id if checkout else None,
        order_id=checkout.order_id if checkout else as_id(named.get("order_id")),
        points=checkout.points if checkout else int(points) if points.isdecimal() and len(points) < 10 else 0,
        standing=Standing.QUARANTINED,
    )


async def _insert(connection: AsyncConnection, paid: Paid, **values: Any) -> Payment | None:
    """None when the payment intent has its payment."""
    row = (
        await connection.execute(
            insert(payments)
            .values(
                payment_intent_id=paid.payment_intent_id,
                invoice_id=paid.invoice_id,
                amount_cents=paid.amount_cents,
                currency=(paid.currency or "").lower(),
                **values,
            )
            .on_conflict_do_nothing(constraint="payments_payment_intent_id_key")
            .returning(*PAYMENT_COLUMNS)
        )
    ).one_or_none()
    return as_payment(row) if row else None


async def change_payment(connection: AsyncConnection, payment: Payment, values: dict[str, Any]) -> Payment:
    """Writes what is left of a locked payment; the version rises."""
    row = (
        await connection.execute(
            update(payments)
            .where(payments.c.id == payment.id, payments.c.version == payment.version)
            .values(version=payment.version + 1, updated_at=func.now(), **values)
            .returning(*PAYMENT_COLUMNS)
        )
    ).one_or_none()
    if row is None:
        raise LeaseLost
    return as_payment(row)


async def tell(connection: AsyncConnection, payment: Payment) -> tuple[Effect, ...]:
    """Tells wallet or orders what a fulfilled payment is worth now; of a parked one nobody hears."""
    if payment.standing is not Standing.FULFILLED:
        return ()
    if payment.grant_source is not None:
        await facts.emit_grant(connection, payment)
        change = f"{payment.net_points} of {payment.points} points, version {payment.version}"
        return (Effect("grant", payment.grant_source, change),)
    await facts.emit_payment(connection, payment)
    return ()
