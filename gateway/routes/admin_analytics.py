"""How the shop does over a range of time: each service counts its own, here they are put together."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self, TypeVar

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field

from gateway.backends import ANALYTICS_SECONDS
from gateway.openapi import operator_problems
from gateway.routing import OperatorRoute, backends_of
from gateway.schemas import ApiModel, Moment, as_stamp
from protos.orders.v1 import orders_pb2
from protos.payments.v1 import payments_pb2
from protos.wallet.v1 import wallet_pb2
from services.chassis.errors import Invalid
from services.chassis.grpc_client import call

router = APIRouter(route_class=OperatorRoute, tags=["operators"])

_DEFAULT_RANGE = timedelta(days=30)
_LONGEST_RANGE = timedelta(days=366)

Orders = orders_pb2.GetAnalyticsResponse
Payments = payments_pb2.GetAnalyticsResponse
Wallet = wallet_pb2.GetAnalyticsResponse
# A part of a whole, 0 to 1, with four digits; null when the whole is nothing.
Rate = float | None


class Told(ApiModel):
    """Made of a service's message that has the same fields."""

    model_config = ConfigDict(from_attributes=True)


_Told = TypeVar("_Told", bound=Told)


class Conversion(ApiModel):
    """Customers with a cart (changed in the range, or bought), those of them who placed an order, those of
    these who paid one. A cart knows only when it was last changed: past ranges miss those that live on."""

    customers_with_cart: int
    customers_ordering: int
    customers_paying: int
    ordering_rate: Rate
    paying_rate: Rate
    overall_rate: Rate
    orders_placed: int
    orders_paid: int
    orders_paid_rate: Rate

    @classmethod
    def of(cls, told: Orders.Conversion) -> Self:
        return cls(
            customers_with_cart=told.customers_with_cart,
            customers_ordering=told.customers_ordering,
            customers_paying=told.customers_paying,
            ordering_rate=_ratio(told.customers_ordering, told.customers_with_cart),
            paying_rate=_ratio(told.customers_paying, told.customers_ordering),
            overall_rate=_ratio(told.customers_paying, told.customers_with_cart),
            orders_placed=told.orders_placed,
            orders_paid=told.orders_paid,
            orders_paid_rate=_ratio(told.orders_paid, told.orders_placed),
        )


class MethodUse(Told):
    """Orders by how they are paid; `cents` and `points` are those of the paid ones, whatever went back."""

    method: Literal["points", "stripe"]
    placed: int
    paid: int
    cents: int
    points: int


class FailureReason(Told):
    status: Literal["failed", "cancelled"]
    reason: str
    orders: int


class Failures(ApiModel):
    """`failureRate` is that of failed orders among all that were placed, `declineRate` that of declined tries
    to pay among all tries."""

    failed_orders: int
    cancelled_orders: int
    failure_rate: Rate
    reasons: list[FailureReason]
    declined_payments: int
    declined_invoices: int
    decline_rate: Rate


class Source(Told):
    payments: int
    cents: int


class Revenue(ApiModel):
    """Payments, refunds and disputes that came in the range. `disputedCents` is what banks hold while they
    decide, `lostCents` what they decided against the shop; `netCents` is what is left of `grossCents`."""

    currency: str
    orders: Source
    points_packages: Source
    subscriptions: Source
    gross_cents: int
    refunded_cents: int
    disputed_cents: int
    lost_cents: int
    net_cents: int

    @classmethod
    def of(cls, told: Payments.Revenue) -> Self:
        gross_cents = told.orders.cents + told.points_packages.cents + told.subscriptions.cents
        return cls(
            currency=told.currency,
            orders=Source.model_validate(told.orders),
            points_packages=Source.model_validate(told.points_packages),
            subscriptions=Source.model_validate(told.subscriptions),
            gross_cents=gross_cents,
            refunded_cents=told.refunded_cents,
            disputed_cents=told.disputed_cents,
            lost_cents=told.lost_cents,
            net_cents=gross_cents - told.refunded_cents - told.disputed_cents - told.lost_cents,
        )


class Balances(Told):
    """Of all customers at this moment: `outstanding` can still be spent (the shop's liability), `held` is the
    part of it that open orders hold, `debt` is owed by customers."""

    outstanding: int
    held: int
    debt: int


class Points(ApiModel):
    """From the ledger of the range. `reversed` went back with refunds and disputes of what was bought, less
    what won disputes restored; `adjusted` is what operators gave, less what they took."""

    sold: int
    spent: int
    refunded: int
    reversed: int
    adjusted: int
    now: Balances

    @classmethod
    def of(cls, told: Wallet) -> Self:
        return cls(
            sold=told.moved.sold,
            spent=told.moved.spent,
            refunded=told.moved.refunded,
            reversed=told.moved.reversed,
            adjusted=told.moved.adjusted,
            now=Balances.model_validate(told.now),
        )


class Totals(Told):
    """Of real orders: half of them, nine of ten, and all of them cost this or less."""

    median: int
    p90: int
    max: int


