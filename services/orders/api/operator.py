"""What operators see and do about orders. Each action is audited in the transaction that does it."""

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any
from uuid import UUID

from protos.orders.v1 import orders_pb2 as pb
from protos.orders.v1 import orders_pb2_grpc
from services.chassis import analytics as chassis_analytics
from services.chassis import audit_log, cursor, failpoints
from services.chassis import timeline as chassis_timeline
from services.chassis.db import Database
from services.chassis.errors import Invalid
from services.chassis.fields import as_text, as_uuid
from services.orders import errors, refund_saga
from services.orders.api import debts
from services.orders.api.messages import as_order
from services.orders.api.operator_messages import as_analytics, as_found, as_mail, as_refund, as_saga
from services.orders.api.shipping import as_shipment
from services.orders.commands import interventions, refunds
from services.orders.commands.interventions import Decision
from services.orders.commands.mails import Verdict, resolve_mail
from services.orders.commands.refunds import Wanted
from services.orders.commands.shipping import ship_order
from services.orders.queries import analytics, mails, sagas, timeline
from services.orders.queries.orders import find_by_number, find_order
from services.orders.queries.refunds import list_refunds
from services.orders.rules import ORDER_NUMBER, sum_quantities
from services.orders.saga import Saga

_STATUSES = ("running", "undoing", "done", "undone", "stuck")
_RESOLUTIONS = (pb.MAIL_RESOLUTION_SEND_AGAIN, pb.MAIL_RESOLUTION_DELIVERED)
_MOST_FOUND = 10
_LONGEST_NAME = 100
_LONGEST_ACTOR = 255
_LONGEST_REASON = 500


