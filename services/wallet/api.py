"""wallet's gRPC face: message ⇄ arguments, and the transactions.

Customers' reads and reserves run on the app login under row-level security; what ends or refunds a hold
is a command of orders, an adjustment one of an operator; both run on the worker login.

Failpoints, each just before (`.writing`) and just after (`.committed`) its commit: wallet.reserved,
wallet.captured, wallet.released, wallet.refunded, wallet.adjusted, and wallet.overdue (overdue.py). Grants
are covered by the consumer's own: consumer.wallet__grant.handled and .committed.
"""

from uuid import UUID

import psycopg
from google.protobuf.timestamp_pb2 import Timestamp

from protos.wallet.v1 import wallet_pb2, wallet_pb2_grpc
from services.chassis import analytics as chassis_analytics
from services.chassis import audit_log, cursor, failpoints, logs, tracing
from services.chassis import timeline as chassis_timeline
from services.chassis.crypto import EmailHasher, Keyring
from services.chassis.db import Database
from services.chassis.errors import Invalid
from services.chassis.fields import as_uuid, in_range
from services.wallet import analytics, queries, timeline
from services.wallet.commands import adjustments, holds, profiles
from services.wallet.commands.adjustments import Adjustment
from services.wallet.fields import as_text
from services.wallet.queries import Profile
from services.wallet.rules import MAX_POINTS, Capture, Entry, Hold

log = logs.get(__name__)

MAX_CAPTURES = 100
# RFC 5321: 64 of the local part, @, 255 of the domain.
_MAX_EMAIL = 320
_MAX_DESCRIPTION = 500
_MAX_ACTOR = 255
_MAX_TRACEPARENT = 55

_TYPES = {
    "purchase": wallet_pb2.TRANSACTION_TYPE_PURCHASE,
    "spend": wallet_pb2.TRANSACTION_TYPE_SPEND,
    "refund": wallet_pb2.TRANSACTION_TYPE_REFUND,
    "reversal": wallet_pb2.TRANSACTION_TYPE_REVERSAL,
    "adjustment": wallet_pb2.TRANSACTION_TYPE_ADJUSTMENT,
}
_STATUSES = {
    "held": wallet_pb2.HOLD_STATUS_HELD,
    "captured": wallet_pb2.HOLD_STATUS_CAPTURED,
    "released": wallet_pb2.HOLD_STATUS_RELEASED,
}
_OUTCOMES = {
    "captured": wallet_pb2.CAPTURE_OUTCOME_CAPTURED,
    "released": wallet_pb2.CAPTURE_OUTCOME_RELEASED,
    "not_found": wallet_pb2.CAPTURE_OUTCOME_NOT_FOUND,
}


