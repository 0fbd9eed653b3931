"""From an event to findings: what it says where its payload can be trusted, else what Stripe says now.

A payload is rendered in the API version that its endpoint or the account had when it was written, and never
changes. One of the version that we pin, of the shape that we know, decides by itself. Of any other only the
event's type and the object's kind and id are believed, and the object is asked for in the pinned version: a
field may mean something else, or stand elsewhere. Such questions share an allowance, so that a burst of them
takes neither connections nor Stripe's rate limit from whoever opens a checkout.

A paid session never becomes unpaid, so its event is enough. Refunds, disputes, invoices and subscriptions
change again: their events only say where to look. No transaction is open while Stripe is asked; a snapshot
is stamped with the database's clock before it is asked for (docs/payments.md).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from services.chassis import logs
from services.chassis.db import Database
from services.chassis.rates import Rate
from services.payments import queries, rules, sales, stripe_objects
from services.payments.allowance import Allowance
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
from services.payments.stripe_objects import (
    Dispute,
    Fields,
    Intent,
    Invoice,
    Malformed,
    Movement,
    Session,
)

log = logs.get(__name__)

# Beside what is asked anyway. Stripe takes 25 reads a second in test mode, 100 in live mode.
_AT_ONCE = 2
_RATE = Rate(10, 5)

Findings = Sequence[Finding]
_Read = TypeVar("_Read")
_Told = TypeVar("_Told", covariant=True)


@dataclass(frozen=True, slots=True)
class EventObject:
    """What an event is about, as its payload shows it; `is_pinned`: in the API version that we read."""

    fields: Fields
    is_pinned: bool


class Looker:
    """One method for each way in which an event is read."""

    def __init__(self, *, database: Database, stripe: Stripe, shop_id: str) -> None:
        self._database = database
        self._stripe = stripe
        self._shop_id = shop_id
        self._allowance = Allowance(_AT_ONCE, _RATE)

    async def session_changed(self, about: EventObject) -> Findings:
        session = await self._session(about)
        found = SessionFound(session)
        if session.subscription_id is None or rules.checkout_of(session) is None:
            return [found]
        return [found, await self.subscription(session.subscription_id)]

    async def delayed_payment_failed(self, about: EventObject) -> Findings:
        return [SessionFound(await self._session(about), payment_failed=True)]

    async def payment_succeeded(self, about: EventObject) -> Findings:
        """Enough by itself once the checkout knows its session; else the session has overtaken our answer
        from Stripe, and is asked for."""
        intent = await self._intent(about)
        checkout_id = rules.as_id(intent.metadata.get("checkout_id"))
        if checkout_id is None:
            return [IntentFound(intent)]
        async with self._database.worker() as connection:
            checkout = await queries.find_checkout(connection, checkout_id)
        if checkout is None:
            return [IntentFound(intent)]
        # Of a discount only the session tells.
        may_be_discounted = checkout.promotion_codes and intent.amount_received != checkout.amount_cents
        if checkout.session_id is not None and not may_be_discounted:
            return [IntentFound(intent)]
        return await self._sessions_of(intent.id) or [IntentFound(intent)]

    async def payment_declined(self, about: EventObject) -> Findings:
        return [DeclineFound(await self._intent(about))]

    async def payment_canceled(self, about: EventObject) -> Findings:
        """A delayed payment that will not come: its session stays complete and unpaid. Of a session that
        nobody completed it is no news, whatever has become of that."""
        intent = await self._intent(about)
        if not rules.bears_our_metadata(intent.metadata):
            return []
        return [
            SessionFound(found.session, payment_failed=True) for found in await self._sessions_of(intent.id)
        ] or [DeclineFound(intent)]

    async def charge_refunded(self, about: EventObject) -> Findings:
        return await self._refunds_of(await self._payment_of(about, "charge"))

    async def refund_changed(self, about: EventObject) -> Findings:
        return await self._refunds_of(await self._payment_of(about, "refund"))

    async def _refunds_of(self, intent_id: str | None) -> Findings:
        if intent_id is None:
            return []
        return [*await self._origin_of(intent_id), await self.refunds(intent_id)]

    async def dispute_changed(self, about: EventObject) -> Findings:
        intent_id = await self._payment_of(about, "dispute")
        if intent_id is None:
            return []
        return [*await self._origin_of(intent_id), await self.disputes(intent_id)]

    async def invoice_paid(self, about: EventObject) -> Findings:
        invoice = await self._invoice(about)
        if invoice.subscription_id is None:
            return []
        return await self.invoice(invoice.id)

    async def invoice_failed(self, about: EventObject) -> Findings:
        """No money came; what it means for the subscription, Stripe decides."""
        invoice = await self._invoice(about)
        return [await self.subscription(invoice.subscription_id)] if invoice.subscription_id else []

    async def subscription_changed(self, about: EventObject) -> Findings:
        """Only its id is read: the payload may be old."""
        return [await self.subscription(stripe_objects.parse_id(about.fields, "subscription"))]

    async def ours_among(self, found: Findings) -> Findings:
        """Without what is clearly another shop's: it bears the mark of one, and no row here knows it. What
        belongs to a payment (refunds, disputes) is ours as its payment is."""
        return [finding for finding in found if not await self._is_another_shops(finding)]

    async def _is_another_shops(self, finding: Finding) -> bool:
        match finding:
            case SessionFound(session):
                metadata, checkout_id = session.metadata, rules.checkout_of(session)
            case IntentFound(intent) | DeclineFound(intent):
                metadata, checkout_id = intent.metadata, None
            case SubscriptionFound(subscription):
                metadata, checkout_id = subscription.metadata, None
            case InvoiceFound(invoice):
                metadata, checkout_id = invoice.subscription_metadata, None
            case _:
                return False
        if not rules.is_of_another_shop(metadata, self._shop_id):
            return False
        checkout_id = checkout_id or rules.as_id(metadata.get("checkout_id"))
        async with self._database.worker() as connection:
            is_known = checkout_id and await queries.find_checkout(connection, checkout_id)
        if not is_known:
            log.info("stripe_event.of_another_shop", shop=metadata[rules.SHOP_MARK][:64])
        return not is_known

    async def _session(self, about: EventObject) -> Session:
        ask = self._stripe.retrieve_session
        return await self._read(about, "checkout.session", stripe_objects.parse_session, ask)

    async def _intent(self, about: EventObject) -> Intent:
        ask = self._stripe.retrieve_intent
        return await self._read(about, "payment_intent", stripe_objects.parse_intent, ask)

    async def _invoice(self, about: EventObject) -> Invoice:
        ask = self._stripe.retrieve_invoice
        return await self._read(about, "invoice", stripe_objects.parse_invoice, ask)

    async def _payment_of(self, about: EventObject, kind: str) -> str | None:
        ask = partial(self._stripe.retrieve_payment_of, kind)
        return await self._read(about, kind, stripe_objects.parse_payment_of, ask)

    async def _read(
        self, about: EventObject, kind: str, parse: Callable[[Fields], _Read], ask: "_Ask[_Read]"
    ) -> _Read:
        """What the payload says, or Stripe where that cannot be trusted. Malformed without kind and id."""
        object_id = stripe_objects.parse_id(about.fields, kind)
        if about.is_pinned:
            try:
                return parse(about.fields)
            except Malformed as error:
                log.warning("stripe_event.unknown_shape", kind=kind, object_id=object_id, why=str(error))
        async with self._allowance:
            return await ask(object_id, deadline=_deadline())

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

    async def payment(self, intent_id: str) -> Findings:
        """What a payment was for: the session that it was made in, or the payment itself."""
        intent = await self._stripe.retrieve_intent(intent_id, deadline=_deadline())
        return await self._sessions_of(intent_id) or [IntentFound(intent)]

    async def subscription_and_invoices(self, subscription_id: str) -> Findings:
        """With those of its paid invoices that are not known: one that was paid late has no other news."""
        found: list[Finding] = [await self.subscription(subscription_id)]
        listed = self._stripe.list_invoices_of(subscription_id, deadline=_deadline())
        paid = [each.id async for each in listed if not sales.gives_nothing(each)]
        async with self._database.worker() as connection:
            unknown = await queries.unknown_invoices(connection, paid)
        for invoice_id in unknown:
            found += await self.invoice(invoice_id)
        return found

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
        observed_at = await self._now()
        parts = self._stripe.parts_of_invoice(invoice_id, deadline=_deadline())
        return [*found, InvoiceFound(invoice, [part async for part in parts], observed_at)]

    async def _origin_of(self, intent_id: str) -> Findings:
        """What a payment was for, when money comes back of one that we have not heard of yet."""
        async with self._database.worker() as connection:
            if await queries.knows_payment(connection, intent_id):
                return []
        sessions = await self._sessions_of(intent_id)
        if sessions:
            return sessions
        invoice_id = await self._stripe.invoice_of_payment(intent_id, deadline=_deadline())
        if invoice_id:
            return await self.invoice(invoice_id)
        # It may bear our metadata all the same: then it is parked, and what comes back of it counts.
        return [IntentFound(await self._stripe.retrieve_intent(intent_id, deadline=_deadline()))]

    async def _sessions_of(self, intent_id: str) -> Sequence[SessionFound]:
        listed = self._stripe.list_sessions_of(intent_id, deadline=_deadline())
        return [SessionFound(session) async for session in listed]

    async def _now(self) -> datetime:
        async with self._database.worker() as connection:
            return await queries.database_now(connection)


class _Ask(Protocol[_Told]):
    """A call to Stripe for one object."""

    async def __call__(self, object_id: str, /, *, deadline: float) -> _Told: ...


def _deadline() -> float:
    return asyncio.get_running_loop().time() + CALL_SECONDS