class OrdersOperatorService(orders_pb2_grpc.OrdersOperatorServiceServicer):
    """One method for each RPC. `wake` makes the saga runner and the mailer look."""

    def __init__(self, database: Database, *, table: Iterable[Saga], wake: Callable[[], None]) -> None:
        self._database = database
        self._counting = chassis_analytics.Counting(database)
        self._table = {saga.name: saga for saga in table}
        self._wake = wake

    async def FindOrders(self, request: pb.FindOrdersRequest, _: Any) -> pb.FindOrdersResponse:
        number = request.number.lower()
        if not ORDER_NUMBER.fullmatch(number):
            raise _invalid("number", "12 hexadecimal digits")
        async with self._database.worker() as connection:
            found = await find_by_number(connection, number, limit=_MOST_FOUND)
        return pb.FindOrdersResponse(orders=[as_found(order) for order in found])

    async def InspectOrder(self, request: pb.InspectOrderRequest, _: Any) -> pb.InspectOrderResponse:
        order_id = as_uuid(request.order_id, field="order_id")
        async with self._database.worker() as connection:
            order = await find_order(connection, order_id)
            if order is None:
                raise errors.order_not_found(order_id)
            given_back = await list_refunds(connection, order_id)
            runs = await sagas.runs_of(connection, order_id)
        return pb.InspectOrderResponse(
            order=as_order(order),
            user_id=str(order.user_id),
            refunds=[as_refund(refund) for refund in given_back],
            sagas=[self._saga(run) for run in runs],
        )

    async def RefundOrder(self, request: pb.RefundOrderRequest, _: Any) -> pb.RefundOrderResponse:
        order_id = as_uuid(request.order_id, field="order_id")
        actor, reason = _who_and_why(request.actor, request.reason)
        wanted = Wanted(
            refund_id=as_uuid(request.refund_id, field="refund_id"),
            pieces=sum_quantities(
                (as_uuid(item.product_id, field="product_id"), item.quantity) for item in request.items
            ),
            return_stock=request.return_stock,
            actor=actor,
            reason=reason,
            request_hash=sha256(request.SerializeToString(deterministic=True)).digest(),
        )
        async with self._database.worker() as connection:
            order = await find_order(connection, order_id)
            if order is None:
                raise errors.order_not_found(order_id)
            await refund_saga.begin(connection, order_id=order_id, user_id=order.user_id)
            refund, is_new = await refunds.request_refund(connection, order_id, wanted)
            if is_new:
                await audit_log.append(
                    connection,
                    actor=actor,
                    action="order.refunded",
                    subject=str(order_id),
                    reason=reason,
                    details={
                        "refund_id": str(refund.id),
                        "cents": refund.amount_cents,
                        "points": refund.amount_points,
                    },
                )
            failpoints.hit("orders.refund.requesting")
        failpoints.hit("orders.refund.requested")
        self._wake()
        return pb.RefundOrderResponse(refund=as_refund(refund))

    async def ListDebts(self, request: pb.ListDebtsRequest, _: Any) -> pb.ListDebtsResponse:
        return await debts.list_debts(self._database, request)

    async def DecideDebt(self, request: pb.DecideDebtRequest, _: Any) -> pb.DecideDebtResponse:
        actor, reason = _who_and_why(request.actor, request.reason)
        answer = await debts.decide_debt(self._database, request, actor=actor, reason=reason)
        self._wake()
        return answer

    async def ShipOrder(self, request: pb.ShipOrderRequest, _: Any) -> pb.ShipOrderResponse:
        order_id = as_uuid(request.order_id, field="order_id")
        actor, reason = _who_and_why(request.actor, request.reason)
        shipment = as_shipment(request, actor=actor, reason=reason)
        async with self._database.worker() as connection:
            order = await ship_order(connection, order_id, shipment)
        return pb.ShipOrderResponse(order=as_order(order))

    async def ListMails(self, request: pb.ListMailsRequest, _: Any) -> pb.ListMailsResponse:
        limit = cursor.page_size(request.limit)
        if request.status and request.status not in mails.UNSENT:
            raise _invalid("status", f"one of {', '.join(mails.UNSENT)}")
        async with self._database.worker() as connection:
            found = await mails.list_unsent(
                connection,
                statuses=(request.status,) if request.status else mails.UNSENT,
                limit=limit + 1,
                after=_after(request.cursor),
            )
        items, following = cursor.page(
            found, limit=limit, message=as_mail, key=lambda mail: (mail.order_id, mail.kind)
        )
        return pb.ListMailsResponse(items=items, next_cursor=following)

    async def ResolveMail(self, request: pb.ResolveMailRequest, _: Any) -> pb.ResolveMailResponse:
        actor, reason = _who_and_why(request.actor, request.reason)
        if request.resolution not in _RESOLUTIONS:
            raise _invalid("resolution", "SEND_AGAIN or DELIVERED")
        verdict = Verdict(
            order_id=as_uuid(request.order_id, field="order_id"),
            kind=as_text(request.kind, field="kind", longest=_LONGEST_NAME),
            is_delivered=request.resolution == pb.MAIL_RESOLUTION_DELIVERED,
            actor=actor,
            reason=reason,
        )
        async with self._database.worker() as connection:
            mail = await resolve_mail(connection, verdict)
        self._wake()
        return pb.ResolveMailResponse(mail=as_mail(mail))

    async def GetTimeline(self, request: pb.GetTimelineRequest, _: Any) -> pb.GetTimelineResponse:
        of = chassis_timeline.wanted(request)
        async with self._database.worker() as connection:
            found = await timeline.read_timeline(connection, of)
        return pb.GetTimelineResponse(
            entries=[chassis_timeline.as_message("orders", entry, timeline.SUMMARIES) for entry in found]
        )

    async def GetAnalytics(self, request: pb.GetAnalyticsRequest, _: Any) -> pb.GetAnalyticsResponse:
        within = chassis_analytics.wanted(request)
        async with self._counting.turn() as connection:
            counted = await analytics.count_orders(connection, within)
        return as_analytics(counted)

    async def ListAuditLog(self, request: pb.ListAuditLogRequest, _: Any) -> pb.ListAuditLogResponse:
        of = audit_log.wanted(request)
        async with self._database.worker() as connection:
            found = await audit_log.read(connection, of)
        return pb.ListAuditLogResponse(entries=[audit_log.as_message("orders", entry) for entry in found])

    async def ListSagas(self, request: pb.ListSagasRequest, _: Any) -> pb.ListSagasResponse:
        limit = cursor.page_size(request.limit)
        if request.status and request.status not in _STATUSES:
            raise _invalid("status", f"one of {', '.join(_STATUSES)}")
        async with self._database.worker() as connection:
            found = await sagas.list_runs(
                connection,
                statuses=(request.status,) if request.status else sagas.OPEN,
                saga=as_text(request.saga, field="saga", longest=_LONGEST_NAME, shortest=0),
                limit=limit + 1,
                after=_after(request.cursor),
            )
        items, following = cursor.page(
            found, limit=limit, message=self._saga, key=lambda run: (run.order_id, run.saga)
        )
        return pb.ListSagasResponse(items=items, next_cursor=following)

    async def RetrySaga(self, request: pb.RetrySagaRequest, _: Any) -> pb.RetrySagaResponse:
        decision = _decision(request)
        async with self._database.worker() as connection:
            saga = self._table.get(decision.saga)
            await interventions.retry_saga(connection, decision, waits_at=saga.waits_at if saga else ())
        return pb.RetrySagaResponse(saga=await self._after(decision))

    async def CompensateSaga(self, request: pb.CompensateSagaRequest, _: Any) -> pb.CompensateSagaResponse:
        decision = _decision(request)
        async with self._database.worker() as connection:
            saga = self._table.get(decision.saga)
            await interventions.compensate_saga(
                connection, decision, before_pivot=saga.before_pivot if saga else ()
            )
        return pb.CompensateSagaResponse(saga=await self._after(decision))

    async def _after(self, decision: Decision) -> pb.Saga:
        self._wake()
        async with self._database.worker() as connection:
            run = await sagas.find_run(connection, order_id=decision.order_id, saga=decision.saga)
        assert run is not None, "runs are never deleted"
        return self._saga(run)

    def _saga(self, run: sagas.SeenRun) -> pb.Saga:
        saga = self._table.get(run.saga)
        return as_saga(run, tuple(step.name for step in saga.steps) if saga else ())


def _decision(request: pb.RetrySagaRequest | pb.CompensateSagaRequest) -> Decision:
    actor, reason = _who_and_why(request.actor, request.reason)
    return Decision(
        order_id=as_uuid(request.order_id, field="order_id"),
        saga=as_text(request.saga, field="saga", longest=_LONGEST_NAME),
        actor=actor,
        reason=reason,
    )


def _who_and_why(actor: str, reason: str) -> tuple[str, str]:
    return (
        as_text(actor, field="actor", longest=_LONGEST_ACTOR),
        as_text(reason, field="reason", longest=_LONGEST_REASON),
    )


def _invalid(field: str, expected: str) -> Invalid:
    return Invalid("INVALID_FIELD", f"{field} must be {expected}", field=field)


def _after(text: str) -> tuple[UUID, str] | None:
    decoded = cursor.decode_text(text)
    if decoded is None:
        return None
    order_id, _, saga = decoded.partition("|")
    try:
        return UUID(order_id), saga
    except ValueError as error:
        raise Invalid("INVALID_CURSOR", "the cursor is not one of ours") from error
