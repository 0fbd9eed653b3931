"""What comes back of a payment: its refunds and disputes as Stripe lists them, and the refunds of ours.

A listing is applied whole, under the payment's row lock, unless one that was asked for later has been.
"""

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import logs
from services.chassis.ids import uuid7
from services.payments import facts, queries, rules, stripe_objects
from services.payments.commands import parking
from services.payments.commands import payments as commands
from services.payments.findings import (
    NOT_OURS,
    OLD_NEWS,
    DisputesFound,
    Effect,
    Outcome,
    RefundsFound,
    Settlement,
)
from services.payments.models import disputes, payments, refunds
from services.payments.queries import REFUND_COLUMNS
from services.payments.rules import GIVEN_BACK, Payment, Refund, Share, Standing
from services.payments.snapshots import refuse_incomplete

log = logs.get(__name__)

_KNOWN_STATUSES = frozenset({"pending", "requires_action", "succeeded", "failed", "canceled"})


async def settle_refunds(connection: AsyncConnection, found: RefundsFound) -> Outcome:
    payment = await queries.lock_payment(connection, found.payment_intent_id)
    if payment is None:
        return NOT_OURS
    if payment.refunds_observed_at is not None and payment.refunds_observed_at > found.observed_at:
        return OLD_NEWS
    known = await _known_refunds(connection, payment)
    listed = {refund.id for refund in found.refunds}
    refuse_incomplete("refunds", listed=listed, known={each.stripe_refund_id for each in known.values()})
    effects: list[Effect] = []
    for refund in found.refunds:
        effects += await _keep_refund(connection, payment, refund, known)
    back = sum(refund.amount for refund in found.refunds if refund.status in GIVEN_BACK)
    values: dict[str, Any] = {"refunds_observed_at": found.observed_at, "refunded_cents": back}
    values["requested_cents"] = await _requested(connection, payment)
    return await _change(connection, payment, values, effects)


async def _known_refunds(connection: AsyncConnection, payment: Payment) -> dict[str, Refund]:
    """By Stripe's id, and those that Stripe has not answered yet by ours."""
    rows = await connection.execute(select(*REFUND_COLUMNS).where(refunds.c.payment_id == payment.id))
    listed = [Refund(**row._mapping) for row in rows]
    return {refund.stripe_refund_id or str(refund.id): refund for refund in listed}


async def _keep_refund(
    connection: AsyncConnection,
    payment: Payment,
    listed: stripe_objects.Refund,
    known: dict[str, Refund],
) -> list[Effect]:
    """Takes the refund out of `known`: each is listed once, whatever two at Stripe say of their origin."""
    if listed.status not in _KNOWN_STATUSES:
        raise stripe_objects.Malformed("a refund's status is new to us")
    refund = known.pop(listed.id, None) or known.pop(listed.metadata.get("refund_id", ""), None)
    if refund is None:
        await _insert_foreign(connection, payment, listed)
        return [Effect("refund", listed.id, f"made at Stripe: {listed.status}")]
    if refund.status == listed.status and refund.stripe_refund_id == listed.id:
        return []
    await change_refund(
        connection,
        refund,
        status=listed.status,
        stripe_refund_id=listed.id,
        failure_reason=listed.failure_reason,
    )
    return [Effect("refund", str(refund.id), f"{refund.status} -> {listed.status}")]


async def _insert_foreign(
    connection: AsyncConnection, payment: Payment, listed: stripe_objects.Refund
) -> None:
    await connection.execute(
        insert(refunds).values(
            id=uuid7(),
            payment_id=payment.id,
            payment_intent_id=payment.payment_intent_id,
            order_id=payment.order_id,
            amount_cents=listed.amount,
            currency=listed.currency,
            status=listed.status,
            is_ours=False,
            reason="",
            failure_reason=listed.failure_reason,
            stripe_refund_id=listed.id,
            created_at=listed.created,
        )
    )


