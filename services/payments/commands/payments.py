"""Payments: one row for each PaymentIntent that was paid, fulfilled or parked, and how much is left of it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import logs
from services.payments import facts, queries
from services.payments.errors import LeaseLost
from services.payments.findings import OLD_NEWS, Effect, Outcome, Settlement
from services.payments.models import payments
from services.payments.queries import PAYMENT_COLUMNS, as_payment
from services.payments.rules import Paid, Payment, Standing
from services.payments.sales import PointsSale

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
    payment = await insert_payment(
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


async def insert_payment(connection: AsyncConnection, paid: Paid, **values: Any) -> Payment | None:
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
    if payment.invoice_id is not None or payment.grant_source is not None:
        return await tell_sale(connection, await queries.sale_of(connection, payment))
    await facts.emit_payment(connection, payment)
    return ()


async def tell_sale(connection: AsyncConnection, sale: PointsSale) -> tuple[Effect, ...]:
    """Tells wallet what the points of a sale are worth now."""
    await facts.emit_grant(connection, sale)
    change = f"{sale.net_points} of {sale.points} points, version {sale.version}"
    return (Effect("grant", sale.source_id, change),)
