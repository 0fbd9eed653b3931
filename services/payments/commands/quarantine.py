"""An operator's decision about money that fits nothing: fulfil it after all, give back what is left of it, or
say that the customer got it elsewhere, or will not get it."""

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import audit_log
from services.chassis.ids import uuid7
from services.payments import errors, facts, queries
from services.payments.commands import refunds
from services.payments.commands.checkouts import change_state
from services.payments.commands.parking import due_of, payments_of, write_status
from services.payments.commands.payments import change_payment, tell, tell_sale
from services.payments.commands.refunds import Begun, Wanted
from services.payments.models import invoices, quarantine
from services.payments.rules import Checkout, Payment, Standing, Status, as_id, moves
from services.payments.sales import Due


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
    # 0 to n: an invoice may be paid in parts, or outside of Stripe.
    payments: list[Payment]

    @property
    def due(self) -> Due:
        return due_of(self.row, self.payments)


async def fulfil_parked(
    connection: AsyncConnection, decision: Decision, *, points: int | None = None, reference: str = ""
) -> None:
    """Gives what the checkout or the metadata says was bought, or the points that the operator states: of an
    invoice always, since what was billed is not what was agreed. Done before changes nothing. Raises
    QUARANTINE_NOT_FOUND, QUARANTINE_RESOLVED, CANNOT_FULFIL."""
    parked = await _lock(connection, decision.quarantine_id)
    if parked.row.status == "fulfilled":
        return
    _refuse_decided(parked)
    if parked.row.settled_outside_cents:
        raise errors.cannot_fulfil("a part of it was settled outside")
    if parked.row.invoice_id is not None:
        await _give_invoice(connection, parked, points)
    elif parked.payments:
        await _give(connection, parked, parked.payments[0], points)
    else:
        raise errors.cannot_fulfil("Stripe names no payment")
    details: dict[str, Any] = {"points": points} if points else {}
    details |= {"reference": reference} if reference else {}
    await _resolve(connection, decision, status="fulfilled", details=details, resolved_at=func.now())


def _refuse_decided(parked: _Parked) -> None:
    if parked.row.status != "parked":
        raise errors.quarantine_resolved(parked.row.status)


async def _give(connection: AsyncConnection, parked: _Parked, payment: Payment, points: int | None) -> None:
    checkout = _payable(parked)
    if checkout is not None and points is not None:
        raise errors.cannot_fulfil("its checkout says what was bought: state no points")
    given = payment.points if points is None else points
    if checkout is None and (given == 0 or payment.user_id is None):
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
    source = (str(checkout.id) if checkout else str(payment.id)) if given else None
    fulfilled = await change_payment(
        connection, payment, {"standing": Standing.FULFILLED, "grant_source": source, "points": given}
    )
    await tell(connection, fulfilled)


async def _give_invoice(connection: AsyncConnection, parked: _Parked, points: int | None) -> None:
    row = parked.row
    subscription = await queries.find_subscription(connection, row.checkout_id) if row.checkout_id else None
    owner = subscription.user_id if subscription else as_id(row.metadata.get("user_id"))
    if points is None or owner is None:
        raise errors.cannot_fulfil("state the points of an invoice" if owner else "nothing says whose it is")
    for place, payment in enumerate(parked.payments):
        first = {"points": points, "grant_source": row.invoice_id} if place == 0 else {"points": 0}
        await change_payment(connection, payment, {"standing": Standing.FULFILLED, "user_id": owner, **first})
    await connection.execute(
        insert(invoices).values(
            id=row.invoice_id,
            subscription_id=subscription.id if subscription else None,
            user_id=owner,
            payment_id=parked.payments[0].id if parked.payments else None,
            amount_paid_cents=sum(each.amount_cents for each in parked.payments),
            billed_cents=row.amount_cents,
            points=points,
            # Its payments count its versions; without any they begin here.
            version=0 if parked.payments else 1,
            currency=row.currency,
            created_at=row.created_at,
        )
    )
    sale = await queries.find_invoice_sale(connection, row.invoice_id)
    assert sale is not None, "it was just written"
    await tell_sale(connection, sale)


def _payable(parked: _Parked) -> Checkout | None:
    """The checkout that this payment can still pay."""
    checkout = parked.checkout
    if checkout is None or checkout.plan_id is not None or not moves(checkout.status, Status.PAID):
        return None
    return checkout if parked.row.session_id or checkout.session_id else None


async def refund_parked(connection: AsyncConnection, decision: Decision) -> list[Begun]:
    """Begins to give back all that is due and still at Stripe; nothing when it is on its way, or nothing is
    due. Raises QUARANTINE_NOT_FOUND, QUARANTINE_RESOLVED, PAYMENT_DISPUTED, NOTHING_AT_STRIPE."""
    parked = await _lock(connection, decision.quarantine_id)
    if parked.row.status == "fulfilled":
        raise errors.quarantine_resolved(parked.row.status)
    if parked.row.status != "parked":
        return []
    _refuse_contested(parked)
    wanted = parked.due.refunds()
    if not wanted:
        if parked.due.due_cents:
            if any(each.requested_cents for each in parked.payments):
                # Done before: what could be refunded was, and the rest is due in another way.
                return []
            raise errors.nothing_at_stripe(parked.due.due_cents)
        await _resolve(
            connection,
            decision,
            status="refunded",
            resolved_at=func.now(),
            returned_cents=parked.due.returned_cents,
        )
        return []
    begun = [await _begin(connection, decision, payment, amount) for payment, amount in wanted]
    await _resolve(connection, decision, status="refunding", refund_id=begun[0].refund.id)
    return begun


