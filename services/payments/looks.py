"""From an event to findings: what it says where its payload can be trusted, else what Stripe says now.

A paid session never becomes unpaid, so its event is enough. Refunds, disputes, invoices and subscriptions
change again: their events only say where to look. No transaction is open while Stripe is asked; a snapshot
is stamped with the database's clock before it is asked for (docs/payments.md).
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from services.chassis.db import Database
from services.payments import queries, rules, stripe_objects
from services.payments.errors import StripeRefused
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
from services.payments.stripe_client import CALL_SECONDS, Stripe
from services.payments.stripe_objects import Dispute, Fields, Movement

Findings = Sequence[Finding]


class Looker:
    """One method for each way in which an event is read."""

    def __init__(self, *, database: Database, stripe: Stripe) -> None:
        self._database = database
        self._stripe = stripe

    async def session_changed(self, fields: Fields) -> Findings:
        session = stripe_objects.parse_session(fields)
        found = SessionFound(session)
        if session.subscription_id is None or rules.checkout_of(session) is None:
            return [found]
        return [found, await self.subscription(session.subscription_id)]

    async def delayed_payment_failed(self, fields: Fields) -> Findings:
        return [SessionFound(stripe_objects.parse_session(fields), payment_failed=True)]

    async def payment_succeeded(self, fields: Fields) -> Findings:
        """Enough by itself once the checkout knows its session; else the session has overtaken our answer
        from Stripe, and is asked for."""
        intent = stripe_objects.parse_intent(fields)
        checkout_id = rules.as_id(intent.metadata.get("checkout_id"))
        if checkout_id is None:
            return [IntentFound(intent)]
        async with self._database.worker() as connection:
            checkout = await queries.find_checkout(connection, checkout_id)
        if checkout is None or checkout.session_id is not None:
            return [IntentFound(intent)]
        return await self._sessions_of(intent.id) or [IntentFound(intent)]

    async def payment_declined(self, fields: Fields) -> Findings:
        return [DeclineFound(stripe_objects.parse_intent(fields))]

    async def payment_canceled(self, fields: Fields) -> Findings:
        """A delayed payment that will not come: its session stays complete and unpaid. Of a session that
        nobody completed it is no news, whatever has become of that."""
        intent = stripe_objects.parse_intent(fields)
        if not rules.bears_our_metadata(intent.metadata):
            return []
        return [
            SessionFound(found.session, payment_failed=True) for found in await self._sessions_of(intent.id)
        ] or [DeclineFound(intent)]

    async def refunds_changed(self, fields: Fields) -> Findings:
        intent_id = stripe_objects.reference(fields, "payment_intent")
        if intent_id is None:
            return []
        return [*await self._origin_of(intent_id), await self.refunds(intent_id)]

    async def disputes_changed(self, fields: Fields) -> Findings:
        intent_id = stripe_objects.reference(fields, "payment_intent")
        if intent_id is None:
            return []
        return [*await self._origin_of(intent_id), await self.disputes(intent_id)]

    async def invoice_paid(self, fields: Fields) -> Findings:
        invoice = stripe_objects.parse_invoice(fields)
        if invoice.subscription_id is None:
            return []
        return await self.invoice(invoice.id)

    async def invoice_failed(self, fields: Fields) -> Findings:
        """No money came; what it means for the subscription, Stripe decides."""
        invoice = stripe_objects.parse_invoice(fields)
        return [await self.subscription(invoice.subscription_id)] if invoice.subscription_id else []

    async def subscription_changed(self, fields: Fields) -> Findings:
        """Only its id is read: the payload may be old."""
        return [await self.subscription(stripe_objects.parse_id(fields, "subscription"))]

    async def refunds(self, intent_id: str) -> RefundsFound:
        observed_at = await self._now()
        listed = self._stripe.list_refunds(intent_id, deadline=_deadline())
        return RefundsFound(intent_id, [refund async for refund in listed], observed_at)

    async def disputes(self, intent_id: str) -> DisputesFound:
        observed_at = await self._now()
        listed = self._stripe.list_disputes(intent_id, deadline=_deadline())
        disputes = [dispute async for dispute in listed]
        return DisputesFound(intent_id, disputes, observed_at, await self._settled(intent_id, disputes))

    async def _settled(self, intent_id: str, disputes: Sequence[Dispute]) -> Movement | None:
        """What the payment brought, where a dispute is in another currency than the payment: only in the
        currency that both are settled in can they be compared."""
        async with self._database.worker() as connection:
            currency = await queries.currency_of(connection, intent_id) or rules.SHOP_CURRENCY
        others = [dispute.charge_id for dispute in disputes if dispute.currency.lower() != currency]
        if not others or others[0] is None:
            return None
        try:
            return (await self._stripe.retrieve_charge(others[0], deadline=_deadline())).settled
        except StripeRefused:
            # Unknown counts as the whole.
            return None

    async def subscription(self, subscription_id: str) -> SubscriptionFound:
        observed_at = await self._now()
        theirs = await self._stripe.retrieve_subscription(subscription_id, deadline=_deadline())
        return SubscriptionFound(theirs, observed_at)

    async def invoice(self, invoice_id: str) -> Findings:
        """The invoice, after its subscription when that is new to us."""
        invoice = await self._stripe.retrieve_invoice(invoice_id, deadline=_deadline())
        if invoice.subscription_id is None:
            return []
        found: list[Finding] = []
        async with self._database.worker() as connection:
            is_known = await queries.knows_subscription(connection, invoice.subscription_id)
        if not is_known:
            found.append(await self.subscription(invoice.subscription_id))
        payment = await self._stripe.payment_of_invoice(invoice_id, deadline=_deadline())
        return [*found, InvoiceFound(invoice, payment)]

    async def _origin_of(self, intent_id: str) -> Findings:
        """What a payment was for, when money comes back of one that we have not heard of yet."""
        async with self._database.worker() as connection:
            if await queries.knows_payment(connection, intent_id):
                return []
        sessions = await self._sessions_of(intent_id)
        if sessions:
            return sessions
        invoice_id = await self._stripe.invoice_of_payment(intent_id, deadline=_deadline())
        return await self.invoice(invoice_id) if invoice_id else []

    async def _sessions_of(self, intent_id: str) -> Sequence[SessionFound]:
        listed = self._stripe.list_sessions_of(intent_id, deadline=_deadline())
        return [SessionFound(session) async for session in listed]

    async def _now(self) -> datetime:
        async with self._database.worker() as connection:
            return await queries.database_now(connection)


def _deadline() -> float:
    return asyncio.get_running_loop().time() + CALL_SECONDS
