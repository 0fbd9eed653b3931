"""The quarantine: money that came and was not credited, one row for each sale, until it is decided.

A row is where its amounts put it (sales.Due): what is not due to the customer any more is settled, what comes
back after all is parked again. Nothing closes it but amounts, and an operator who fulfils it.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import logs
from services.payments import queries
from services.payments.commands.payments import insert_payment
from services.payments.findings import OLD_NEWS, Effect, Outcome, Settlement
from services.payments.models import quarantine
from services.payments.rules import Checkout, Paid, Payment, Standing, as_id
from services.payments.sales import Due
from services.payments.stripe_objects import Malformed

log = logs.get(__name__)


async def park(connection: AsyncConnection, paid: Paid, *, reason: str, checkout: Checkout | None) -> Outcome:
    """Keeps money that fits nothing for an operator, once, with an alert."""
    is_whole = paid.payment_intent_id and paid.currency and (paid.amount_cents or 0) > 0
    payment = await _insert_parked(connection, paid, checkout) if is_whole else None
    if is_whole and payment is None:
        return OLD_NEWS
    return await park_sale(
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


async def park_sale(connection: AsyncConnection, *, reason: str, **values: Any) -> Outcome:
    """One row for a sale, whatever has paid it."""
    parked = await _insert(connection, reason=reason, **values)
    if parked is None:
        return OLD_NEWS
    log.error("payment.quarantined", quarantine_id=str(parked), reason=reason)
    return Outcome(Settlement.QUARANTINED, (Effect("quarantine", str(parked), reason),))


async def _insert(connection: AsyncConnection, **values: Any) -> UUID | None:
    """None when the session stands there. One that named no payment the first time is told of it now, and
    waits for an operator again."""
    statement = insert(quarantine).values(**{"session_id": None} | values)
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
    return await insert_payment(
        connection,
        paid,
        user_id=checkout.user_id if checkout else as_id(named.get("user_id")),
        checkout_id=checkout.id if checkout else None,
        order_id=checkout.order_id if checkout else as_id(named.get("order_id")),
        points=checkout.points if checkout else int(points) if points.isdecimal() and len(points) < 10 else 0,
        standing=Standing.QUARANTINED,
    )


async def payments_of(connection: AsyncConnection, row: Row[Any]) -> list[Payment]:
    """What has paid a parked sale, with the rows locked; those that the shop can refund."""
    if row.invoice_id is not None:
        return await queries.lock_payments_of(connection, row.invoice_id)
    if row.payment_id is None:
        return []
    payment = await queries.lock_payment(connection, row.payment_intent_id)
    return [payment] if payment else []


def due_of(row: Row[Any], paid_by: list[Payment]) -> Due:
    return Due(row.amount_cents or 0, paid_by, row.settled_outside_cents, row.written_off_cents)


async def follow_amounts(connection: AsyncConnection, payment: Payment) -> None:
    """After money of a parked payment moved, by us, by the dashboard or by the bank."""
    of_sale: ColumnElement[bool] = quarantine.c.payment_id == payment.id
    if payment.invoice_id is not None:
        of_sale |= quarantine.c.invoice_id == payment.invoice_id
    query = select(quarantine).where(of_sale, quarantine.c.status != "fulfilled").with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is not None:
        due = due_of(row, await payments_of(connection, row))
        if due.status != row.status:
            await write_status(connection, row.id, due)


async def write_status(connection: AsyncConnection, quarantine_id: UUID, due: Due, **values: Any) -> None:
    """Where the amounts put a row; one that is parked again waits for another decision."""
    if due.status == "parked":
        undecided = dict.fromkeys(("refund_id", "resolved_at", "resolved_by", "resolution_reason"))
        values = undecided | values
    elif due.status == "refunding":
        values = {"resolved_at": None} | values
    else:
        values = {"resolved_at": func.now(), "returned_cents": due.returned_cents} | values
    await connection.execute(
        update(quarantine).where(quarantine.c.id == quarantine_id).values(status=due.status, **values)
    )
