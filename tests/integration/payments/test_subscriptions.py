"""Subscriptions: points for each paid invoice, whatever Stripe told first, until they end."""

import asyncio
import time
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import Payments, refused
from tests.integration.payments.sandbox import Sandbox, sandbox_of

NOT_FOUND = grpc.StatusCode.NOT_FOUND
CONFLICT = grpc.StatusCode.ABORTED
POINTS, PRICE, DAY = 300, 1999, 24 * 3600


@pytest.fixture
def payments(sandboxed: Payments) -> Payments:
    return sandboxed


@pytest.fixture
def stripe(payments: Payments) -> Sandbox:
    return sandbox_of(payments)


async def ask(payments: Payments, *, key: str | None = None, plan_id: str = "monthly") -> pb.Checkout:
    request = pb.CreateSubscriptionCheckoutRequest(
        user_id=str(payments.user_id),
        email="reader@example.com",
        idempotency_key=key or str(uuid4()),
        plan_id=plan_id,
    )
    return (await payments.stub.CreateSubscriptionCheckout(request)).checkout


async def subscribed(payments: Payments) -> tuple[pb.Checkout, dict[str, Any]]:
    """A subscription that is paid and active here; its checkout and its row."""
    checkout = await ask(payments)
    await sandbox_of(payments).pay(checkout.url)
    await payments.until("SELECT 1 FROM invoices WHERE subscription_id = %s", checkout.id)
    return checkout, await until_subscription(payments, checkout.id, "status = 'active'")


async def until_subscription(payments: Payments, subscription_id: str, condition: str) -> dict[str, Any]:
    query = f"SELECT * FROM subscriptions WHERE id = %s AND {condition}"
    [row] = await payments.until(query, subscription_id)
    return row


async def grants(payments: Payments) -> list[tuple[str, int]]:
    """(source, net) of this customer's grants, as they were told."""
    rows = await payments.sql(
        "SELECT payload FROM outbox WHERE subject = 'payments.points.grant_changed' ORDER BY id"
    )
    facts = [events_pb2.PointsGrantChanged.FromString(row["payload"]) for row in rows]
    return [(fact.source_id, fact.net_points) for fact in facts if fact.user_id == str(payments.user_id)]


async def get(payments: Payments, subscription_id: str, *, user_id: UUID | None = None) -> pb.Subscription:
    request = pb.GetSubscriptionRequest(
        user_id=str(user_id or payments.user_id), subscription_id=subscription_id
    )
    return (await payments.stub.GetSubscription(request)).subscription


async def test_plans_are_listed(payments: Payments) -> None:
    plans = (await payments.stub.ListPlans(pb.ListPlansRequest())).plans
    assert [(plan.id, plan.points, plan.interval) for plan in plans] == [
        ("monthly", POINTS, pb.BILLING_INTERVAL_MONTH),
        ("yearly", 4000, pb.BILLING_INTERVAL_YEAR),
    ]


async def test_the_first_invoice_gives_the_points_and_the_session_nothing(
    payments: Payments, stripe: Sandbox
) -> None:
    checkout, row = await subscribed(payments)
    await payments.until_status(checkout.id, "paid")
    [invoice] = (await stripe.get("invoices", subscription=row["stripe_subscription_id"]))["data"]
    assert await grants(payments) == [(invoice["id"], POINTS)]
    subscription = await get(payments, checkout.id)
    assert (subscription.plan_id, subscription.status) == ("monthly", pb.SUBSCRIPTION_STATUS_ACTIVE)
    assert (subscription.points, subscription.price_cents) == (POINTS, PRICE)
    assert subscription.current_period_end.seconds > time.time() + 27 * DAY
    listed = await payments.stub.ListSubscriptions(pb.ListSubscriptionsRequest(user_id=str(payments.user_id)))
    assert [each.id for each in listed.items] == [checkout.id]


async def test_each_renewal_gives_the_points_again(payments: Payments, stripe: Sandbox) -> None:
    checkout, row = await subscribed(payments)
    for _ in range(2):
        await stripe.control(f"subscriptions/{row['stripe_subscription_id']}/renew")
    await payments.until("SELECT 1 FROM invoices WHERE subscription_id = %s HAVING count(*) = 3", checkout.id)
    assert [net for _, net in await grants(payments)] == [POINTS] * 3
    later = await until_subscription(
        payments, checkout.id, f"current_period_end > '{row['current_period_end']}'"
    )
    assert later["status"] == "active"