class WalletServicer(wallet_pb2_grpc.WalletServiceServicer):
    """One method for each RPC of wallet.proto."""

    def __init__(
        self, *, database: Database, keyring: Keyring, email_hasher: EmailHasher, hold_seconds: int
    ) -> None:
        self._database = database
        self._counting = chassis_analytics.Counting(database)
        self._keyring = keyring
        self._email_hasher = email_hasher
        self._hold_seconds = hold_seconds

    async def GetProfile(
        self, request: wallet_pb2.GetProfileRequest, _context: object
    ) -> wallet_pb2.GetProfileResponse:
        user_id = as_uuid(request.user_id, field="user_id")
        email = as_text(request.email, field="email", high=_MAX_EMAIL)
        async with self._database.customer(user_id) as connection:
            profile = await queries.find_profile(connection, user_id=user_id)
            email_hmac = self._email_hasher.digest(email) if email else profile.email_hmac
            if email_hmac != profile.email_hmac:
                assert email_hmac is not None, "an e-mail has a hash"
                sealed = self._keyring.seal(email.encode(), place=email_place(user_id))
                await profiles.keep_email(connection, user_id=user_id, sealed=sealed, email_hmac=email_hmac)
                profile = Profile(user_id, profile.balance, sealed, email_hmac)
        return wallet_pb2.GetProfileResponse(profile=self._profile_message(profile))

    async def ListTransactions(
        self, request: wallet_pb2.ListTransactionsRequest, _context: object
    ) -> wallet_pb2.ListTransactionsResponse:
        user_id = as_uuid(request.user_id, field="user_id")
        limit = cursor.page_size(request.limit)
        before_seq = cursor.decode_int(request.cursor)
        async with self._database.customer(user_id) as connection:
            entries = await queries.list_entries(
                connection, user_id=user_id, before_seq=before_seq, limit=limit + 1
            )
        items, following = cursor.page(
            entries, limit=limit, message=_transaction_message, key=lambda entry: (entry.seq,)
        )
        return wallet_pb2.ListTransactionsResponse(items=items, next_cursor=following)

    async def ReservePoints(
        self, request: wallet_pb2.ReservePointsRequest, _context: object
    ) -> wallet_pb2.ReservePointsResponse:
        user_id = as_uuid(request.user_id, field="user_id")
        order_id = as_uuid(request.order_id, field="order_id")
        points = in_range(request.points, field="points", low=1, high=MAX_POINTS)
        try:
            hold = await self._reserve(holds.reserve_points, user_id, order_id, points)
        except psycopg.errors.UniqueViolation:
            # The order has a hold: ours, asked for again, or somebody else's.
            hold = await self._reserve(holds.repeat_reserve, user_id, order_id, points)
        failpoints.hit("wallet.reserved.committed")
        log.debug("points.reserved", order_id=request.order_id, points=points)
        return wallet_pb2.ReservePointsResponse(hold=_hold_message(hold))

    async def _reserve(self, reserve: holds.Reserve, user_id: UUID, order_id: UUID, points: int) -> Hold:
        async with self._database.customer_sql(user_id) as connection:
            hold = await reserve(
                connection,
                user_id=user_id,
                order_id=order_id,
                points=points,
                hold_seconds=self._hold_seconds,
            )
            failpoints.hit("wallet.reserved.writing")
        return hold

    async def CapturePoints(
        self, request: wallet_pb2.CapturePointsRequest, _context: object
    ) -> wallet_pb2.CapturePointsResponse:
        in_range(len(request.captures), field="captures", low=1, high=MAX_CAPTURES)
        captures = [_capture(message) for message in request.captures]
        async with self._database.worker_sql() as connection:
            outcomes = await holds.capture_points(connection, captures)
            failpoints.hit("wallet.captured.writing")
        failpoints.hit("wallet.captured.committed")
        log.debug("points.captured", captures=len(captures))
        return wallet_pb2.CapturePointsResponse(
            results=[
                wallet_pb2.CapturePointsResponse.Result(
                    order_id=str(capture.order_id), outcome=_OUTCOMES[outcome]
                )
                for capture, outcome in zip(captures, outcomes, strict=True)
            ]
        )

    async def ReleasePoints(
        self, request: wallet_pb2.ReleasePointsRequest, _context: object
    ) -> wallet_pb2.ReleasePointsResponse:
        user_id = as_uuid(request.user_id, field="user_id")
        order_id = as_uuid(request.order_id, field="order_id")
        async with self._database.worker() as connection:
            status = await holds.release_points(connection, user_id=user_id, order_id=order_id)
            failpoints.hit("wallet.released.writing")
        failpoints.hit("wallet.released.committed")
        log.info("hold.release_answered", order_id=request.order_id, status=status)
        return wallet_pb2.ReleasePointsResponse(status=_STATUSES[status])

    async def RefundOrderPoints(
        self, request: wallet_pb2.RefundOrderPointsRequest, _context: object
    ) -> wallet_pb2.RefundOrderPointsResponse:
        points = in_range(request.points, field="points", low=1, high=MAX_POINTS)
        async with self._database.worker() as connection:
            entry = await holds.refund_order_points(
                connection,
                user_id=as_uuid(request.user_id, field="user_id"),
                order_id=as_uuid(request.order_id, field="order_id"),
                refund_id=as_uuid(request.refund_id, field="refund_id"),
                points=points,
                reason=as_text(request.reason, field="reason", high=_MAX_DESCRIPTION),
            )
            failpoints.hit("wallet.refunded.writing")
        failpoints.hit("wallet.refunded.committed")
        log.info("points.refunded", order_id=request.order_id, refund_id=request.refund_id, points=points)
        return wallet_pb2.RefundOrderPointsResponse(transaction=_transaction_message(entry))

    async def AdjustPoints(
        self, request: wallet_pb2.AdjustPointsRequest, _context: object
    ) -> wallet_pb2.AdjustPointsResponse:
        adjustment = Adjustment(
            id=as_uuid(request.adjustment_id, field="adjustment_id"),
            user_id=as_uuid(request.user_id, field="user_id"),
            points=_signed(request.points),
            reason=as_text(request.reason, field="reason", low=1, high=_MAX_DESCRIPTION),
        )
        actor = as_text(request.actor, field="actor", low=1, high=_MAX_ACTOR)
        async with self._database.worker() as connection:
            entry, profile = await adjustments.adjust_points(connection, adjustment, actor=actor)
            failpoints.hit("wallet.adjusted.writing")
        failpoints.hit("wallet.adjusted.committed")
        log.info(
            "points.adjusted", adjustment_id=request.adjustment_id, points=adjustment.points, actor=actor
        )
        return wallet_pb2.AdjustPointsResponse(
            transaction=_transaction_message(entry), profile=self._profile_message(profile)
        )

    async def GetTimeline(
        self, request: wallet_pb2.GetTimelineRequest, _context: object
    ) -> wallet_pb2.GetTimelineResponse:
        of = chassis_timeline.wanted(request)
        async with self._database.worker() as connection:
            found = await timeline.read_timeline(connection, of)
        return wallet_pb2.GetTimelineResponse(
            entries=[chassis_timeline.as_message("wallet", entry, timeline.SUMMARIES) for entry in found]
        )

    async def GetAnalytics(
        self, request: wallet_pb2.GetAnalyticsRequest, _context: object
    ) -> wallet_pb2.GetAnalyticsResponse:
        within = chassis_analytics.wanted(request)
        async with self._counting.turn() as connection:
            counted = await analytics.count_points(connection, within)
        return wallet_pb2.GetAnalyticsResponse(
            moved=wallet_pb2.GetAnalyticsResponse.Moved(
                sold=counted.sold,
                spent=counted.spent,
                refunded=counted.refunded,
                reversed=counted.reversed,
                adjusted=counted.adjusted,
            ),
            now=wallet_pb2.GetAnalyticsResponse.Balances(
                outstanding=counted.outstanding, held=counted.held, debt=counted.debt
            ),
        )

    async def ListAuditLog(
        self, request: wallet_pb2.ListAuditLogRequest, _context: object
    ) -> wallet_pb2.ListAuditLogResponse:
        of = audit_log.wanted(request)
        async with self._database.worker() as connection:
            found = await audit_log.read(connection, of)
        return wallet_pb2.ListAuditLogResponse(
            entries=[audit_log.as_message("wallet", entry) for entry in found]
        )

    def _profile_message(self, profile: Profile) -> wallet_pb2.Profile:
        sealed = profile.email
        return wallet_pb2.Profile(
            id=str(profile.id),
            email=self._keyring.open(sealed, place=email_place(profile.id)).decode() if sealed else "",
            points=profile.balance.points,
            points_held=profile.balance.held,
            points_available=profile.balance.available,
            points_debt=profile.balance.debt,
        )


