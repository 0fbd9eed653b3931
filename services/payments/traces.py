"""Whose trace the news from Stripe belong to: that of whoever asked for the checkout or the refund."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.payments import rules
from services.payments.findings import (
    DeclineFound,
    DisputesFound,
    Finding,
    IntentFound,
    InvoiceFound,
    RefundsFound,
    SessionFound,
    SubscriptionFound,
)
from services.payments.models import checkouts, payments, refunds, subscriptions


async def trace_of(connection: AsyncConnection, found: Sequence[Finding]) -> str | None:
    """The W3C traceparent that findings go on with; None when they are about nothing of ours, or too old."""
    for finding in found:
        traceparent = await _trace_of_one(connection, finding)
        if traceparent is not None:
            return traceparent
    return None


async def _trace_of_one(connection: AsyncConnection, finding: Finding) -> str | None:
    match finding:
        case SessionFound(session):
            return await _of_checkout(connection, rules.checkout_of(session))
        case IntentFound(intent) | DeclineFound(intent):
            return await _of_checkout(connection, rules.as_id(intent.metadata.get("checkout_id")))
        case RefundsFound(payment_intent_id=intent_id):
            return await _of_refund(connection, intent_id) or await _of_payment(connection, intent_id)
        case DisputesFound(payment_intent_id=intent_id):
            return await _of_payment(connection, intent_id)
        case SubscriptionFound(subscription):
            return await _of_subscription(connection, subscription.id)
        case InvoiceFound(invoice):
            return await _of_subscription(connection, invoice.subscription_id)


async def _of_checkout(connection: AsyncConnection, checkout_id: UUID | None) -> str | None:
    return await _of(connection, checkouts.c.id == checkout_id) if checkout_id else None


async def _of_payment(connection: AsyncConnection, intent_id: str) -> str | None:
    return await _of(connection, checkouts.c.payment_intent_id == intent_id)


async def _of_subscription(connection: AsyncConnection, stripe_subscription_id: str | None) -> str | None:
    begun_by = select(subscriptions.c.id).where(
        subscriptions.c.stripe_subscription_id == stripe_subscription_id
    )
    return await _of(connection, checkouts.c.id == begun_by.scalar_subquery())


async def _of(connection: AsyncConnection, condition: ColumnElement[bool]) -> str | None:
    return await connection.scalar(select(checkouts.c.traceparent).where(condition))


async def _of_refund(connection: AsyncConnection, intent_id: str) -> str | None:
    """The newest one: what Stripe tells about a payment's refunds is mostly about it."""
    return await connection.scalar(
        select(refunds.c.traceparent)
        .join(payments, payments.c.id == refunds.c.payment_id)
        .where(payments.c.payment_intent_id == intent_id, refunds.c.traceparent.is_not(None))
        .order_by(refunds.c.created_at.desc())
        .limit(1)
    )
