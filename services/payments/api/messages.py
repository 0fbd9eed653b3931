"""Values into messages, and the checks of fields that both faces share."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from protos.payments.v1 import payments_pb2 as pb
from services.payments import errors
from services.payments.analytics import Counted
from services.payments.commands.reconciliations import Reconciliation
from services.payments.listings import ParkedPayment, StoredEvent
from services.payments.rules import Checkout, Package, Plan, Refund, Status, Subscription

_STATUSES = {
    Status.CREATING: pb.CHECKOUT_STATUS_CREATING,
    Status.OPEN: pb.CHECKOUT_STATUS_OPEN,
    Status.PROCESSING: pb.CHECKOUT_STATUS_PROCESSING,
    Status.PAID: pb.CHECKOUT_STATUS_PAID,
    Status.EXPIRED: pb.CHECKOUT_STATUS_EXPIRED,
    Status.FAILED: pb.CHECKOUT_STATUS_FAILED,
}


def checked_text(value: str, *, field: str, longest: int, shortest: int = 0) -> str:
    if shortest <= len(value) <= longest and "\0" not in value:
        return value
    raise errors.invalid_field(field, f"{shortest} to {longest} characters")


def package_message(package: Package) -> pb.Package:
    return pb.Package(
        id=package.id,
        name=package.name,
        points=package.points,
        price_cents=package.price_cents,
        currency=package.currency,
    )


def checkout_message(checkout: Checkout) -> pb.Checkout:
    return pb.Checkout(
        id=str(checkout.id),
        status=_STATUSES[checkout.status],
        order_id=str(checkout.order_id or ""),
        package_id=checkout.package_id or "",
        points=checkout.points,
        amount_cents=checkout.due_cents,
        currency=checkout.currency,
        session_id=checkout.session_id or "",
        url=(checkout.url or "") if checkout.status is Status.OPEN else "",
        payment_intent_id=checkout.payment_intent_id or "",
        expires_at=timestamp(checkout.expires_at),
        created_at=timestamp(checkout.created_at),
        plan_id=checkout.plan_id or "",
        version=checkout.version,
        failure_reason=checkout.failure_reason or "",
        discount_cents=checkout.discount_cents,
    )


def timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def time_or_none(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else timestamp(moment)


_INTERVALS = {"month": pb.BILLING_INTERVAL_MONTH, "year": pb.BILLING_INTERVAL_YEAR}
_SUBSCRIPTION_STATUSES = {
    name.removeprefix("SUBSCRIPTION_STATUS_").lower(): value for name, value in pb.SubscriptionStatus.items()
}
_REFUND_STATUSES = {
    "creating": pb.REFUND_STATUS_CREATING,
    "pending": pb.REFUND_STATUS_PENDING,
    "requires_action": pb.REFUND_STATUS_PENDING,
    "succeeded": pb.REFUND_STATUS_SUCCEEDED,
    "failed": pb.REFUND_STATUS_FAILED,
    "canceled": pb.REFUND_STATUS_CANCELED,
}
EVENT_STATUSES = {
    "received": pb.STRIPE_EVENT_STATUS_RECEIVED,
    "processed": pb.STRIPE_EVENT_STATUS_PROCESSED,
    "ignored": pb.STRIPE_EVENT_STATUS_IGNORED,
    "failed": pb.STRIPE_EVENT_STATUS_FAILED,
    "set_aside": pb.STRIPE_EVENT_STATUS_SET_ASIDE,
}
QUARANTINE_STATUSES = {
    "parked": pb.QUARANTINE_STATUS_PARKED,
    "fulfilled": pb.QUARANTINE_STATUS_FULFILLED,
    "refunding": pb.QUARANTINE_STATUS_REFUNDING,
    "refunded": pb.QUARANTINE_STATUS_REFUNDED,
    "settled_outside": pb.QUARANTINE_STATUS_SETTLED_OUTSIDE,
    "written_off": pb.QUARANTINE_STATUS_WRITTEN_OFF,
}
_RUN_STATUSES = {
    "running": pb.RECONCILIATION_STATUS_RUNNING,
    "done": pb.RECONCILIATION_STATUS_DONE,
}


def name_of(value: int, names: Mapping[str, Any]) -> str | None:
    """The stored name of an enum's value; None for UNSPECIFIED, and Invalid for one that is new."""
    if value == 0:
        return None
    for name, known in names.items():
        if known == value:
            return name
    raise errors.invalid_field("status", "one of the enum's values")


def plan_message(plan: Plan) -> pb.Plan:
    return pb.Plan(
        id=plan.id,
        name=plan.name,
        points=plan.points,
        price_cents=plan.price_cents,
        currency=plan.currency,
        interval=_INTERVALS[plan.interval],
    )