async def test_any_order_of_the_events_ends_in_the_same_state(payments: Payments, stripe: Sandbox) -> None:
    types = ("checkout.session.completed", "invoice.paid", "customer.subscription.created")
    for order in permutations(types):
        payments.user_id = uuid4()
        await stripe.control("webhooks", mode="hold")
        checkout = await ask(payments)
        await stripe.pay(checkout.url)
        session = await stripe.get(f"checkout/sessions/{checkout.session_id}")
        about = {
            "checkout.session.completed": session["id"],
            "invoice.paid": session["invoice"],
            "customer.subscription.created": session["subscription"],
        }
        for event_type in order:
            [event] = await stripe.events(event_type, about=about[event_type])
            await stripe.deliver(event["id"])
            assert (await payments.settled(event["id"]))["status"] == "processed"
        await payments.until_status(checkout.id, "paid")
        await until_subscription(payments, checkout.id, "status = 'active'")
        assert await grants(payments) == [(session["invoice"], POINTS)]


async def test_a_renewal_told_as_older_versions_render_it_gives_its_points(
    payments: Payments, stripe: Sandbox
) -> None:
    """Before 2025-03-31 an invoice had its subscription at the top, and no `parent`."""
    checkout, row = await subscribed(payments)
    await stripe.control("api_versions", account="2025-02-24.acacia")
    try:
        await stripe.control(f"subscriptions/{row['stripe_subscription_id']}/renew")
    finally:
        await stripe.control("api_versions")
    await payments.until("SELECT 1 FROM invoices WHERE subscription_id = %s HAVING count(*) = 2", checkout.id)
    assert [net for _, net in await grants(payments)] == [POINTS] * 2


async def test_a_card_that_fails_is_shown_and_a_late_payment_counts(
    payments: Payments, stripe: Sandbox
) -> None:
    checkout, row = await subscribed(payments)
    at_stripe = row["stripe_subscription_id"]
    await stripe.control(f"subscriptions/{at_stripe}/next_payment", outcome="fail")
    await stripe.control(f"subscriptions/{at_stripe}/renew")
    await until_subscription(payments, checkout.id, "status = 'past_due'")
    assert len(await grants(payments)) == 1
    await stripe.control(f"subscriptions/{at_stripe}/next_payment", outcome="succeed")
    [late, _] = (await stripe.get("invoices", subscription=at_stripe))["data"]
    await stripe.post(f"invoices/{late['id']}/pay")
    await until_subscription(payments, checkout.id, "status = 'active'")
    await payments.until("SELECT 1 FROM invoices WHERE id = %s", late["id"])
    assert len(await grants(payments)) == 2


