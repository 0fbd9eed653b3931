"""What this service listens to: Stripe's events, out of the table where webhooks.py keeps them.

States of an event: received → processed | ignored | failed → set_aside; an operator's replay makes it
received again. A worker claims events under a lease, reads each one (looks.py, which may ask Stripe) and
gives it one transaction: effects, outbox and the mark. A failure rolls all of it back, is kept on the row and
tried again by the common schedule (chassis/backoff.py): fast at first; then it has `failed`, is tried slowly,
and stands on the operators' list until it is applied or set aside. A crash leaves the lease to run out.

Failpoints: payments.event.applied (before the commit), payments.event.committed.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import backoff, failpoints, logs, rounds, tracing
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.metrics import timing
from services.chassis.outages import is_outage, lasting
from services.chassis.workers import Worker
from services.payments import findings, metrics
from services.payments.commands import events
from services.payments.commands.events import ClaimedEvent
from services.payments.commands.settlement import settle
from services.payments.errors import LeaseLost, StripeMalformed, StripeMissing, StripeUnknown
from services.payments.findings import NOT_OURS, Outcome, Settlement
from services.payments.looks import EventObject, Findings, Looker
from services.payments.stripe_client import API_VERSION
from services.payments.stripe_objects import Malformed
from services.payments.traces import trace_of

log = logs.get(__name__)

TICK_SECONDS = 1.0
# As many as are handled at the same time: nothing waits under a lease that runs out.
_AT_ONCE = 4
# Of what failed because Stripe or the database was away: it is over when they are back.
_LONGEST_OUTAGE_PAUSE_SECONDS = 300.0
# After so many tries an event whose object Stripe does not have is set aside, in test mode; so often within
# an hour. Beyond that it is not an object that is missing, but the key that is another one.
_MISSING_TRIES = 3
_MISSING_AN_HOUR = 10

Reader = Callable[[Looker, EventObject], Awaitable[Findings]]

READERS: Mapping[str, Reader] = {
    "checkout.session.completed": Looker.session_changed,
    "checkout.session.async_payment_succeeded": Looker.session_changed,
    "checkout.session.async_payment_failed": Looker.delayed_payment_failed,
    "checkout.session.expired": Looker.session_changed,
    "payment_intent.succeeded": Looker.payment_succeeded,
    "payment_intent.payment_failed": Looker.payment_declined,
    "payment_intent.canceled": Looker.payment_canceled,
    "charge.refunded": Looker.charge_refunded,
    "refund.created": Looker.refund_changed,
    "refund.updated": Looker.refund_changed,
    "refund.failed": Looker.refund_changed,
    "charge.dispute.created": Looker.dispute_changed,
    "charge.dispute.updated": Looker.dispute_changed,
    "charge.dispute.closed": Looker.dispute_changed,
    "invoice.paid": Looker.invoice_paid,
    "invoice.payment_succeeded": Looker.invoice_paid,
    "invoice.payment_failed": Looker.invoice_failed,
    "customer.subscription.created": Looker.subscription_changed,
    "customer.subscription.updated": Looker.subscription_changed,
    "customer.subscription.deleted": Looker.subscription_changed,
}


def payload_place(event_id: str) -> str:
    """Binds a sealed payload to its row."""
    return f"stripe_events.payload:{event_id}"


class EventWorker:
    """Turns stored events into state and facts, a few at a time: each in a task of its own, so that one that
    waits for Stripe keeps no other from its place."""

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        looker: Looker,
        lease_seconds: float,
        livemode: bool,
        after_commit: Callable[[], None],
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._looker = looker
        self._lease_seconds = lease_seconds
        self._livemode = livemode
        self._after_commit = after_commit
        self._claiming = Worker("events.handle", self._take_due, tick_seconds=TICK_SECONDS)
        self._handling: asyncio.TaskGroup
        self._free = _AT_ONCE
        self._may_be_more = False
        metrics.expect_events(READERS)

    def wake(self) -> None:
        """There are events that nobody has looked at."""
        self._claiming.wake()

    @lasting
    async def run(self) -> None:
        """Until it is cancelled; what is being handled then is left to the next lease."""
        # Each time anew: a group that was left cannot be entered again.
        self._handling = asyncio.TaskGroup()
        async with self._handling:
            await self._claiming.run()

    async def _take_due(self) -> bool:
        """Claims events for the places that are free, and waits for none of them: False, since the next one
        that ends asks again."""
        free = self._free
        if free:
            async with self._database.worker() as connection:
                claimed = await events.claim_events(connection, limit=free, lease_seconds=self._lease_seconds)
            self._may_be_more = len(claimed) == free
            self._free -= len(claimed)
            for event in claimed:
                self._handling.create_task(self._handle(event))
        return False

    async def _handle(self, event: ClaimedEvent) -> None:
        try:
            with rounds.under_way("stripe event"):
                await self.settle_event(event)
        except Exception as error:
            # Not even its failure could be kept: the lease runs out, and it is claimed again.
            if is_outage(error):
                log.warning("stripe_event.left", event_id=event.id, error=repr(error))
            else:
                log.exception("stripe_event.crashed", event_id=event.id)
        finally:
            self._free += 1
            if self._may_be_more:
                self.wake()

    async def settle_event(self, event: ClaimedEvent) -> None:
        """Reads a claimed event and gives it its transaction, or keeps why that failed."""
        with ExitStack() as traced:
            await self._settle_traced(event, traced)

    async def _settle_traced(self, event: ClaimedEvent, traced: ExitStack) -> None:
        """Whose trace it is shows when the event has been read: what follows belongs to it."""
        try:
            with timing(metrics.HANDLING_SECONDS):
                outcome = await self._read_and_apply(event, traced)
        except Exception as error:  # noqa: BLE001 - kept on the row and tried again
            tracing.fail(type(error).__name__)
            await self._again(event, error)
        else:
            failpoints.hit("payments.event.committed")
            _count(event, outcome)
            log.info(
                "stripe_event.settled", event_id=event.id, type=event.type, outcome=outcome.settlement.name
            )
            self._after_commit()

    async def _read_and_apply(self, event: ClaimedEvent, traced: ExitStack) -> Outcome:
        found = await self._read(event)
        if found is not None:
            found = await self._looker.ours_among(found)
        async with self._database.worker() as connection:
            if found is not None:
                traceparent = await trace_of(connection, found)
                traced.enter_context(
                    tracing.continued(
                        traceparent,
                        f"settle {event.type}",
                        attributes={"aishop.stripe_event.type": event.type},
                    )
                )
            outcome = await self._apply(connection, found)
            await events.finish_event(
                connection,
                event,
                ignored=outcome.settlement is Settlement.NOT_OURS,
                effects=outcome.effects,
            )
            failpoints.hit("payments.event.applied")
        return outcome

    async def _read(self, event: ClaimedEvent) -> Findings | None:
        """None for what this shop has no use for: other types, and what happened at a connected account,
        whose owner may write our metadata on payments of their own."""
        reader = READERS.get(event.type)
        if reader is None:
            return None
        payload = json.loads(self._keyring.open(event.payload, place=payload_place(event.id)))
        if payload.get("account") is not None:
            return None
        return await reader(self._looker, _object_of(payload))

    async def _apply(self, connection: AsyncConnection, found: Findings | None) -> Outcome:
        if found is None:
            return NOT_OURS
        return findings.together([await settle(connection, finding) for finding in found])

    async def _again(self, event: ClaimedEvent, error: Exception) -> None:
        is_missing = is_set_aside_by_rule(error, livemode=self._livemode, attempts=event.attempts)
        if is_missing and await self._set_aside(event, error):
            return
        pause = backoff.DEFAULT.pause_after(event.attempts)
        seconds = (
            min(pause.seconds, _LONGEST_OUTAGE_PAUSE_SECONDS) if _passes_by_itself(error) else pause.seconds
        )
        report = log.error if pause.needs_operator else log.warning
        described = _describe(error)
        report(
            "stripe_event.failed" if pause.needs_operator else "stripe_event.retry",
            event_id=event.id,
            type=event.type,
            attempts=event.attempts,
            delay_seconds=seconds,
            error=described,
        )
        metrics.count_event_failure(event_label(event.type))
        async with self._database.worker() as connection:
            await events.retry_event(
                connection,
                event,
                error=described,
                delay_seconds=seconds,
                has_failed=pause.needs_operator,
            )

    async def _set_aside(self, event: ClaimedEvent, error: Exception) -> bool:
        described = _describe(error)
        try:
            async with self._database.worker() as connection:
                is_aside = await events.set_aside_by_rule(
                    connection, event, error=described, at_most_an_hour=_MISSING_AN_HOUR
                )
        except LeaseLost:
            # It is with another worker: nothing is left to keep here.
            return True
        report = log.warning if is_aside else log.error
        report(
            "stripe_event.set_aside" if is_aside else "stripe_event.missing_burst",
            event_id=event.id,
            type=event.type,
            error=described,
        )
        return is_aside


def is_set_aside_by_rule(error: Exception, *, livemode: bool, attempts: int) -> bool:
    """Test data are deleted, and other programs share the account; of real money an operator decides."""
    return isinstance(error, StripeMissing) and not livemode and attempts >= _MISSING_TRIES


def _passes_by_itself(error: Exception) -> bool:
    """Whether the other side was not there, or not ready: it says nothing about the event."""
    if isinstance(error, StripeUnknown):
        return not isinstance(error, StripeMalformed)
    return is_outage(error)


def _count(event: ClaimedEvent, outcome: Outcome) -> None:
    metrics.count_event(event_label(event.type), outcome.settlement.name.lower())
    metrics.observe_lag(event.received_at)
    for effect in outcome.effects:
        if effect.kind == "quarantine":
            metrics.count_quarantined(effect.change)


def event_label(event_type: str) -> str:
    """Few, for a metric."""
    return event_type if event_type in READERS else "other"


def _object_of(payload: Mapping[str, Any]) -> EventObject:
    data = payload.get("data")
    fields = data.get("object") if isinstance(data, Mapping) else None
    if not isinstance(fields, Mapping):
        raise Malformed("data.object is not an object")
    return EventObject(fields, is_pinned=payload.get("api_version") == API_VERSION)


def _describe(error: Exception) -> str:
    """Without the statement's parameters and the row's values, which a database error would print."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