class Spending(ApiModel):
    """What paid orders cost; null when none was paid that way."""

    cents: Totals | None
    points: Totals | None
    orders_per_paying_customer: float | None


class ProductSales(Told):
    """Of paid orders, without what went back."""

    product_id: str
    title: str
    pieces: int
    cents: int
    points: int


class Percentiles(Told):
    p50: int
    p95: int
    p99: int


class Webhooks(ApiModel):
    """Stripe's events by when they were received; `failing` ones are tried again. `lagMs` is from Stripe's
    time of an event, in whole seconds, to its receipt; `processingMs` from there to its handling (the last
    one, when it was replayed). Null when there is none."""

    received: int
    processed: int
    ignored: int
    failing: int
    lag_ms: Percentiles | None
    processing_ms: Percentiles | None

    @classmethod
    def of(cls, told: Payments.Webhooks) -> Self:
        return cls(
            received=told.received,
            processed=told.processed,
            ignored=told.ignored,
            failing=told.failing,
            lag_ms=_or_none(Percentiles, told, "lag_ms"),
            processing_ms=_or_none(Percentiles, told, "processing_ms"),
        )


class Analytics(ApiModel):
    """What happened from `from` on, before `to`. An order belongs to when it was placed and is counted as it
    stands now."""

    from_: Annotated[datetime, Field(alias="from")]
    to: datetime
    conversion: Conversion
    payment_methods: list[MethodUse]
    failures: Failures
    revenue: Revenue
    points: Points
    spending: Spending
    top_products: list[ProductSales]
    webhooks: Webhooks


@router.get(
    "/api/admin/analytics",
    operation_id="getAnalytics",
    responses=operator_problems("invalid_request", "range_too_large"),
)
async def get_analytics(
    request: Request,
    from_: Annotated[
        Moment | None, Query(alias="from", description="Included; 30 days before `to` when absent.")
    ] = None,
    to: Annotated[
        Moment | None, Query(description="Not included, at most 366 days later; now when absent.")
    ] = None,
) -> Analytics:
    """Conversion, payment methods, failures, revenue, points, spending, products and webhooks of a range."""
    until = to or datetime.now(UTC)
    since = from_ or until - _DEFAULT_RANGE
    if not timedelta(0) < until - since <= _LONGEST_RANGE:
        raise Invalid(
            "INVALID_FIELD", f"to must be after from, by {_LONGEST_RANGE.days} days at most", field="to"
        )
    backends = backends_of(request)
    within: dict[str, Any] = {"since": as_stamp(since), "until": as_stamp(until)}
    orders, payments, wallet = await asyncio.gather(
        _ask(backends.orders_operator.GetAnalytics, orders_pb2.GetAnalyticsRequest(**within)),
        _ask(backends.payments_operator.GetAnalytics, payments_pb2.GetAnalyticsRequest(**within)),
        _ask(backends.wallet.GetAnalytics, wallet_pb2.GetAnalyticsRequest(**within)),
    )
    return _put_together(since, until, orders, payments, wallet)


async def _ask(method: Any, request: Any) -> Any:
    return await call(method, request, timeout_seconds=ANALYTICS_SECONDS)


def _put_together(
    since: datetime, until: datetime, orders: Orders, payments: Payments, wallet: Wallet
) -> Analytics:
    return Analytics(
        from_=since,
        to=until,
        conversion=Conversion.of(orders.conversion),
        payment_methods=[MethodUse.model_validate(each) for each in orders.methods],
        failures=_failures(orders, payments),
        revenue=Revenue.of(payments.revenue),
        points=Points.of(wallet),
        spending=Spending(
            cents=_or_none(Totals, orders, "cents"),
            points=_or_none(Totals, orders, "points"),
            orders_per_paying_customer=_ratio(
                orders.conversion.orders_paid, orders.conversion.customers_paying
            ),
        ),
        top_products=[ProductSales.model_validate(each) for each in orders.top_products],
        webhooks=Webhooks.of(payments.webhooks),
    )


def _failures(orders: Orders, payments: Payments) -> Failures:
    declined = payments.declined_payments + payments.declined_invoices
    revenue = payments.revenue
    paid = revenue.orders.payments + revenue.points_packages.payments + revenue.subscriptions.payments
    return Failures(
        failed_orders=orders.conversion.orders_failed,
        cancelled_orders=orders.conversion.orders_cancelled,
        failure_rate=_ratio(orders.conversion.orders_failed, orders.conversion.orders_placed),
        reasons=[FailureReason.model_validate(each) for each in orders.failures],
        declined_payments=payments.declined_payments,
        declined_invoices=payments.declined_invoices,
        decline_rate=_ratio(declined, declined + paid),
    )


def _or_none(kind: type[_Told], message: Any, field: str) -> _Told | None:
    return kind.model_validate(getattr(message, field)) if message.HasField(field) else None


def _ratio(part: int, whole: int) -> Rate:
    return round(part / whole, 4) if whole else None
