"""What operators count of money and webhooks, beside numbers that were worked out by hand."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import Payments

# Long before any other test's payments.
SINCE = datetime(2021, 3, 1, tzinfo=UTC)
MIDDLE = SINCE + timedelta(days=3)
UNTIL = datetime(2021, 3, 8, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
Told = pb.GetAnalyticsResponse


@pytest.fixture(autouse=True)
async def emptied(payments: Payments) -> AsyncIterator[None]:
    """Nobody else meets these rows."""
    yield
    for table, time in (
        *(("refunds", "created_at"), ("disputes", "created_at")),
        *(("payments", "created_at"), ("stripe_events", "received_at")),
    ):
        await payments.sql(f"DELETE FROM {table} WHERE {time} < '2022-01-01'")


async def count(payments: Payments, since: datetime = SINCE, until: datetime = UNTIL) -> Told:
    request = pb.GetAnalyticsRequest()
    request.since.FromDatetime(since)
    request.until.FromDatetime(until)
    return await payments.operator.GetAnalytics(request)


async def insert(payments: Payments, table: str, **values: Any) -> None:
    columns, places = ", ".join(values), ", ".join(["%s"] * len(values))
    await payments.sql(f"INSERT INTO {table} ({columns}) VALUES ({places})", *values.values())


async def paid(payments: Payments, cents: int, at: datetime, **of: Any) -> UUID:
    """A payment as it was written then, by a process whose clock was 59 minutes late."""
    [made] = await payments.sql("SELECT uuidv7(%s - now()) AS id", at - timedelta(minutes=59))
    payment_id: UUID = made["id"]
    values = {"user_id": uuid4(), "currency": "usd", "standing": "fulfilled", "created_at": at}
    await insert(
        payments,
        "payments",
        id=payment_id,
        payment_intent_id=f"pi_{uuid4().hex}",
        amount_cents=cents,
        **values | of,
    )
    return payment_id


def points() -> dict[str, Any]:
    return {"points": 100, "grant_source": str(uuid4())}


async def refunded(payments: Payments, payment_id: UUID, cents: int, status: str, at: datetime) -> None:
    await insert(
        payments,
        "refunds",
        payment_id=payment_id,
        payment_intent_id="pi",
        amount_cents=cents,
        currency="usd",
        status=status,
        is_ours=False,
        reason="",
        stripe_refund_id=f"re_{uuid4().hex}",
        created_at=at,
    )


async def disputed(payments: Payments, payment_id: UUID, cents: int, status: str, at: datetime) -> None:
    await insert(
        payments,
        "disputes",
        id=f"dp_{uuid4().hex}",
        payment_id=payment_id,
        amount_cents=cents,
        currency="usd",
        status=status,
        reason="general",
        created_at=at,
    )


async def test_money_belongs_to_the_range_in_which_it_moved(payments: Payments) -> None:
    earlier = await paid(payments, 8000, SINCE - INSTANT, order_id=uuid4())
    mine = await paid(payments, 1000, SINCE, order_id=uuid4())
    await paid(payments, 2500, MIDDLE, order_id=uuid4())
    await paid(payments, 3999, MIDDLE, **points())
    await paid(payments, 999, UNTIL - INSTANT, **points())
    await paid(payments, 1500, MIDDLE, invoice_id=f"in_{uuid4().hex}", **points())
    await paid(payments, 4000, UNTIL, order_id=uuid4())
    foreign = await paid(payments, 700, MIDDLE, currency="eur", **points())
    parked = await paid(payments, 5000, MIDDLE, standing="quarantined", order_id=uuid4())
    for payment_id, cents, status, at in (
        *((mine, 400, "succeeded", MIDDLE), (earlier, 250, "succeeded", UNTIL - INSTANT)),
        *((mine, 50, "succeeded", SINCE), (mine, 60, "succeeded", SINCE - INSTANT)),
        *((mine, 333, "succeeded", UNTIL), (mine, 111, "pending", MIDDLE), (mine, 222, "failed", MIDDLE)),
        *((parked, 5000, "succeeded", MIDDLE), (foreign, 700, "succeeded", MIDDLE)),
    ):
        await refunded(payments, payment_id, cents, status, at)
    for payment_id, cents, status, at in (
        *((mine, 999, "needs_response", SINCE), (earlier, 100, "under_review", UNTIL - INSTANT)),
        *((mine, 2500, "lost", MIDDLE), (mine, 1000, "won", MIDDLE), (mine, 60, "warning_closed", MIDDLE)),
        *((mine, 77, "lost", UNTIL), (mine, 78, "needs_response", SINCE - INSTANT)),
        *((parked, 5000, "lost", MIDDLE), (foreign, 700, "needs_response", MIDDLE)),
    ):
        await disputed(payments, payment_id, cents, status, at)
    assert (await count(payments)).revenue == Told.Revenue(
        currency="usd",
        orders=Told.Source(payments=2, cents=3500),
        points_packages=Told.Source(payments=2, cents=4998),
        subscriptions=Told.Source(payments=1, cents=1500),
        refunded_cents=700,
        disputed_cents=1099,
        lost_cents=2500,
    )


async def heard(
    payments: Payments, at: datetime, type: str, lag_ms: int, *, handled_ms: int | None = None, **of: Any
) -> None:
    """An event, received then. One that waits is no worker's until long after the test."""
    await insert(
        payments,
        "stripe_events",
        id=f"evt_{uuid4().hex}",
        type=type,
        created=at - timedelta(milliseconds=lag_ms),
        payload=b"",
        received_at=at,
        lease_until=datetime(2100, 1, 1, tzinfo=UTC),
        processed_at=None if handled_ms is None else at + timedelta(milliseconds=handled_ms),
        **{"status": "received" if handled_ms is None else "processed", **of},
    )