def subscription_message(subscription: Subscription) -> pb.Subscription:
    return pb.Subscription(
        id=str(subscription.id),
        plan_id=subscription.plan_id,
        status=_SUBSCRIPTION_STATUSES[subscription.status],
        points=subscription.points,
        price_cents=subscription.price_cents,
        currency=subscription.currency,
        interval=_INTERVALS[subscription.interval],
        current_period_end=timestamp(subscription.current_period_end),
        cancel_at_period_end=subscription.cancel_at_period_end,
        ended_at=time_or_none(subscription.ended_at),
        created_at=timestamp(subscription.created_at),
        cancel_at=time_or_none(subscription.cancel_at),
        changed_outside=subscription.changed_outside,
    )


def refund_message(refund: Refund) -> pb.Refund:
    return pb.Refund(
        id=str(refund.id),
        order_id=str(refund.order_id or ""),
        amount_cents=refund.amount_cents,
        currency=refund.currency,
        status=_REFUND_STATUSES[refund.status],
        failure_reason=refund.failure_reason or "",
        stripe_refund_id=refund.stripe_refund_id or "",
        created_at=timestamp(refund.created_at),
    )


def event_message(event: StoredEvent) -> pb.StripeEvent:
    return pb.StripeEvent(
        id=event.id,
        type=event.type,
        status=EVENT_STATUSES[event.status],
        object_id=event.object_id or "",
        payment_intent_id=event.payment_intent_id or "",
        attempts=event.attempts,
        error=event.error or "",
        created_at=timestamp(event.created),
        received_at=timestamp(event.received_at),
        processed_at=time_or_none(event.processed_at),
        effects=[pb.StripeEventEffect(**effect) for effect in event.effects],
        failed_at=time_or_none(event.failed_at),
        set_aside_at=time_or_none(event.set_aside_at),
        set_aside_by=event.set_aside_by or "",
        set_aside_reason=event.set_aside_reason or "",
        acknowledged_at=time_or_none(event.acknowledged_at),
    )


def parked_message(parked: ParkedPayment) -> pb.QuarantinedPayment:
    return pb.QuarantinedPayment(
        id=str(parked.id),
        reason=parked.reason,
        status=QUARANTINE_STATUSES[parked.status],
        session_id=parked.session_id or "",
        payment_intent_id=parked.payment_intent_id or "",
        invoice_id=parked.invoice_id or "",
        checkout_id=str(parked.checkout_id or ""),
        amount_cents=parked.amount_cents or 0,
        currency=parked.currency or "",
        user_id=str(parked.user_id or ""),
        order_id=str(parked.order_id or ""),
        points=parked.points or 0,
        created_at=timestamp(parked.created_at),
        resolved_at=time_or_none(parked.resolved_at),
        resolved_by=parked.resolved_by or "",
        resolution_reason=parked.resolution_reason or "",
        due_cents=parked.due_cents,
        settled_outside_cents=parked.settled_outside_cents,
        settlement_reference=parked.settlement_reference or "",
        written_off_cents=parked.written_off_cents,
    )


def run_message(run: Reconciliation) -> pb.Reconciliation:
    return pb.Reconciliation(
        id=str(run.id),
        status=_RUN_STATUSES[run.status],
        since=timestamp(run.since),
        started_at=timestamp(run.started_at),
        finished_at=time_or_none(run.finished_at),
        events_seen=run.events_seen,
        events_missing=run.events_missing,
        objects_seen=run.objects_seen,
        objects_changed=run.objects_changed,
        percent=run.percent,
        drift=[pb.Drift(kind=kind, count=count) for kind, count in sorted(run.drift.items())],
        error=run.error or "",
    )


def analytics_message(counted: Counted) -> pb.GetAnalyticsResponse:
    of = pb.GetAnalyticsResponse
    return of(
        revenue=of.Revenue(
            currency=counted.currency,
            orders=of.Source(payments=counted.order_payments, cents=counted.order_cents),
            points_packages=of.Source(payments=counted.package_payments, cents=counted.package_cents),
            subscriptions=of.Source(payments=counted.subscription_payments, cents=counted.subscription_cents),
            refunded_cents=counted.refunded_cents,
            disputed_cents=counted.disputed_cents,
            lost_cents=counted.lost_cents,
        ),
        declined_payments=counted.declined_payments,
        declined_invoices=counted.declined_invoices,
        webhooks=of.Webhooks(
            received=counted.received,
            processed=counted.processed,
            ignored=counted.ignored,
            failing=counted.failing,
            lag_ms=_percentiles(counted.lag_ms),
            processing_ms=_percentiles(counted.processing_ms),
        ),
    )


def _percentiles(of: Sequence[float] | None) -> pb.GetAnalyticsResponse.Percentiles | None:
    if of is None:
        return None
    p50, p95, p99 = map(round, of)
    return pb.GetAnalyticsResponse.Percentiles(p50=p50, p95=p95, p99=p99)
