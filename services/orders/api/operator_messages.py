"""Rows to the messages that only operators see."""

from collections.abc import Mapping
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from protos.orders.v1 import orders_pb2 as pb
from services.orders.api.messages import as_product
from services.orders.queries.analytics import Counted
from services.orders.queries.catalog import StockedProduct
from services.orders.queries.mails import SeenMail
from services.orders.queries.orders import FoundOrder
from services.orders.queries.refunds import Refund
from services.orders.queries.sagas import SeenRun
from services.orders.queries.stock import StockMovement
from services.orders.refund_rules import RefundStatus

_REFUND_STATUSES = {
    RefundStatus.REQUESTED: pb.ORDER_REFUND_STATUS_REQUESTED,
    RefundStatus.PENDING: pb.ORDER_REFUND_STATUS_PENDING,
    RefundStatus.SUCCEEDED: pb.ORDER_REFUND_STATUS_SUCCEEDED,
    RefundStatus.FAILED: pb.ORDER_REFUND_STATUS_FAILED,
}
STOCK_REASONS: Mapping[str, "pb.StockReason.ValueType"] = {
    "received": pb.STOCK_REASON_RECEIVED,
    "corrected": pb.STOCK_REASON_CORRECTED,
    "sold": pb.STOCK_REASON_SOLD,
    "returned": pb.STOCK_REASON_RETURNED,
}


def as_stocked_product(product: StockedProduct) -> pb.StockedProduct:
    return pb.StockedProduct(
        product=as_product(product),
        version=product.version,
        asset_key=product.asset_key,
        stock_quantity=product.stock_quantity,
        reserved_quantity=product.reserved_quantity,
        created_at=_stamp(product.created_at),
        updated_at=_stamp(product.updated_at),
    )


def as_stock_movement(movement: StockMovement) -> pb.StockMovement:
    return pb.StockMovement(
        id=str(movement.id),
        product_id=str(movement.product_id),
        delta=movement.delta,
        reason=STOCK_REASONS[movement.reason],
        order_id="" if movement.order_id is None else str(movement.order_id),
        actor=movement.actor,
        note=movement.note,
        created_at=_stamp(movement.created_at),
    )


def as_refund(refund: Refund) -> pb.OrderRefund:
    return pb.OrderRefund(
        id=str(refund.id),
        order_id=str(refund.order_id),
        status=_REFUND_STATUSES[refund.status],
        amount_cents=refund.amount_cents,
        amount_points=refund.amount_points,
        items=[
            pb.OrderRefund.Item(
                product_id=str(line.product_id), quantity=line.quantity, cents=line.cents, points=line.points
            )
            for line in refund.lines
        ],
        actor=refund.actor,
        reason=refund.reason,
        return_stock=refund.return_stock,
        failure_reason=refund.failure_reason or "",
        created_at=_stamp(refund.created_at),
        finished_at=None if refund.finished_at is None else _stamp(refund.finished_at),
    )


def as_saga(run: SeenRun, steps: tuple[str, ...]) -> pb.Saga:
    return pb.Saga(
        order_id=str(run.order_id),
        saga=run.saga,
        user_id=str(run.user_id),
        status=run.status,
        step=run.step,
        steps=steps,
        undo_reason=run.undo_reason or "",
        attempts=run.attempts,
        last_error=run.last_error or "",
        next_attempt_at=_stamp(run.next_attempt_at),
        created_at=_stamp(run.created_at),
        updated_at=_stamp(run.updated_at),
        leased=run.is_leased,
    )


def as_found(order: FoundOrder) -> pb.FoundOrder:
    return pb.FoundOrder(
        order_id=str(order.id), user_id=str(order.user_id), created_at=_stamp(order.created_at)
    )


def as_mail(mail: SeenMail) -> pb.Mail:
    return pb.Mail(
        order_id=str(mail.order_id),
        kind=mail.kind,
        user_id=str(mail.user_id),
        status=mail.status,
        attempts=mail.attempts,
        last_error=mail.last_error or "",
        created_at=_stamp(mail.created_at),
        handed_at=None if mail.handed_at is None else _stamp(mail.handed_at),
        sent_at=None if mail.sent_at is None else _stamp(mail.sent_at),
    )


def as_analytics(counted: Counted) -> pb.GetAnalyticsResponse:
    of = pb.GetAnalyticsResponse
    return of(
        conversion=of.Conversion(**counted.conversion),
        methods=[of.MethodUse(**each) for each in counted.methods],
        failures=[of.Failure(**each) for each in counted.failures],
        cents=of.Totals(**counted.cents) if counted.cents else None,
        points=of.Totals(**counted.points) if counted.points else None,
        top_products=[of.ProductSales(**each) for each in counted.top_products],
    )


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
