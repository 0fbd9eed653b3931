"""From a refund that is written down to one that Stripe knows.

A refund is `creating` until it was seen in Stripe's listing. Crash points and what becomes of them:

    written → (crash) → called      the lease ends, the completer calls under the same key
    called → (crash) → listed       the same key gives the same refund, and the listing has it
    outcome unknown                 the same key again until `attempt_until`
    key spent, or too old           the listing decides: ours is recorded; nothing of ours: a new key
    refused, nothing of ours listed failed, and its amount is free again

What Stripe lists is recorded by the same path as an event's look, so that an answer, a webhook and the
completer agree. No transaction is open during a call.

Failpoints: payments.refund.written, payments.stripe.refund_created, payments.refund.recorded.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from services.chassis import failpoints, logs, tracing
from services.chassis.db import Database
from services.payments import errors, queries, rules
from services.payments.commands import refunds
from services.payments.commands.refunds import Begun, Wanted
from services.payments.commands.settlement import settle
from services.payments.errors import StripeKeySpent, StripeMissing, StripeRefused, StripeUnknown
from services.payments.looks import Looker
from services.payments.opening import request_deadline
from services.payments.rules import Refund
from services.payments.stripe_client import CALL_SECONDS, Stripe, while_busy

log = logs.get(__name__)

TICK_SECONDS = 1.0
_BATCH = 8
_LONGEST_BACKOFF_SECONDS = 60.0


class Refunder:
    """Asks Stripe for refunds, for requests and in the background."""

    def __init__(
        self, *, database: Database, stripe: Stripe, looker: Looker, after_commit: Callable[[], None]
    ) -> None:
        self._database = database
        self._stripe = stripe
        self._looker = looker
        self._after_commit = after_commit

    async def refund_order(self, *, order_id: UUID, wanted: Wanted) -> Refund:
        """The refund after what this request can do for it; still `creating` when Stripe has not answered.
        The same id gives the same refund."""
        async with self._database.worker() as connection:
            intent_id = await queries.intent_of_order(connection, order_id)
            if intent_id is None:
                raise errors.payment_not_found()
            begun = await refunds.begin_refund(connection, payment_intent_id=intent_id, wanted=wanted)
        return await self.take_further(begun)

    async def take_further(self, begun: Begun) -> Refund:
        """Asks Stripe for a refund that was just written; a known one is with whoever holds its lease."""
        if not begun.is_new:
            return begun.refund
        failpoints.hit("payments.refund.written")
        await self._complete(begun.refund, request_deadline())
        return await self._read(begun.refund.id)

    async def complete_batch(self) -> bool:
        """Takes over refunds that nobody finished; True when there may be more."""
        async with self._database.worker() as connection:
            claimed = await refunds.claim_unfinished(connection, limit=_BATCH)
        deadline = asyncio.get_running_loop().time() + CALL_SECONDS
        await asyncio.gather(*(self._resume(refund, deadline) for refund in claimed))
        return len(claimed) == _BATCH

    async def _resume(self, refund: Refund, deadline: float) -> None:
        with tracing.continued(
            refund.traceparent, "resume refund", attributes={"aishop.refund_id": str(refund.id)}
        ):
            await self._complete(refund, deadline)

    async def _complete(self, refund: Refund, deadline: float) -> None:
        try:
            await self._record(refund, await self._create(refund, deadline))
        except StripeUnknown as error:
            log.warning("refund.outcome_unknown", refund_id=str(refund.id), **error.fields)
            await self._give_back(refund)
        except Exception as error:  # noqa: BLE001 - given back: tried again after a pause
            log.error("refund.not_completed", refund_id=str(refund.id), error=repr(error))
            await self._give_back(refund)

    async def _create(self, refund: Refund, deadline: float) -> "_Told":
        if not rules.may_create_refund(refund):
            return _Told(key_is_spent=True)
        try:
            await while_busy(lambda: self._stripe.create_refund(refund, deadline=deadline), deadline=deadline)
        except StripeKeySpent:
            return _Told(key_is_spent=True)
        except StripeRefused as error:
            log.warning("refund.refused", refund_id=str(refund.id), code=error.code)
            return _Told(refused=error.code)
        failpoints.hit("payments.stripe.refund_created")
        return _Told()

    async def _record(self, refund: Refund, told: "_Told") -> None:
        try:
            found = await self._looker.refunds(refund.payment_intent_id)
        except StripeMissing as error:
            # The account has no such payment: it gives nothing back, and never has under our id.
            await self._refuse_missing(refund, error)
            return
        is_listed = any(listed.metadata.get("refund_id") == str(refund.id) for listed in found.refunds)
        if not is_listed and told == _Told():
            # A new key now would be a second refund.
            raise StripeUnknown("the refund is not listed yet")
        async with self._database.worker() as connection:
            await settle(connection, found)
            if not is_listed and told.refused is not None:
                await refunds.refuse_refund(connection, refund, code=told.refused)
            elif not is_listed:
                await refunds.begin_next_attempt(connection, refund)
        self._after_commit()
        failpoints.hit("payments.refund.recorded")

    async def _refuse_missing(self, refund: Refund, error: StripeMissing) -> None:
        log.error("refund.payment_unknown_to_stripe", refund_id=str(refund.id), error=str(error))
        async with self._database.worker() as connection:
            await refunds.refuse_refund(connection, refund, code="payment_unknown_to_stripe")
        self._after_commit()

    async def _give_back(self, refund: Refund) -> None:
        delay = rules.backoff_seconds(refund.tries, longest=_LONGEST_BACKOFF_SECONDS)
        async with self._database.worker() as connection:
            await refunds.release_refund(connection, refund, delay_seconds=delay)

    async def _read(self, refund_id: UUID) -> Refund:
        async with self._database.worker() as connection:
            refund = await queries.find_refund(connection, refund_id)
        assert refund is not None, "refunds are never deleted"
        return refund


@dataclass(frozen=True, slots=True)
class _Told:
    """What the call itself said: done, unless one of these is set."""

    # Stripe's code.
    refused: str | None = None
    # The key can tell nothing any more: only the listing can.
    key_is_spent: bool = False