async def test_a_refunded_invoice_takes_its_points_back(payments: Payments, stripe: Sandbox) -> None:
    await subscribed(payments)
    [(source, _)] = await grants(payments)
    [payment] = await payments.sql("SELECT * FROM payments WHERE invoice_id = %s", source)
    await stripe.post("refunds", payment_intent=payment["payment_intent_id"], amount=1000)
    await payments.until("SELECT 1 FROM payments WHERE id = %s AND refunded_cents = 1000", payment["id"])
    assert await grants(payments) == [(source, POINTS), (source, POINTS - POINTS * 1000 // PRICE)]


async def test_a_refund_told_before_its_invoice_credits_only_the_rest(
    payments: Payments, stripe: Sandbox
) -> None:
    await stripe.control("webhooks", mode="hold")
    checkout = await ask(payments)
    await stripe.pay(checkout.url)
    session = await stripe.get(f"checkout/sessions/{checkout.session_id}")
    [link] = (await stripe.get("invoice_payments", invoice=session["invoice"]))["data"]
    intent = link["payment"]["payment_intent"]
    await stripe.post("refunds", payment_intent=intent)
    [event] = await stripe.events("charge.refunded", about=intent)
    await stripe.deliver(event["id"])
    await payments.settled(event["id"])
    assert [net for _, net in await grants(payments)] == [POINTS, 0]
    await until_subscription(payments, checkout.id, "status = 'active'")


async def test_it_ends_with_the_period(payments: Payments, stripe: Sandbox) -> None:
    checkout, row = await subscribed(payments)
    request = pb.CancelSubscriptionRequest(user_id=str(payments.user_id), subscription_id=checkout.id)
    for _ in range(2):
        ended = (await payments.stub.CancelSubscription(request)).subscription
        assert (ended.status, ended.cancel_at_period_end) == (pb.SUBSCRIPTION_STATUS_ACTIVE, True)
    # The way is free for another one.
    assert (await ask(payments)).status == pb.CHECKOUT_STATUS_OPEN
    await stripe.control(f"subscriptions/{row['stripe_subscription_id']}/renew")
    gone = await until_subscription(payments, checkout.id, "status = 'canceled'")
    assert gone["ended_at"] is not None
    assert len(await grants(payments)) == 1
    assert (await payments.stub.CancelSubscription(request)).subscription.HasField("ended_at")


async def test_an_invoice_of_another_amount_is_parked(payments: Payments, stripe: Sandbox) -> None:
    checkout, row = await subscribed(payments)
    await payments.sql("UPDATE subscriptions SET price_cents = 1 WHERE id = %s", checkout.id)
    await stripe.control(f"subscriptions/{row['stripe_subscription_id']}/renew")
    [parked] = await payments.until(
        "SELECT * FROM quarantine WHERE reason = 'amount_mismatch' AND metadata ->> 'checkout_id' = %s",
        checkout.id,
    )
    assert parked["invoice_id"] is not None
    resolution = pb.ResolveQuarantineRequest(
        id=str(parked["id"]),
        resolution=pb.QUARANTINE_RESOLUTION_FULFIL,
        actor="operator-7",
        reason="an old price",
        points=250,
    )
    await payments.operator.ResolveQuarantine(resolution)
    assert (await grants(payments))[-1] == (parked["invoice_id"], 250)


async def test_the_open_page_of_a_plan_is_returned_and_not_replaced(
    payments: Payments, stripe: Sandbox
) -> None:
    """Two tabs, a double click without a key: one page, which stays open under a typing hand."""
    before = await stripe.count()
    at_once = await asyncio.gather(*(ask(payments) for _ in range(4)))
    [page] = {(each.id, each.url) for each in at_once}
    again = await ask(payments, key="a-tab-of-tomorrow")
    assert (again.id, again.url, again.status) == (*page, pb.CHECKOUT_STATUS_OPEN)
    assert await ask(payments, key="a-tab-of-tomorrow") == again
    assert await stripe.count() == before + 1
    assert (await ask(payments, plan_id="yearly")).id != again.id


@pytest.mark.parametrize("order", list(permutations(("invoice.paid", "customer.subscription.updated"))))
async def test_a_second_paid_subscription_is_canceled_and_refunded_and_gives_nothing(
    payments: Payments, stripe: Sandbox, order: tuple[str, ...]
) -> None:
    """An older page, of a release that opened one for each request, is paid after the first is active."""
    older = await ask(payments)
    await payments.change(older.id, "plan_page = false")
    first, _ = await subscribed(payments)
    assert first.id != older.id
    await stripe.control("webhooks", mode="hold")
    await stripe.pay(older.url)
    session = await stripe.get(f"checkout/sessions/{older.session_id}")
    about = {"invoice.paid": session["invoice"], "customer.subscription.updated": session["subscription"]}
    for event_type in order:
        for event in await stripe.events(event_type, about=about[event_type]):
            await stripe.deliver(event["id"])
            await payments.settled(event["id"])
    [row] = await payments.until(
        "SELECT * FROM quarantine WHERE invoice_id = %s AND status = 'refunded'", session["invoice"]
    )
    assert (row["reason"], row["amount_cents"]) == ("second_subscription", PRICE)
    second = await until_subscription(payments, older.id, "status = 'canceled' AND cancel_due_at IS NULL")
    assert str(second["duplicate_of"]) == first.id
    [link] = (await stripe.get("invoice_payments", invoice=session["invoice"]))["data"]
    back = (await stripe.get("refunds", payment_intent=link["payment"]["payment_intent"]))["data"]
    assert [refund["amount"] for refund in back] == [PRICE]
    assert [net for _, net in await grants(payments)] == [POINTS]
    assert (await stripe.get(f"subscriptions/{session['subscription']}"))["status"] == "canceled"
    assert (await get(payments, first.id)).status == pb.SUBSCRIPTION_STATUS_ACTIVE


async def test_a_second_one_is_canceled_when_stripe_answers_again(
    payments: Payments, stripe: Sandbox
) -> None:
    older = await ask(payments)
    await payments.change(older.id, "plan_page = false")
    await subscribed(payments)
    await stripe.fault("/v1/subscriptions/*", "status", status=503, count=2, method="DELETE")
    await stripe.pay(older.url)
    query = "SELECT 1 FROM subscriptions WHERE id = %s AND cancel_due_at IS NOT NULL AND cancel_tries > 0"
    await payments.until(query, older.id)
    for _ in range(2):
        await payments.sql(
            "UPDATE subscriptions SET cancel_due_at = now() WHERE id = %s AND ended_at IS NULL", older.id
        )
    await payments.until(
        "WITH due AS (UPDATE subscriptions SET cancel_due_at = now()"
        " WHERE id = %s AND cancel_due_at > now() + interval '1 second')"
        " SELECT 1 FROM subscriptions WHERE id = %s AND status = 'canceled'",
        *(older.id, older.id),
    )


async def test_no_two_subscriptions_of_a_plan_live_at_once(payments: Payments) -> None:
    """Whoever writes it: the index holds."""
    first, _ = await subscribed(payments)
    own, payments.user_id = payments.user_id, uuid4()
    other, _ = await subscribed(payments)
    take_over = "UPDATE subscriptions SET user_id = %s WHERE id = %s"
    with pytest.raises(psycopg.errors.UniqueViolation, match="idx_subscriptions_one_live"):
        await payments.sql(take_over, own, other.id)
    for ends in (
        "status = 'unpaid'",
        "status = 'incomplete'",
        "status = 'active', cancel_at_period_end = true",
    ):
        await payments.sql(f"UPDATE subscriptions SET {ends} WHERE id = %s", first.id)
        await payments.sql(take_over, own, other.id)
        await payments.sql(take_over, uuid4(), other.id)


async def test_one_live_subscription_of_a_plan_is_enough(payments: Payments) -> None:
    checkout, _ = await subscribed(payments)
    with refused("SUBSCRIPTION_EXISTS", CONFLICT, subscription_id=checkout.id):
        await ask(payments)
    assert (await ask(payments, plan_id="yearly")).status == pb.CHECKOUT_STATUS_OPEN


async def test_the_same_key_is_the_same_checkout_and_strangers_see_nothing(payments: Payments) -> None:
    first = await ask(payments, key="a-key")
    assert await ask(payments, key="a-key") == first
    assert (first.plan_id, first.points) == ("monthly", POINTS)
    with refused("PLAN_NOT_FOUND", NOT_FOUND):
        await ask(payments, plan_id="weekly")
    checkout, _ = await subscribed(payments)
    for call in (payments.stub.CancelSubscription, None):
        with refused("SUBSCRIPTION_NOT_FOUND", NOT_FOUND):
            if call is None:
                await get(payments, checkout.id, user_id=uuid4())
            else:
                request = pb.CancelSubscriptionRequest(user_id=str(uuid4()), subscription_id=checkout.id)
                await call(request)


async def test_a_cancellation_that_stripe_does_not_confirm_is_not_claimed(
    payments: Payments, stripe: Sandbox
) -> None:
    checkout, row = await subscribed(payments)
    path = f"/v1/subscriptions/{row['stripe_subscription_id']}"
    await stripe.fault(path, "status", status=503)
    request = pb.CancelSubscriptionRequest(user_id=str(payments.user_id), subscription_id=checkout.id)
    with refused("SUBSCRIPTION_UNCONFIRMED", grpc.StatusCode.UNAVAILABLE):
        await payments.stub.CancelSubscription(request)
    assert (await payments.stub.CancelSubscription(request)).subscription.cancel_at_period_end