async def test_events_are_counted_by_what_became_of_them_and_timed(payments: Payments) -> None:
    declined, other = "payment_intent.payment_failed", "refund.updated"
    # Stripe's clock was before ours: that is no lag.
    await heard(payments, SINCE, declined, -700, handled_ms=10)
    await heard(payments, MIDDLE, "invoice.payment_failed", 100, handled_ms=20)
    await heard(payments, MIDDLE, other, 200, handled_ms=30)
    await heard(payments, MIDDLE, declined, 300, handled_ms=50, status="ignored")
    await heard(payments, MIDDLE, other, 400, error="KeyError: 'id'", attempts=3)
    await heard(payments, UNTIL - INSTANT, declined, 500)
    for outside in (SINCE - INSTANT, UNTIL):
        await heard(payments, outside, declined, 60_000, handled_ms=60_000)
    told = await count(payments)
    assert (told.declined_payments, told.declined_invoices) == (1, 1)
    assert told.webhooks == Told.Webhooks(
        received=6,
        processed=3,
        ignored=1,
        failing=1,
        # Of 0, 100 … 500, and of 10, 20, 30, 50: the third quarter of the last step, and so on.
        lag_ms=Told.Percentiles(p50=250, p95=475, p99=495),
        processing_ms=Told.Percentiles(p50=25, p95=47, p99=49),
    )


async def test_a_range_without_events_has_no_times(payments: Payments) -> None:
    told = await count(payments)
    assert told.revenue == Told.Revenue(
        currency="usd", orders=Told.Source(), points_packages=Told.Source(), subscriptions=Told.Source()
    )
    assert told.webhooks == Told.Webhooks()
    # One that waits, and was sent by a clock before ours.
    await heard(payments, MIDDLE, "refund.updated", -700)
    webhooks = (await count(payments)).webhooks
    assert (webhooks.HasField("lag_ms"), webhooks.lag_ms.p99, webhooks.HasField("processing_ms")) == (
        *(True, 0),
        False,
    )