async def _begin(connection: AsyncConnection, decision: Decision, payment: Payment, amount: int) -> Begun:
    wanted = Wanted(refund_id=uuid7(), amount_cents=amount, reason=decision.reason)
    return await refunds.begin_refund(connection, payment_intent_id=payment.payment_intent_id, wanted=wanted)


async def settle_outside(
    connection: AsyncConnection, decision: Decision, *, amount_cents: int, reference: str
) -> None:
    """The customer got so much elsewhere, by a transfer say; the same reference counts once. What is left is
    decided on its own. Raises QUARANTINE_NOT_FOUND, QUARANTINE_RESOLVED, PAYMENT_DISPUTED,
    SETTLEMENT_EXCEEDS_DUE, SETTLEMENT_MISMATCH."""
    parked = await _lock(connection, decision.quarantine_id)
    booked = _settlements(parked.row)
    if reference in booked:
        if booked[reference] != amount_cents:
            raise errors.settlement_mismatch(amount=amount_cents, booked=booked[reference])
        return
    _refuse_decided(parked)
    _refuse_contested(parked)
    if amount_cents > parked.due.due_cents:
        raise errors.settlement_exceeds_due(amount=amount_cents, due=parked.due.due_cents)
    settled = parked.row.settled_outside_cents + amount_cents
    await _decide(
        connection,
        decision,
        replace(parked.due, settled_outside_cents=settled),
        action="settled_outside",
        details={"amount_cents": amount_cents, "reference": reference},
        settlement_reference=reference,
        settlements=booked | {reference: amount_cents},
    )


def _settlements(row: Row[Any]) -> dict[str, int]:
    """What was settled outside, by reference. One that only stands as the last was written by the release
    before: it has what the others have not."""
    booked: dict[str, int] = row.settlements
    last = row.settlement_reference
    if last is None or last in booked:
        return booked
    return booked | {last: row.settled_outside_cents - sum(booked.values())}


async def write_off(connection: AsyncConnection, decision: Decision) -> None:
    """The shop keeps what is still due. Done before changes nothing. Raises QUARANTINE_NOT_FOUND,
    QUARANTINE_RESOLVED, PAYMENT_DISPUTED."""
    parked = await _lock(connection, decision.quarantine_id)
    if parked.row.status == "written_off":
        return
    _refuse_decided(parked)
    _refuse_contested(parked)
    due = parked.due
    await _decide(
        connection,
        decision,
        replace(due, written_off_cents=due.written_off_cents + due.due_cents),
        action="written_off",
        details={"amount_cents": due.due_cents},
    )


def _refuse_contested(parked: _Parked) -> None:
    if parked.due.is_contested:
        # What is left shows when the bank has decided.
        raise errors.payment_disputed()


async def _decide(
    connection: AsyncConnection,
    decision: Decision,
    due: Due,
    *,
    action: str,
    details: dict[str, Any],
    **values: Any,
) -> None:
    """Writes amounts that an operator decided; they put the row where it belongs."""
    amounts = {"settled_outside_cents": due.settled_outside_cents, "written_off_cents": due.written_off_cents}
    if due.status != "parked":
        values |= {"resolved_by": decision.actor, "resolution_reason": decision.reason}
    await write_status(connection, decision.quarantine_id, due, **amounts, **values)
    await _audit(connection, decision, action, details)


async def _lock(connection: AsyncConnection, quarantine_id: UUID) -> _Parked:
    """Checkout, payments, quarantine: the order in which everyone locks."""
    query = select(quarantine).where(quarantine.c.id == quarantine_id)
    named = (await connection.execute(query)).one_or_none()
    if named is None:
        raise errors.quarantine_not_found()
    checkout = await queries.lock_checkout(connection, named.checkout_id) if named.checkout_id else None
    paid_by = await payments_of(connection, named)
    return _Parked((await connection.execute(query.with_for_update())).one(), checkout, paid_by)


async def _resolve(
    connection: AsyncConnection,
    decision: Decision,
    *,
    status: str,
    details: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    await connection.execute(
        update(quarantine)
        .where(quarantine.c.id == decision.quarantine_id)
        .values(status=status, resolved_by=decision.actor, resolution_reason=decision.reason, **values)
    )
    await _audit(connection, decision, status, details)


async def _audit(
    connection: AsyncConnection, decision: Decision, action: str, details: dict[str, Any] | None
) -> None:
    await audit_log.append(
        connection,
        actor=decision.actor,
        action=f"quarantine.{action}",
        subject=str(decision.quarantine_id),
        reason=decision.reason,
        details=details or {},
    )