async def change_refund(connection: AsyncConnection, refund: Refund, **values: Any) -> None:
    """Writes a new state of a refund, under its payment's lock, and tells orders when it asked for it."""
    row = (
        await connection.execute(
            update(refunds)
            .where(refunds.c.id == refund.id)
            .values(
                version=refunds.c.version + 1,
                lease_token=None,
                lease_until=func.now(),
                updated_at=func.now(),
                **values,
            )
            .returning(*REFUND_COLUMNS)
        )
    ).one()
    changed = Refund(**row._mapping)
    log.info("refund.changed", refund_id=str(changed.id), status=changed.status)
    if changed.is_ours and changed.order_id is not None:
        await facts.emit_refund(connection, changed)


async def _requested(connection: AsyncConnection, payment: Payment) -> int:
    """Σ of what we asked for and did not fail."""
    total = select(func.coalesce(func.sum(refunds.c.amount_cents), 0)).where(
        refunds.c.payment_id == payment.id,
        refunds.c.is_ours,
        refunds.c.status.not_in(("failed", "canceled")),
    )
    return int((await connection.execute(total)).scalar_one())


async def free_requested(connection: AsyncConnection, payment: Payment) -> None:
    """After a refund of ours failed, its amount may be asked for again."""
    freed = {"requested_cents": await _requested(connection, payment)}
    changed = await commands.change_payment(connection, payment, freed)
    if changed.standing is Standing.QUARANTINED:
        await parking.follow_amounts(connection, changed)


async def settle_disputes(connection: AsyncConnection, found: DisputesFound) -> Outcome:
    payment = await queries.lock_payment(connection, found.payment_intent_id)
    if payment is None:
        return NOT_OURS
    if payment.disputes_observed_at is not None and payment.disputes_observed_at > found.observed_at:
        return OLD_NEWS
    query = select(disputes.c.id).where(disputes.c.payment_id == payment.id)
    listed = {dispute.id for dispute in found.disputes}
    refuse_incomplete("disputes", listed=listed, known=set(await connection.scalars(query)))
    effects: list[Effect] = []
    shares: list[Share] = []
    for dispute in found.disputes:
        share = rules.share_of(
            dispute, amount_cents=payment.amount_cents, currency=payment.currency, settled=found.settled
        )
        shares.append(share)
        effects += await _keep_dispute(connection, payment, dispute, share)
    values: dict[str, Any] = {
        "disputes_observed_at": found.observed_at,
        "disputed_cents": sum(share.held_cents for share in shares),
        "lost_cents": sum(share.lost_cents for share in shares),
        "dispute": rules.contest_of(found.disputes),
    }
    return await _change(connection, payment, values, effects)


async def _keep_dispute(
    connection: AsyncConnection, payment: Payment, listed: stripe_objects.Dispute, share: Share
) -> list[Effect]:
    before = await connection.scalar(select(disputes.c.status).where(disputes.c.id == listed.id))
    state = {
        "status": listed.status,
        "amount_cents": listed.amount,
        "share_cents": share.share_cents,
        "lost_cents": share.lost_cents if listed.status == "lost" else None,
        "reason": listed.reason,
    }
    await connection.execute(
        insert(disputes)
        .values(
            id=listed.id,
            payment_id=payment.id,
            currency=listed.currency,
            created_at=listed.created,
            **state,
        )
        .on_conflict_do_update(index_elements=["id"], set_=state | {"updated_at": func.now()})
    )
    if before == listed.status:
        return []
    log.warning("dispute.changed", dispute_id=listed.id, status=listed.status)
    return [Effect("dispute", listed.id, f"{before or 'none'} -> {listed.status}")]


async def _change(
    connection: AsyncConnection, payment: Payment, values: dict[str, Any], effects: list[Effect]
) -> Outcome:
    """Emits only when something moved, so that copies of an event make no copies of a fact."""
    has_moved = any(
        getattr(payment, name) != value for name, value in values.items() if not name.endswith("observed_at")
    )
    if not has_moved:
        await _observe(connection, payment, values)
        return Outcome(Settlement.APPLIED, tuple(effects)) if effects else OLD_NEWS
    changed = await commands.change_payment(connection, payment, values)
    told = await commands.tell(connection, changed)
    if changed.standing is Standing.QUARANTINED:
        await parking.follow_amounts(connection, changed)
    return Outcome(Settlement.APPLIED, (*effects, *told))


async def _observe(connection: AsyncConnection, payment: Payment, values: dict[str, Any]) -> None:
    await connection.execute(update(payments).where(payments.c.id == payment.id).values(**values))
