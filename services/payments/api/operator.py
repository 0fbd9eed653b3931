"""What operators see and do. Each action leaves an audit entry in the transaction that does it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from protos.payments.v1 import payments_pb2 as pb
from protos.payments.v1 import payments_pb2_grpc
from services.chassis import analytics as chassis_analytics
from services.chassis import audit_log, cursor
from services.chassis import timeline as chassis_timeline
from services.chassis.crypto import Keyring
from services.chassis.db import Database
from services.chassis.fields import as_uuid, in_range
from services.payments import analytics, errors, listings, timeline
from services.payments.api.messages import (
    EVENT_STATUSES,
    QUARANTINE_STATUSES,
    analytics_message,
    checked_text,
    event_message,
    name_of,
    parked_message,
    run_message,
)
from services.payments.commands import events, quarantine, reconciliations
from services.payments.commands.quarantine import Decision
from services.payments.commands.refunds import Begun
from services.payments.events import payload_place
from services.payments.listings import EventFilter
from services.payments.models import stripe_events
from services.payments.refunding import Refunder
from services.payments.rules import MAX_AMOUNT_CENTS

_MAX_REPLAY = 1000
_MAX_POINTS = 1_000_000_000
_MAX_ID_LENGTH = 255
_MAX_REASON_LENGTH = 500
_CLOCK_SKEW = timedelta(minutes=5)


class PaymentsOperatorServicer(payments_pb2_grpc.PaymentsOperatorServiceServicer):
    """One method for each RPC of PaymentsOperatorService."""

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        refunder: Refunder,
        wake_events: Callable[[], None],
        wake_reconciler: Callable[[], None],
        after_commit: Callable[[], None],
    ) -> None:
        self._database = database
        self._counting = chassis_analytics.Counting(database)
        self._keyring = keyring
        self._refunder = refunder
        self._wake_events = wake_events
        self._wake_reconciler = wake_reconciler
        self._after_commit = after_commit

    async def ListStripeEvents(
        self, request: pb.ListStripeEventsRequest, _context: object
    ) -> pb.ListStripeEventsResponse:
        limit = cursor.page_size(request.limit)
        wanted = EventFilter(
            type=checked_text(request.type, field="type", longest=_MAX_ID_LENGTH),
            status=name_of(request.status, EVENT_STATUSES),
            search=checked_text(request.search, field="search", longest=_MAX_ID_LENGTH),
            since=_time(request.since) if request.HasField("since") else None,
        )
        before = cursor.decode_text(request.cursor)
        async with self._database.worker() as connection:
            found = await listings.list_events(connection, wanted, limit=limit + 1, before=before)
        items, following = cursor.page(
            found, limit=limit, message=event_message, key=lambda event: (event.id,)
        )
        return pb.ListStripeEventsResponse(items=items, next_cursor=following)

    async def GetStripeEvent(
        self, request: pb.GetStripeEventRequest, _context: object
    ) -> pb.GetStripeEventResponse:
        event_id = checked_text(request.id, field="id", longest=_MAX_ID_LENGTH, shortest=1)
        async with self._database.worker() as connection:
            found = await listings.find_event(connection, event_id)
        if found is None:
            raise errors.stripe_event_not_found()
        event, sealed = found
        payload = self._keyring.open(sealed, place=payload_place(event.id)).decode()
        return pb.GetStripeEventResponse(event=event_message(event), payload=payload)

    async def ReplayStripeEvents(
        self, request: pb.ReplayStripeEventsRequest, _context: object
    ) -> pb.ReplayStripeEventsResponse:
        in_range(len(request.ids), field="ids", low=0, high=_MAX_REPLAY)
        wanted = EventFilter(
            type=checked_text(request.type, field="type", longest=_MAX_ID_LENGTH),
            status=name_of(request.status, EVENT_STATUSES),
            since=_time(request.since) if request.HasField("since") else None,
        )
        ids = [checked_text(event_id, field="ids", longest=_MAX_ID_LENGTH) for event_id in request.ids]
        if not ids and wanted == EventFilter():
            raise errors.invalid_field("ids", "given, or a type, a status or a time")
        actor, reason = _who_and_why(request.actor, request.reason)
        chosen = stripe_events.c.id.in_(ids) if ids else wanted.condition()
        async with self._database.worker() as connection:
            replayed = await events.replay_events(connection, chosen, limit=_MAX_REPLAY)
            # Nothing found is nothing done.
            if replayed:
                await audit_log.append(
                    connection,
                    actor=actor,
                    action="stripe_events.replayed",
                    subject=replayed[0] if len(replayed) == 1 else f"{len(replayed)} events",
                    reason=reason,
                    details={"ids": replayed},
                )
        self._wake_events()
        return pb.ReplayStripeEventsResponse(ids=replayed)

    async def SetAsideStripeEvent(
        self, request: pb.SetAsideStripeEventRequest, _context: object
    ) -> pb.SetAsideStripeEventResponse:
        event_id = checked_text(request.id, field="id", longest=_MAX_ID_LENGTH, shortest=1)
        actor, reason = _who_and_why(request.actor, request.reason)
        if actor == events.RULE:
            raise errors.invalid_field("actor", "an operator")
        async with self._database.worker() as connection:
            await events.set_aside_event(connection, event_id, actor=actor, reason=reason)
            found = await listings.find_event(connection, event_id)
        assert found is not None, "events are never deleted"
        return pb.SetAsideStripeEventResponse(event=event_message(found[0]))

    async def ListQuarantine(
        self, request: pb.ListQuarantineRequest, _context: object
    ) -> pb.ListQuarantineResponse:
        limit, before = cursor.page_size(request.limit), cursor.decode_id(request.cursor)
        status = name_of(request.status, QUARANTINE_STATUSES)
        async with self._database.worker() as connection:
            found = await listings.list_parked(connection, status=status, limit=limit + 1, before=before)
        items, following = cursor.page(
            found, limit=limit, message=parked_message, key=lambda parked: (parked.id,)
        )
        return pb.ListQuarantineResponse(items=items, next_cursor=following)

    async def ResolveQuarantine(
        self, request: pb.ResolveQuarantineRequest, _context: object
    ) -> pb.ResolveQuarantineResponse:
        actor, reason = _who_and_why(request.actor, request.reason)
        decision = Decision(as_uuid(request.id, field="id"), actor, reason)
        begun = await self._decide(request, decision)
        await asyncio.gather(*(self._refunder.take_further(each) for each in begun))
        self._after_commit()
        async with self._database.worker() as connection:
            parked = await listings.find_parked(connection, decision.quarantine_id)
        assert parked is not None, "quarantine is never emptied"
        return pb.ResolveQuarantineResponse(payment=parked_message(parked))

    async def _decide(self, request: pb.ResolveQuarantineRequest, decision: Decision) -> list[Begun]:
        """The refunds that it began."""
        async with self._database.worker() as connection:
            match request.resolution:
                case pb.QUARANTINE_RESOLUTION_FULFIL:
                    await quarantine.fulfil_parked(
                        connection,
                        decision,
                        points=_stated_points(request),
                        reference=checked_text(request.reference, field="reference", longest=_MAX_ID_LENGTH),
                    )
                case pb.QUARANTINE_RESOLUTION_REFUND:
                    return await quarantine.refund_parked(connection, decision)
                case pb.QUARANTINE_RESOLUTION_SETTLED_OUTSIDE:
                    await quarantine.settle_outside(
                        connection,
                        decision,
                        amount_cents=in_range(
                            request.amount_cents, field="amount_cents", low=1, high=MAX_AMOUNT_CENTS
                        ),
                        reference=checked_text(
                            request.reference, field="reference", longest=_MAX_ID_LENGTH, shortest=1
                        ),
                    )
                case pb.QUARANTINE_RESOLUTION_WRITTEN_OFF:
                    await quarantine.write_off(connection, decision)
                case _:
                    raise errors.invalid_field("resolution", "one of the enum's values")
        return []

    async def StartReconciliation(
        self, request: pb.StartReconciliationRequest, _context: object
    ) -> pb.StartReconciliationResponse:
        actor = checked_text(request.actor, field="actor", longest=_MAX_ID_LENGTH, shortest=1)
        if actor == reconciliations.SCHEDULE:
            raise errors.invalid_field("actor", "an operator")
        since = _time(request.since) if request.HasField("since") else None
        if since is not None and since > datetime.now(UTC) + _CLOCK_SKEW:
            # It would compare nothing, and find that nothing differs.
            raise errors.invalid_field("since", "a time that has passed")
        async with self._database.worker() as connection:
            run = await reconciliations.request_run(connection, since=since, actor=actor)
        self._wake_reconciler()
        return pb.StartReconciliationResponse(reconciliation=run_message(run))

    async def GetTimeline(self, request: pb.GetTimelineRequest, _context: object) -> pb.GetTimelineResponse:
        of = chassis_timeline.wanted(request)
        async with self._database.worker() as connection:
            found = await timeline.read_timeline(connection, of)
        return pb.GetTimelineResponse(
            entries=[chassis_timeline.as_message("payments", entry, timeline.SUMMARIES) for entry in found]
        )

    async def GetAnalytics(
        self, request: pb.GetAnalyticsRequest, _context: object
    ) -> pb.GetAnalyticsResponse:
        within = chassis_analytics.wanted(request)
        async with self._counting.turn() as connection:
            counted = await analytics.count_payments(connection, within)
        return analytics_message(counted)

    async def ListAuditLog(
        self, request: pb.ListAuditLogRequest, _context: object
    ) -> pb.ListAuditLogResponse:
        of = audit_log.wanted(request)
        async with self._database.worker() as connection:
            found = await audit_log.read(connection, of)
        return pb.ListAuditLogResponse(entries=[audit_log.as_message("payments", entry) for entry in found])

    async def GetReconciliation(
        self, request: pb.GetReconciliationRequest, _context: object
    ) -> pb.GetReconciliationResponse:
        async with self._database.worker() as connection:
            run = await reconciliations.find_run(connection, as_uuid(request.id, field="id"))
        return pb.GetReconciliationResponse(reconciliation=run_message(run))


def _stated_points(request: pb.ResolveQuarantineRequest) -> int | None:
    if not request.HasField("points"):
        return None
    return in_range(request.points, field="points", low=1, high=_MAX_POINTS)


def _who_and_why(actor: str, reason: str) -> tuple[str, str]:
    return (
        checked_text(actor, field="actor", longest=_MAX_ID_LENGTH, shortest=1),
        checked_text(reason, field="reason", longest=_MAX_REASON_LENGTH, shortest=1),
    )


def _time(stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise errors.invalid_field("since", "a time") from error
