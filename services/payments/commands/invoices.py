"""Paid invoices of subscriptions: each is one sale with 0 to n payments, and a grant of its own.

What was billed as agreed, and paid through Stripe, gives its points. Everything else waits for an operator,
with what was billed: paid by credit or outside of Stripe, with tax, for another price, in the middle of a
period.
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import exists, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.ids import uuid7
from services.payments import queries, rules, sales
from services.payments.commands import parking, refunds, subscriptions
from services.payments.commands.payments import insert_payment, tell_sale
from services.payments.commands.refunds import Wanted
from services.payments.findings import NOT_OURS, OLD_NEWS, Effect, InvoiceFound, Outcome, Settlement
from services.payments.models import invoices, quarantine
from services.payments.rules import Paid, Payment, Standing, Subscription
from services.payments.snapshots import refused
from services.payments.stripe_objects import Invoice

# A listing that does not add up is behind; later it is what it is.
_STILL_BEHIND = timedelta(minutes=10)


async def settle_invoice(connection: AsyncConnection, found: InvoiceFound) -> Outcome:
    """A paid invoice of a subscription of ours gives its points, once."""
    invoice = found.invoice
    ours = await _subscription_of(connection, invoice)
    if ours is None and not rules.bears_our_metadata(invoice.subscription_metadata):
        return NOT_OURS
    if invoice.status != "paid" or sales.gives_nothing(invoice):
        return OLD_NEWS
    if not sales.shows_all_parts(invoice, found.parts) and _is_fresh(found):
        raise refused("invoice_payments", f"those of {invoice.id} do not add up")
    known = await queries.lock_payments_of(connection, invoice.id)
    if await _is_known(connection, invoice.id, known):
        return await _add_parts(connection, found, known)
    if ours is None:
        return await _park(connection, found, None, reason="unknown_checkout")
    is_first = invoice.billing_reason == "subscription_create"
    if await subscriptions.find_second_to(connection, ours, is_first=is_first):
        return await _give_back(connection, found, ours)
    reason = sales.invoice_mismatch(
        invoice, found.parts, price_cents=ours.price_cents, currency=ours.currency
    )
    if reason is not None:
        return await _park(connection, found, ours, reason=reason)
    return await _grant(connection, ours, found)


def _is_fresh(found: InvoiceFound) -> bool:
    paid_at = found.invoice.paid_at
    return paid_at is None or found.observed_at - paid_at < _STILL_BEHIND


async def _subscription_of(connection: AsyncConnection, invoice: Invoice) -> Subscription | None:
    if invoice.subscription_id is None:
        return None
    return await queries.lock_subscription(connection, invoice.subscription_id)


async def _is_known(connection: AsyncConnection, invoice_id: str, known: list[Payment]) -> bool:
    stands = exists().where(invoices.c.id == invoice_id) | exists().where(
        quarantine.c.invoice_id == invoice_id
    )
    return bool(known) or bool(await connection.scalar(select(stands)))


async def _add_parts(connection: AsyncConnection, found: InvoiceFound, known: list[Payment]) -> Outcome:
    """Payments that were not listed before join their sale, as it stands."""
    sale = await queries.find_invoice_sale(connection, found.invoice.id)
    standing = Standing.FULFILLED if sale else Standing.QUARANTINED
    if sale is None and any(each.standing is Standing.FULFILLED for each in known):
        # Fulfilled by an operator of the release before, which knows one payment only.
        return OLD_NEWS
    owner = sale.user_id if sale else next((each.user_id for each in known), None)
    added = await _insert_payments(connection, found, user_id=owner, standing=standing)
    if not added:
        return OLD_NEWS
    effects = [Effect("payment", each.payment_intent_id, each.standing) for each in added]
    sale = await queries.find_invoice_sale(connection, found.invoice.id)
    if sale is not None:
        effects += await tell_sale(connection, sale)
    else:
        await parking.follow_amounts(connection, added[0])
    return Outcome(Settlement.APPLIED, tuple(effects))


async def _insert_payments(
    connection: AsyncConnection, found: InvoiceFound, *, first: dict[str, Any] | None = None, **values: Any
) -> list[Payment]:
    """Those that are new; `first` is what only the first of them bears."""
    added: list[Payment] = []
    more = first or {}
    # Stripe lists the newest first.
    for part in reversed(found.parts):
        if part.payment_intent_id is None or part.amount_cents == 0:
            continue
        paid = Paid(part.payment_intent_id, part.amount_cents, part.currency, {}, invoice_id=found.invoice.id)
        payment = await insert_payment(connection, paid, **values, **more)
        if payment is not None:
            added.append(payment)
            more = {}
    return added


async def _grant(connection: AsyncConnection, ours: Subscription, found: InvoiceFound) -> Outcome:
    invoice = found.invoice
    added = await _insert_payments(
        connection,
        found,
        # The release before knows one payment of an invoice, with all of its points.
        first={"points": ours.points, "grant_source": invoice.id},
        user_id=ours.user_id,
        standing=Standing.FULFILLED,
    )
    if not added:
        # Its payments stand for something else: only an operator lets them out.
        return OLD_NEWS
    await connection.execute(
        insert(invoices).values(
            id=invoice.id,
            subscription_id=ours.id,
            user_id=ours.user_id,
            payment_id=added[0].id,
            billing_reason=invoice.billing_reason,
            amount_paid_cents=invoice.amount_paid,
            billed_cents=sales.billed_cents(invoice),
            points=ours.points,
            currency=invoice.currency,
            created_at=invoice.created,
        )
    )
    sale = await queries.find_invoice_sale(connection, invoice.id)
    assert sale is not None, "it was just written"
    intents = ", ".join(each.payment_intent_id for each in added)
    return Outcome(
        Settlement.APPLIED,
        (
            *(Effect("payment", each.payment_intent_id, "fulfilled") for each in added),
            *await tell_sale(connection, sale),
            Effect("invoice", invoice.id, f"paid by {intents}"),
        ),
    )


async def _give_back(connection: AsyncConnection, found: InvoiceFound, ours: Subscription) -> Outcome:
    """The invoice of a second subscription of one plan gives nothing, and is refunded: nobody wants a plan
    twice. The operator sees it in the quarantine."""
    outcome = await _park(connection, found, ours, reason="second_subscription")
    reason = "a second subscription of one plan"
    begun = []
    for payment in await queries.lock_payments_of(connection, found.invoice.id):
        if payment.refundable_cents:
            wanted = Wanted(refund_id=uuid7(), amount_cents=payment.refundable_cents, reason=reason)
            begun.append(
                await refunds.begin_refund(
                    connection, payment_intent_id=payment.payment_intent_id, wanted=wanted
                )
            )
    for each in begun:
        # For the completer, at once.
        await refunds.release_refund(connection, each.refund, delay_seconds=0)
    if begun:
        await connection.execute(
            update(quarantine)
            .where(quarantine.c.invoice_id == found.invoice.id)
            .values(
                status="refunding",
                refund_id=begun[0].refund.id,
                resolved_by="shop",
                resolution_reason=reason,
            )
        )
    return outcome


async def _park(
    connection: AsyncConnection, found: InvoiceFound, ours: Subscription | None, *, reason: str
) -> Outcome:
    """Keeps what was billed for an operator, with every payment of it that the shop can refund."""
    invoice = found.invoice
    named = rules.as_id(invoice.subscription_metadata.get("user_id"))
    added = await _insert_payments(
        connection, found, user_id=ours.user_id if ours else named, standing=Standing.QUARANTINED
    )
    return await parking.park_sale(
        connection,
        invoice_id=invoice.id,
        payment_intent_id=added[0].payment_intent_id if added else None,
        payment_id=added[0].id if added else None,
        # The subscription bears the id of the checkout that began it.
        checkout_id=ours.id if ours else None,
        amount_cents=sales.billed_cents(invoice),
        currency=invoice.currency,
        metadata=dict(invoice.subscription_metadata),
        reason=reason,
    )
