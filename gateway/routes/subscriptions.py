"""Subscriptions: the plans, beginning one, and what became of it."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from gateway import idempotency
from gateway.backends import PAYMENTS_SECONDS
from gateway.holdings import telling_what_is_held
from gateway.openapi import BODY, KEYED, PAGED, customer_problems, public_problems
from gateway.routes.points import OpenedCheckout, as_opened
from gateway.routing import CustomerRoute, PublicRoute, backends_of, customer_of
from gateway.schemas import ApiModel, Cursor, Limit, SubscriptionId, as_time
from protos.payments.v1 import payments_pb2
from services.chassis.grpc_client import call

router = APIRouter(route_class=CustomerRoute, tags=["subscriptions"])
public_router = APIRouter(route_class=PublicRoute, tags=["subscriptions"])

Interval = Literal["month", "year"]
SubscriptionStatus = Literal[
    "incomplete", "incomplete_expired", "trialing", "active", "past_due", "canceled", "unpaid", "paused"
]

INTERVALS: dict[int, Interval] = {
    payments_pb2.BILLING_INTERVAL_MONTH: "month",
    payments_pb2.BILLING_INTERVAL_YEAR: "year",
}
STATUSES: dict[int, SubscriptionStatus] = {
    payments_pb2.SUBSCRIPTION_STATUS_INCOMPLETE: "incomplete",
    payments_pb2.SUBSCRIPTION_STATUS_INCOMPLETE_EXPIRED: "incomplete_expired",
    payments_pb2.SUBSCRIPTION_STATUS_TRIALING: "trialing",
    payments_pb2.SUBSCRIPTION_STATUS_ACTIVE: "active",
    payments_pb2.SUBSCRIPTION_STATUS_PAST_DUE: "past_due",
    payments_pb2.SUBSCRIPTION_STATUS_CANCELED: "canceled",
    payments_pb2.SUBSCRIPTION_STATUS_UNPAID: "unpaid",
    payments_pb2.SUBSCRIPTION_STATUS_PAUSED: "paused",
}


class Plan(ApiModel):
    """`points` arrive for each `interval` that is paid for."""

    id: str
    name: str
    points: int
    price_cents: int
    currency: str
    interval: Interval


class PlanList(ApiModel):
    """All of them: `nextCursor` is always null."""

    items: list[Plan]
    next_cursor: None = None


class WantedPlan(ApiModel):
    plan_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x20-\x7e]+$")]


class Subscription(ApiModel):
    """`id` is that of the checkout that began it; points and price are those agreed then."""

    id: str
    plan_id: str
    status: SubscriptionStatus
    points: int
    price_cents: int
    currency: str
    interval: Interval
    current_period_end: datetime
    cancel_at_period_end: bool
    ended_at: datetime | None
    created_at: datetime
    # When it ends by itself, if that is known; `cancel_at_period_end` tells whether it does.
    cancel_at: datetime | None
    # The shop changed it by hand: what is billed is not what is said here.
    changed_outside: bool


class SubscriptionPage(ApiModel):
    items: list[Subscription]
    next_cursor: str | None


@public_router.get("/api/plans", operation_id="listPlans", responses=public_problems())
async def list_plans(request: Request) -> PlanList:
    """What a subscription gives and costs."""
    answer = await call(
        backends_of(request).payments.ListPlans,
        payments_pb2.ListPlansRequest(),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return PlanList(items=[_as_plan(plan) for plan in answer.plans])


@router.post(
    "/api/subscriptions",
    status_code=201,
    operation_id="subscribe",
    openapi_extra={"parameters": [idempotency.PARAMETER]},
    responses=customer_problems(
        *BODY, *KEYED, "plan_not_found", "subscription_exists", "too_many_open_checkouts", "checkout_refused"
    ),
)
async def subscribe(request: Request, response: Response, body: WantedPlan) -> OpenedCheckout:
    """Opens a page at Stripe that begins a subscription; once paid, its id is the checkout's."""
    customer, key = customer_of(request), idempotency.key_of(request)
    wanted = payments_pb2.CreateSubscriptionCheckoutRequest(
        user_id=customer.user_id,
        email=customer.email,
        idempotency_key=key,
        request_hash=await idempotency.body_hash(request),
        plan_id=body.plan_id,
    )
    async with telling_what_is_held(request):
        answer = await call(
            backends_of(request).payments.CreateSubscriptionCheckout, wanted, timeout_seconds=PAYMENTS_SECONDS
        )
    response.headers[idempotency.HEADER] = key
    return as_opened(answer.checkout, response)


@router.get("/api/subscriptions", operation_id="listSubscriptions", responses=customer_problems(*PAGED))
async def list_subscriptions(request: Request, limit: Limit = 20, cursor: Cursor = "") -> SubscriptionPage:
    """The customer's subscriptions, newest first."""
    answer = await call(
        backends_of(request).payments.ListSubscriptions,
        payments_pb2.ListSubscriptionsRequest(
            user_id=customer_of(request).user_id, limit=limit, cursor=cursor
        ),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return SubscriptionPage(
        items=[_as_subscription(subscription) for subscription in answer.items],
        next_cursor=answer.next_cursor or None,
    )


@router.get(
    "/api/subscriptions/{subscriptionId}",
    operation_id="getSubscription",
    responses=customer_problems("subscription_not_found"),
)
async def get_subscription(request: Request, subscription_id: SubscriptionId) -> Subscription:
    """One subscription of the customer."""
    answer = await call(
        backends_of(request).payments.GetSubscription,
        payments_pb2.GetSubscriptionRequest(
            user_id=customer_of(request).user_id, subscription_id=subscription_id
        ),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return _as_subscription(answer.subscription)


@router.delete(
    "/api/subscriptions/{subscriptionId}",
    operation_id="cancelSubscription",
    responses=customer_problems(
        "subscription_not_found", "subscription_elsewhere", "subscription_unconfirmed"
    ),
)
async def cancel_subscription(request: Request, subscription_id: SubscriptionId) -> Subscription:
    """Ends it with the period that is paid for; points that came stay."""
    answer = await call(
        backends_of(request).payments.CancelSubscription,
        payments_pb2.CancelSubscriptionRequest(
            user_id=customer_of(request).user_id, subscription_id=subscription_id
        ),
        timeout_seconds=PAYMENTS_SECONDS,
    )
    return _as_subscription(answer.subscription)


def _as_plan(plan: payments_pb2.Plan) -> Plan:
    return Plan(
        id=plan.id,
        name=plan.name,
        points=plan.points,
        price_cents=plan.price_cents,
        currency=plan.currency,
        interval=INTERVALS[plan.interval],
    )


def _as_subscription(subscription: payments_pb2.Subscription) -> Subscription:
    return Subscription(
        id=subscription.id,
        plan_id=subscription.plan_id,
        status=STATUSES[subscription.status],
        points=subscription.points,
        price_cents=subscription.price_cents,
        currency=subscription.currency,
        interval=INTERVALS[subscription.interval],
        current_period_end=as_time(subscription.current_period_end),
        cancel_at_period_end=subscription.cancel_at_period_end,
        ended_at=as_time(subscription.ended_at) if subscription.HasField("ended_at") else None,
        created_at=as_time(subscription.created_at),
        cancel_at=as_time(subscription.cancel_at) if subscription.HasField("cancel_at") else None,
        changed_outside=subscription.changed_outside,
    )
