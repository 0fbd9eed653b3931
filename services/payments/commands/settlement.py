"""One path for everything that Stripe says, however we heard it: an answer, a webhook, a listing, a poll.

The row's lock makes one effect of any number of messengers. Paid money that does not match is parked, never
lost.
"""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import logs
from services.payments import facts, findings, queries, rules
from services.payments.commands import invoices, money_back, subscriptions
from services.payments.commands.checkouts import change_state
from services.payments.commands.parking import park
from services.payments.commands.payments import Terms, fulfil, tell_sale
from services.payments.findings import (
    NOT_OURS,
    OLD_NEWS,
    OTHER_SESSION,
    DeclineFound,
    DisputesFound,
    Effect,
    Finding,
    IntentFound,
    InvoiceFound,
    Outcome,
    RefundsFound,
    SessionFound,
    Settlement,
    SubscriptionFound,
)
from services.payments.rules import Checkout, Paid, Status
from services.payments.sales import free_sale
from services.payments.stripe_objects import Intent, Session

log = logs.get(__name__)


async def settle(connection: AsyncConnection, finding: Finding) -> Outcome:
    """Brings our state to where the finding says Stripe is, in the caller's transaction."""
    match finding:
        case SessionFound(session, payment_failed):
            return await settle_session(connection, session, payment_failed=payment_failed)
        case IntentFound(intent):
            return await settle_intent(connection, intent)
        case DeclineFound(intent):
            return OLD_NEWS if rules.bears_our_metadata(intent.metadata) else NOT_OURS
        case InvoiceFound():
            return await invoices.settle_invoice(connection, finding)
        case SubscriptionFound():
            return await subscriptions.settle_subscription(connection, finding)
        case RefundsFound():
            return await money_back.settle_refunds(connection, finding)
        case DisputesFound():
            return await money_back.settle_disputes(connection, finding)


async def settle_session(
    connection: AsyncConnection, session: Session, *, payment_failed: bool = False
) -> Outcome:
    status = rules.news_of(session, payment_failed=payment_failed)
    checkout_id = rules.checkout_of(session)
    checkout = await queries.lock_checkout(connection, checkout_id) if checkout_id else None
    if checkout is None:
        return await _settle_stray(connection, rules.paid_by(session), status)
    if checkout.plan_id is not None:
        # The money comes by invoices, which are compared on their own.
        if checkout.session_id not in (None, session.id):
            return OTHER_SESSION
    elif status is Status.PAID:
        return await _settle_paid(connection, checkout, rules.paid_by(session))
    elif checkout.session_id not in (None, session.id):
        return OTHER_SESSION
    if not rules.moves(checkout.status, status):
        return OLD_NEWS
    return await _move(
        connection,
        checkout,
        {
            "status": status,
            "session_id": session.id,
            "url": session.url or checkout.url,
            "failure_reason": "payment_failed" if status is Status.FAILED else None,
        },
    )


async def settle_intent(connection: AsyncConnection, intent: Intent) -> Outcome:
    """A payment intent of a checkout that succeeded; of an invoice, the invoice is the news."""
    if not rules.bears_our_metadata(intent.metadata):
        return NOT_OURS
    if intent.amount_received == 0:
        # No money came. There is nothing to park, and nothing by which a copy of it would be known.
        return OLD_NEWS
    paid = Paid(intent.id, intent.amount_received, intent.currency, intent.metadata)
    checkout_id = rules.as_id(intent.metadata.get("checkout_id"))
    checkout = await queries.lock_checkout(connection, checkout_id) if checkout_id else None
    if checkout is None:
        return await _settle_stray(connection, paid, Status.PAID)
    return await _settle_paid(connection, checkout, paid)


async def _settle_stray(connection: AsyncConnection, paid: Paid, status: Status) -> Outcome:
    if not rules.bears_our_metadata(paid.metadata):
        return NOT_OURS
    if status is not Status.PAID:
        return OLD_NEWS
    return await park(connection, paid, reason="unknown_checkout", checkout=None)


async def _settle_paid(connection: AsyncConnection, checkout: Checkout, paid: Paid) -> Outcome:
    reason = rules.mismatch(checkout, paid)
    if reason is not None:
        return await _park(connection, checkout, paid, reason)
    if not rules.moves(checkout.status, Status.PAID):
        return OLD_NEWS
    if paid.payment_intent_id is None:
        return await _give_free(connection, checkout, paid)
    known = await queries.lock_payment(connection, paid.payment_intent_id)
    if known is not None:
        # Parked before, for another reason: only an operator lets it out.
        return OLD_NEWS
    return await credit(connection, checkout, paid)


async def credit(connection: AsyncConnection, checkout: Checkout, paid: Paid) -> Outcome:
    """The checkout is paid, by this payment."""
    assert paid.payment_intent_id, "only a payment intent pays"
    moved = await _move(connection, checkout, _paid_values(checkout, paid))
    terms = Terms(
        user_id=checkout.user_id,
        points=checkout.points,
        grant_source=str(checkout.id) if checkout.points else None,
        # Above every version that the checkout has had, so that a grant's versions rise.
        version=checkout.version + 1,
        checkout_id=checkout.id,
        order_id=checkout.order_id,
    )
    return findings.together([moved, await fulfil(connection, paid, terms)])


async def _give_free(connection: AsyncConnection, checkout: Checkout, paid: Paid) -> Outcome:
    """Promotion codes took all of the price: a sale without a payment."""
    changed, moved = await _change(connection, checkout, _paid_values(checkout, paid))
    if not changed.points:
        return moved
    granted = Outcome(Settlement.APPLIED, await tell_sale(connection, free_sale(changed)))
    return findings.together([moved, granted])


def _paid_values(checkout: Checkout, paid: Paid) -> dict[str, Any]:
    return {
        "status": Status.PAID,
        "payment_intent_id": paid.payment_intent_id,
        "discount_cents": rules.discount_of(checkout, paid),
        "session_id": paid.session_id or checkout.session_id,
        "failure_reason": None,
    }


async def _park(connection: AsyncConnection, checkout: Checkout, paid: Paid, reason: str) -> Outcome:
    parked = await park(connection, paid, reason=reason, checkout=checkout)
    is_its_own = paid.session_id is not None and checkout.session_id in (None, paid.session_id)
    if not is_its_own or not rules.moves(checkout.status, Status.FAILED):
        return parked
    # Its own session is used up: it cannot be paid any more unless an operator says so.
    values = {"status": Status.FAILED, "session_id": paid.session_id, "failure_reason": reason}
    moved = await _move(connection, checkout, values)
    return findings.together([parked, moved])


async def _move(connection: AsyncConnection, checkout: Checkout, values: dict[str, Any]) -> Outcome:
    return (await _change(connection, checkout, values))[1]


async def _change(
    connection: AsyncConnection, checkout: Checkout, values: dict[str, Any]
) -> tuple[Checkout, Outcome]:
    changed = await change_state(connection, checkout, values)
    await facts.emit_checkout(connection, changed)
    log.info("checkout.changed", checkout_id=str(changed.id), status=changed.status, version=changed.version)
    effect = Effect("checkout", str(changed.id), f"{checkout.status} -> {changed.status}")
    return changed, Outcome(Settlement.APPLIED, (effect,))
