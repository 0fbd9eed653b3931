"""From a checkout that is written down to a session that the customer can pay.

A checkout is `creating` until Stripe's answer is recorded. Crash points and what becomes of them:

    written → (crash) → called      the lease ends, the completer calls under the same key
    called → (crash) → recorded     the same key gives the same session; or its webhook was first
    e-mail refused → (crash)        the attempt without it is written down before Stripe is called again
    outcome unknown                 the same key again until `attempt_until`
    key spent, or too old           Stripe's listing decides: adopt what is ours, end what is left over;
                                    nothing found: another attempt under a new key, or expired

The request drives its own checkout under the lease that it wrote with the row; the completer (tick 1 s)
takes over rows whose lease or backoff has ended. No transaction is open during a call.

Failpoints: payments.checkout.written (api/payments.py), payments.checkout.email_dropped,
payments.stripe.session_created, payments.checkout.opened.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from uuid import UUID

from services.chassis import failpoints, logs, tracing
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.payments import queries, rules
from services.payments.commands import checkouts, settlement
from services.payments.errors import EMAIL_INVALID, StripeKeySpent, StripeRefused, StripeUnknown
from services.payments.findings import Settlement
from services.payments.rules import Checkout, Line
from services.payments.stripe_client import CALL_SECONDS, Stripe, while_busy
from services.payments.stripe_objects import Session

log = logs.get(__name__)

TICK_SECONDS = 1.0
# Less than the caller's deadline (5.5 s): the answer has to travel, too.
REQUEST_SECONDS = 5.0
_BATCH = 8
_LONGEST_BACKOFF_SECONDS = 60.0
# Our clock and Stripe's may differ when sessions are listed by time.
_CLOCK_SKEW = timedelta(minutes=5)


def request_deadline() -> float:
    return asyncio.get_running_loop().time() + REQUEST_SECONDS


def seal_request(keyring: Keyring, checkout_id: UUID, *, lines: Sequence[Line], email: str) -> bytes:
    """The parameters of the session, kept so that each retry sends the same; they bear the e-mail."""
    plain = {
        "email": email,
        "lines": [[line.title, line.unit_price_cents, line.quantity, line.interval] for line in lines],
    }
    return keyring.seal(json.dumps(plain).encode(), place=request_place(checkout_id))


def _open_request(keyring: Keyring, checkout: Checkout) -> tuple[list[Line], str]:
    plain = json.loads(keyring.open(checkout.request, place=request_place(checkout.id)))
    return [Line(*line) for line in plain["lines"]], plain["email"]


def request_place(checkout_id: UUID) -> str:
    """Binds a sealed request to its row."""
    return f"checkouts.request:{checkout_id}"


class Opener:
    """Opens leased checkouts at Stripe, for requests and in the background."""

    def __init__(
        self, *, database: Database, stripe: Stripe, keyring: Keyring, after_commit: Callable[[], None]
    ) -> None:
        self._database = database
        self._stripe = stripe
        self._keyring = keyring
        self._after_commit = after_commit

    async def complete_batch(self) -> bool:
        """Takes over checkouts that nobody finished; True when there may be more."""
        async with self._database.worker() as connection:
            claimed = await checkouts.claim_unfinished(connection, limit=_BATCH)
        deadline = asyncio.get_running_loop().time() + CALL_SECONDS
        await asyncio.gather(*(self._complete(checkout, deadline) for checkout in claimed))
        return len(claimed) == _BATCH

    async def _complete(self, checkout: Checkout, deadline: float) -> None:
        with tracing.continued(
            checkout.traceparent, "resume checkout", attributes={"aishop.checkout_id": str(checkout.id)}
        ):
            log.info("checkout.resumed", checkout_id=str(checkout.id), tries=checkout.tries)
            try:
                await self.open(checkout, deadline=deadline)
            except Exception as error:  # noqa: BLE001 - given back: tried again after a pause
                tracing.fail(type(error).__name__)
                log.error("checkout.resume_failed", checkout_id=str(checkout.id), error=repr(error))
                await self._give_back(checkout)

    async def open(self, checkout: Checkout, *, deadline: float) -> Checkout:
        """Takes a leased checkout as far as Stripe answers; returns it in its state afterwards, which
        is still `creating` when the outcome is unknown."""
        try:
            await self._create_or_settle(checkout, deadline)
        except StripeRefused as error:
            log.warning("checkout.refused", checkout_id=str(checkout.id), code=error.code)
            async with self._database.worker() as connection:
                await checkouts.refuse_checkout(connection, checkout, reason=error.code)
            self._after_commit()
        except StripeUnknown as error:
            log.warning("checkout.outcome_unknown", checkout_id=str(checkout.id), **error.fields)
            await self._give_back(checkout)
        return await self._read(checkout.id)

    async def _create_or_settle(self, checkout: Checkout, deadline: float) -> None:
        if not rules.may_create(checkout):
            await self._settle_by_listing(checkout, deadline)
            return
        try:
            session = await self._create(checkout, deadline)
        except StripeKeySpent:
            await self._settle_by_listing(checkout, deadline)
            return
        failpoints.hit("payments.stripe.session_created")
        await self.record(session)
        failpoints.hit("payments.checkout.opened")

    async def _create(self, checkout: Checkout, deadline: float) -> Session:
        lines, email = _open_request(self._keyring, checkout)
        try:
            return await self._call(checkout, lines, email, deadline)
        except StripeRefused as error:
            # What fills in a field of the page must not veto the purchase.
            if error.code != EMAIL_INVALID or not email:
                raise
        log.warning("checkout.email_refused", checkout_id=str(checkout.id))
        without = seal_request(self._keyring, checkout.id, lines=lines, email="")
        async with self._database.worker() as connection:
            next_one = await checkouts.begin_next_attempt(connection, checkout, sealed_request=without)
        if next_one is None:
            raise StripeUnknown("another worker has taken the checkout over")
        failpoints.hit("payments.checkout.email_dropped")
        return await self._call(next_one, lines, "", deadline)

    async def _call(self, checkout: Checkout, lines: list[Line], email: str, deadline: float) -> Session:
        return await while_busy(
            lambda: self._stripe.create_session(checkout, lines=lines, email=email, deadline=deadline),
            deadline=deadline,
        )

    async def _settle_by_listing(self, checkout: Checkout, deadline: float) -> None:
        """What Stripe lists is the truth about a key that tells nothing any more."""
        found = [
            session
            async for session in self._stripe.list_sessions(
                since=checkout.created_at - _CLOCK_SKEW, deadline=deadline
            )
            if session.client_reference_id == str(checkout.id)
        ]
        log.info("checkout.listed", checkout_id=str(checkout.id), sessions=len(found))
        # A paid one before an open one, an open one before an expired one.
        for session in sorted(found, key=lambda found: _PREFERENCE.index(found.status)):
            await self.record(session)
        if not found:
            await self._try_anew(checkout)

    async def _try_anew(self, checkout: Checkout) -> None:
        async with self._database.worker() as connection:
            if rules.may_try_anew(checkout):
                # The completer calls under the new key as soon as the lease is given back.
                await checkouts.begin_next_attempt(connection, checkout)
                await checkouts.release_checkout(connection, checkout, delay_seconds=0)
            else:
                await checkouts.abandon_checkout(connection, checkout)
        self._after_commit()

    def tell(self) -> None:
        """Something was committed that others wait for."""
        self._after_commit()

    async def record(self, session: Session, *, payment_failed: bool = False) -> None:
        """Applies what Stripe says of a session; one that a checkout has no use for is ended."""
        async with self._database.worker() as connection:
            outcome = await settlement.settle_session(connection, session, payment_failed=payment_failed)
        self._after_commit()
        if outcome.settlement is Settlement.OTHER_SESSION and session.status == "open":
            log.error("session.left_over", session_id=session.id)
            deadline = asyncio.get_running_loop().time() + CALL_SECONDS
            await self._stripe.expire_session(session.id, deadline=deadline)

    async def _give_back(self, checkout: Checkout) -> None:
        delay = rules.backoff_seconds(checkout.tries, longest=_LONGEST_BACKOFF_SECONDS)
        async with self._database.worker() as connection:
            await checkouts.release_checkout(connection, checkout, delay_seconds=delay)

    async def _read(self, checkout_id: UUID) -> Checkout:
        async with self._database.worker() as connection:
            checkout = await queries.find_checkout(connection, checkout_id)
        assert checkout is not None, "checkouts are never deleted"
        return checkout


_PREFERENCE = ("complete", "open", "expired")
