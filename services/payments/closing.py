"""The end of a session or a subscription as Stripe confirms it: on demand, and of sessions that we heard
nothing of.

A session that is asked to expire may have been paid a moment before: then Stripe refuses, and what it
says of the session instead takes the same way as a webhook. No transaction is open during a call.
"""

import asyncio
from contextlib import suppress
from uuid import UUID

from services.chassis import logs, tracing
from services.chassis.db import Database
from services.chassis.errors import Conflict, Unavailable
from services.payments import errors, queries, rules
from services.payments.commands import accounts, checkouts, subscriptions
from services.payments.commands.settlement import settle
from services.payments.errors import StripeMissing, StripeRefused, StripeUnknown
from services.payments.looks import Looker
from services.payments.opening import Opener, request_deadline
from services.payments.rules import Checkout, Status, Subscription
from services.payments.stripe_client import CALL_SECONDS, Stripe
from services.payments.stripe_objects import Session

log = logs.get(__name__)

TICK_SECONDS = 5.0
_BATCH = 8
_LONGEST_BACKOFF_SECONDS = 3600.0


class Closer:
    """Ends checkouts and subscriptions together with Stripe."""

    def __init__(self, *, database: Database, stripe: Stripe, opener: Opener, looker: Looker) -> None:
        self._looker = looker
        self._database = database
        self._stripe = stripe
        self._opener = opener

    async def expire_order(self, *, user_id: UUID, order_id: UUID) -> Checkout:
        """Ends the checkout of an order, or leaves a tombstone for one that is yet to come. The state
        that it returns is final as far as Stripe goes, or `processing`; Unavailable otherwise."""
        deadline = request_deadline()
        checkout = await self._find_or_bury(user_id, order_id)
        if checkout.user_id != user_id:
            raise errors.checkout_not_found()
        if checkout.status is Status.CREATING:
            checkout = await self._finish_creation(checkout, deadline)
        if checkout.status is Status.OPEN:
            checkout = await self._expire(checkout, deadline)
        return checkout

    async def _find_or_bury(self, user_id: UUID, order_id: UUID) -> Checkout:
        async with self._database.worker() as connection:
            checkout = await queries.find_order_checkout(connection, order_id)
            checkout = checkout or await checkouts.bury_order(connection, user_id=user_id, order_id=order_id)
            # A twin that wrote the row in between has committed, or the insert would still wait.
            checkout = checkout or await queries.find_order_checkout(connection, order_id)
        assert checkout is not None, "checkouts are never deleted"
        return checkout

    async def _finish_creation(self, checkout: Checkout, deadline: float) -> Checkout:
        """Only a session that is known can be ended: the creation is brought to its end first."""
        async with self._database.worker() as connection:
            leased = await checkouts.lease_checkout(connection, checkout.id)
        if leased is None:
            raise errors.checkout_creating()
        checkout = await self._opener.open(leased, deadline=deadline)
        if checkout.status is Status.CREATING:
            raise errors.checkout_creating()
        return checkout

    async def _expire(self, checkout: Checkout, deadline: float) -> Checkout:
        assert checkout.session_id, "an open checkout has a session"
        try:
            session = await self._stripe.expire_session(checkout.session_id, deadline=deadline)
        except StripeMissing:
            return await self._end_unknown(checkout)
        except StripeRefused:
            session = await self._retrieve(checkout.session_id, deadline)
        await self._opener.record(session)
        async with self._database.worker() as connection:
            found = await queries.find_checkout(connection, checkout.id)
        if found is None or found.status is Status.OPEN:
            raise errors.checkout_unconfirmed()
        return found

    async def _end_unknown(self, checkout: Checkout) -> Checkout:
        """Our key's account has no such session: only when its time is over does that end anything, since the
        page may be open under another account. Unavailable before."""
        async with self._database.worker() as connection:
            ended = await checkouts.end_unknown(connection, checkout.id)
        if ended is None:
            log.error("session.unknown_to_stripe", session_id=checkout.session_id)
            raise errors.checkout_unconfirmed()
        log.error("checkout.ended_unknown", checkout_id=str(ended.id), order_id=str(ended.order_id or ""))
        self._opener.tell()
        return ended

    async def _retrieve(self, session_id: str, deadline: float) -> Session:
        try:
            return await self._stripe.retrieve_session(session_id, deadline=deadline)
        except StripeMissing:
            raise
        except StripeRefused as error:
            log.error("session.refused", session_id=session_id, code=error.code)
            raise errors.checkout_unconfirmed() from error

    async def end_subscription(self, *, user_id: UUID, subscription_id: UUID) -> Subscription:
        """No renewal any more: the subscription ends with the period that is paid for. Unavailable while
        Stripe has not confirmed."""
        async with self._database.customer(user_id) as connection:
            subscription = await queries.find_subscription(connection, subscription_id)
        if subscription is None:
            raise errors.subscription_not_found()
        if subscription.is_over_with_period:
            return subscription
        stripe_id = subscription.stripe_subscription_id
        try:
            # Refused when it has ended meanwhile: the look tells.
            with suppress(StripeRefused):
                await self._stripe.end_with_period(stripe_id, deadline=request_deadline())
            found = await self._looker.subscription(stripe_id)
        except StripeMissing:
            return await self._end_missing(subscription)
        except (StripeRefused, StripeUnknown) as error:
            raise errors.subscription_unconfirmed() from error
        async with self._database.worker() as connection:
            await settle(connection, found)
            ended = await queries.find_subscription(connection, subscription_id)
        if ended is None or not ended.is_over_with_period:
            raise errors.subscription_unconfirmed()
        return ended

    async def cancel_seconds(self) -> bool:
        """Cancels at Stripe what was bought twice; True when there may be more."""
        async with self._database.worker() as connection:
            claimed = await subscriptions.claim_seconds(connection, limit=_BATCH)
        await asyncio.gather(*(self._cancel(subscription) for subscription in claimed))
        return len(claimed) == _BATCH

    async def _cancel(self, subscription: Subscription) -> None:
        stripe_id = subscription.stripe_subscription_id
        deadline = asyncio.get_running_loop().time() + CALL_SECONDS
        try:
            # Refused when it has ended: the look tells.
            with suppress(StripeRefused):
                await self._stripe.cancel_at_once(stripe_id, deadline=deadline)
            found = await self._looker.subscription(stripe_id)
            async with self._database.worker() as connection:
                await settle(connection, found)
        except StripeMissing:
            with suppress(Conflict):
                await self._end_missing(subscription)
        except (StripeRefused, StripeUnknown) as error:
            # It is due again later.
            log.error("subscription.not_canceled", subscription_id=str(subscription.id), error=repr(error))

    async def _end_missing(self, subscription: Subscription) -> Subscription:
        """The account that made it says that there is no such one; or it was of a test account that the shop
        has left, which bills nobody. A live one of another account bills on until that one is asked."""
        async with self._database.worker() as connection:
            maker = await accounts.made_by(connection, subscription.stripe_account)
            current = await accounts.find_current(connection)
            if maker is not None and maker.livemode and current is not None and maker.id != current.id:
                raise errors.subscription_elsewhere(maker.account_id)
            await subscriptions.end_missing(connection, subscription.id)
            ended = await queries.find_subscription(connection, subscription.id)
        assert ended is not None, "subscriptions are never deleted"
        return ended

    async def settle_overdue(self) -> bool:
        """Asks Stripe about checkouts whose end should have been told; True when there may be more."""
        async with self._database.worker() as connection:
            claimed = await checkouts.claim_overdue(connection, limit=_BATCH)
        deadline = asyncio.get_running_loop().time() + CALL_SECONDS
        await asyncio.gather(*(self._settle(checkout, deadline) for checkout in claimed))
        return len(claimed) == _BATCH

    async def _has_failed(self, session: Session, deadline: float) -> bool:
        """A session whose delayed payment failed stays complete and unpaid: only the payment tells."""
        if (session.status, session.payment_status) != (
            "complete",
            "unpaid",
        ) or not session.payment_intent_id:
            return False
        intent = await self._stripe.retrieve_intent(session.payment_intent_id, deadline=deadline)
        return rules.has_failed(intent)

    async def _settle(self, checkout: Checkout, deadline: float) -> None:
        assert checkout.session_id, "an open checkout has a session"
        with tracing.continued(
            checkout.traceparent, "ask about checkout", attributes={"aishop.checkout_id": str(checkout.id)}
        ):
            try:
                session = await self._retrieve(checkout.session_id, deadline)
                failed = await self._has_failed(session, deadline)
                await self._opener.record(session, payment_failed=failed)
            except StripeMissing:
                with suppress(Unavailable):
                    await self._end_unknown(checkout)
            except Exception as error:  # noqa: BLE001 - given back: asked again after a pause
                tracing.fail(type(error).__name__)
                log.warning("checkout.overdue", checkout_id=str(checkout.id), error=repr(error))
        # A bank debit takes days, so that the pauses grow; a change of state has ended the lease.
        delay = rules.backoff_seconds(checkout.tries, longest=_LONGEST_BACKOFF_SECONDS)
        async with self._database.worker() as connection:
            await checkouts.release_checkout(connection, checkout, delay_seconds=delay)
