"""What this service listens to: Stripe's events, out of the table where webhooks.py keeps them.

States of an event: received → processed | ignored. A worker claims events under a lease and gives each
one transaction: effects, outbox and the mark. A failure rolls all of it back, is kept on the row and
tried again with a growing pause, for ever; ten failures raise an alert. A crash leaves the lease to run out.

Failpoints: payments.event.applied (before the commit), payments.event.committed.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis import failpoints, logs
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.payments import rules
from services.payments.commands import events
from services.payments.commands.events import ClaimedEvent
from services.payments.commands.settlement import Settlement, settle_session
from services.payments.rules import Malformed

log = logs.get(__name__)

TICK_SECONDS = 1.0
_BATCH = 20
_LONGEST_BACKOFF_SECONDS = 300.0
_ALERT_AFTER = 10

Handler = Callable[[AsyncConnection, Mapping[str, Any]], Awaitable[Settlement]]


async def session_changed(connection: AsyncConnection, fields: Mapping[str, Any]) -> Settlement:
    return await settle_session(connection, rules.parse_session(fields))


async def delayed_payment_failed(connection: AsyncConnection, fields: Mapping[str, Any]) -> Settlement:
    return await settle_session(connection, rules.parse_session(fields), payment_failed=True)


HANDLERS: Mapping[str, Handler] = {
    "checkout.session.completed": session_changed,
    "checkout.session.async_payment_succeeded": session_changed,
    "checkout.session.async_payment_failed": delayed_payment_failed,
    "checkout.session.expired": session_changed,
}


def payload_place(event_id: str) -> str:
    """Binds a sealed payload to its row."""
    return f"stripe_events.payload:{event_id}"


class EventWorker:
    """Turns stored events into state and facts."""

    def __init__(self, *, database: Database, keyring: Keyring, after_commit: Callable[[], None]) -> None:
        self._database = database
        self._keyring = keyring
        self._after_commit = after_commit

    async def handle_batch(self) -> bool:
        """Handles the events that are due; True when there may be more."""
        async with self._database.worker() as connection:
            claimed = await events.claim_events(connection, limit=_BATCH)
        for event in claimed:
            await self._settle(event)
        return len(claimed) == _BATCH

    async def _settle(self, event: ClaimedEvent) -> None:
        try:
            async with self._database.worker() as connection:
                settlement = await self._apply(connection, event)
                ignored = settlement is Settlement.NOT_OURS
                await events.finish_event(connection, event, ignored=ignored)
                failpoints.hit("payments.event.applied")
        except Exception as error:  # noqa: BLE001 - kept on the row and tried again
            await self._again(event, error)
        else:
            failpoints.hit("payments.event.committed")
            log.info("stripe_event.settled", event_id=event.id, type=event.type, outcome=settlement.name)
            self._after_commit()

    async def _apply(self, connection: AsyncConnection, event: ClaimedEvent) -> Settlement:
        handle = HANDLERS.get(event.type)
        if handle is None:
            return Settlement.NOT_OURS
        payload = json.loads(self._keyring.open(event.payload, place=payload_place(event.id)))
        return await handle(connection, _object_of(payload))

    async def _again(self, event: ClaimedEvent, error: Exception) -> None:
        delay = rules.backoff_seconds(event.attempts, longest=_LONGEST_BACKOFF_SECONDS)
        report = log.error if event.attempts >= _ALERT_AFTER else log.warning
        described = _describe(error)
        report(
            "stripe_event.retry",
            event_id=event.id,
            type=event.type,
            attempts=event.attempts,
            delay_seconds=delay,
            error=described,
        )
        async with self._database.worker() as connection:
            await events.retry_event(connection, event, error=described, delay_seconds=delay)


def _object_of(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    data = payload.get("data")
    fields = data.get("object") if isinstance(data, Mapping) else None
    if not isinstance(fields, Mapping):
        raise Malformed("data.object is not an object")
    return fields


def _describe(error: Exception) -> str:
    """Without the statement's parameters and the row's values, which a database error would print."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return f"{type(cause).__name__}: {cause}".splitlines()[0]