def email_place(user_id: UUID) -> str:
    """Where a profile's e-mail is sealed for: it opens in no other row."""
    return f"profiles.email:{user_id}"


def _signed(points: int) -> int:
    if points == 0:
        raise Invalid("INVALID_FIELD", "points must not be 0", field="points")
    return in_range(points, field="points", low=-MAX_POINTS, high=MAX_POINTS)


def _capture(message: wallet_pb2.CapturePointsRequest.Capture) -> Capture:
    return Capture(
        user_id=as_uuid(message.user_id, field="user_id"),
        order_id=as_uuid(message.order_id, field="order_id"),
        description=as_text(message.description, field="description", high=_MAX_DESCRIPTION),
        trace_id=tracing.trace_id_of(
            as_text(message.traceparent, field="traceparent", high=_MAX_TRACEPARENT)
        ),
    )


def _hold_message(hold: Hold) -> wallet_pb2.Hold:
    due_at = Timestamp()
    due_at.FromDatetime(hold.due_at)
    return wallet_pb2.Hold(
        id=str(hold.id),
        user_id=str(hold.user_id),
        order_id=str(hold.order_id),
        points=hold.points,
        status=_STATUSES[hold.status],
        due_at=due_at,
    )


def _transaction_message(entry: Entry) -> wallet_pb2.Transaction:
    created_at = Timestamp()
    created_at.FromDatetime(entry.created_at)
    return wallet_pb2.Transaction(
        id=str(entry.id),
        seq=entry.seq,
        amount=entry.amount,
        type=_TYPES[entry.type],
        description=entry.description,
        order_id=str(entry.order_id) if entry.order_id else "",
        balance_after=entry.balance_after,
        created_at=created_at,
    )
