"""Comparing with Stripe: whatever webhook was lost is made up for, by the same path, and counted."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from services.chassis.db import Database
from services.payments import stripe_client
from services.payments.commands import reconciliations
from tests.integration.payments.conftest import (
    Payments,
    PaymentsProcess,
    free_port,
    payments_running,
    refused,
)
from tests.integration.payments.sandbox import KEY, Sandbox, sandbox_of
from tests.integration.payments.test_subscriptions import subscribed

NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def payments(sandboxed: Payments) -> Payments:
    """Nothing is left over that an earlier test has dropped."""
    await reconcile(sandboxed)
    return sandboxed


@pytest.fixture
def stripe(payments: Payments) -> Sandbox:
    return sandbox_of(payments)


async def reconcile(payments: Payments) -> pb.Reconciliation:
    """A comparison on demand, from its beginning to its end."""
    request = pb.StartReconciliationRequest(actor=f"operator-{uuid4()}")
    run = (await payments.operator.StartReconciliation(request)).reconciliation
    async with asyncio.timeout(60):
        while run.status != pb.RECONCILIATION_STATUS_DONE:
            await asyncio.sleep(0.05)
            request_again = pb.GetReconciliationRequest(id=run.id)
            run = (await payments.operator.GetReconciliation(request_again)).reconciliation
    return run


def drift(run: pb.Reconciliation) -> dict[str, int]:
    return {each.kind: each.count for each in run.drift}


async def net_of(payments: Payments, source: str) -> list[int]:
    facts = await payments.facts("payments.points.grant_changed", events_pb2.PointsGrantChanged, source)
    return [fact.net_points for fact in facts]


async def test_when_nothing_is_lost_nothing_drifts(payments: Payments, stripe: Sandbox) -> None:
    checkout = await payments.points_checkout()
    await stripe.pay(checkout.url)
    await payments.until_status(checkout.id, "paid")
    for event in await stripe.events(about=await stripe.intent_of(checkout.session_id)):
        await payments.settled(event["id"])
    run = await reconcile(payments)
    assert (run.events_missing, run.objects_changed, drift(run)) == (0, 0, {})
    assert (run.percent, run.events_seen > 0) == (100, True)


async def test_lost_webhooks_of_a_whole_life_are_made_up_for(payments: Payments, stripe: Sandbox) -> None:
    await stripe.control("webhooks", mode="drop")
    checkout, order = await payments.points_checkout(), await payments.order_checkout()
    for url in (checkout.url, order.url):
        await stripe.pay(url)
    intent = await stripe.intent_of(checkout.session_id)
    await stripe.post("refunds", payment_intent=intent, amount=1000)
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_OPEN
    run = await reconcile(payments)
    # Done means handled, not only seen.
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID
    assert (await payments.get(order.id)).status == pb.CHECKOUT_STATUS_PAID
    assert (await net_of(payments, checkout.id))[-1] == 550 - 550 * 1000 // 3999
    assert run.events_missing >= 6
    assert drift(run)["event: checkout.session.completed"] == 2
    again = await reconcile(payments)
    assert (again.events_missing, drift(again)) == (0, {})


async def test_open_sessions_are_asked_for_whatever_the_events_say(
    payments: Payments, stripe: Sandbox
) -> None:
    await stripe.control("webhooks", mode="drop")
    paid, expired, open_ = [await payments.points_checkout() for _ in range(3)]
    await stripe.pay(paid.url)
    await stripe.control(f"sessions/{expired.session_id}/expire_now")
    # Only the objects themselves tell.
    await stripe.control("forget_events")
    run = await reconcile(payments)
    assert drift(run)["checkout: open -> paid"] == 1
    assert (await payments.get(paid.id)).status == pb.CHECKOUT_STATUS_PAID
    assert (await payments.get(expired.id)).status == pb.CHECKOUT_STATUS_EXPIRED
    assert (await payments.get(open_.id)).status == pb.CHECKOUT_STATUS_OPEN


async def test_a_pending_refund_and_an_open_dispute_are_asked_about(
    payments: Payments, stripe: Sandbox
) -> None:
    checkout, other = await payments.points_checkout(), await payments.points_checkout()
    for each in (checkout, other):
        await stripe.pay(each.url)
        await payments.until_status(each.id, "paid")
    intent = await stripe.intent_of(checkout.session_id)
    await stripe.control("refunds", status="pending")
    refund = await stripe.post("refunds", payment_intent=intent)
    disputed = await stripe.intent_of(other.session_id)
    dispute = await stripe.control("disputes", payment_intent=disputed)
    of_intent = "SELECT 1 FROM payments WHERE payment_intent_id = %s AND"
    await payments.until(f"{of_intent} refunded_cents = 3999", intent)
    await payments.until(f"{of_intent} dispute = 'open'", disputed)
    await stripe.control("webhooks", mode="drop")
    await stripe.control(f"refunds/{refund['id']}", status="failed")
    await stripe.control(f"disputes/{dispute['id']}", status="won")
    await stripe.control("forget_events")
    run = await reconcile(payments)
    assert await net_of(payments, checkout.id) == [550, 0, 550]
    assert await net_of(payments, other.id) == [550, 0, 550]
    assert drift(run)["grant"] == 2


async def test_a_renewal_that_nobody_told_of_is_found(payments: Payments, stripe: Sandbox) -> None:
    request = pb.CreateSubscriptionCheckoutRequest(
        user_id=str(payments.user_id), idempotency_key="k", plan_id="monthly"
    )
    checkout = (await payments.stub.CreateSubscriptionCheckout(request)).checkout
    await stripe.pay(checkout.url)
    [row] = await payments.until("SELECT * FROM subscriptions WHERE id = %s", checkout.id)
    await stripe.control("webhooks", mode="drop")
    await stripe.control(f"subscriptions/{row['stripe_subscription_id']}/renew")
    await reconcile(payments)
    await payments.until("SELECT 1 FROM invoices WHERE subscription_id = %s HAVING count(*) = 2", checkout.id)


async def test_it_goes_on_by_itself_and_over_replicas_once(
    process: PaymentsProcess, payments: Payments, stripe: Sandbox
) -> None:
    await payments.sql("UPDATE reconciliations SET started_at = started_at - interval '1 hour'")
    await stripe.control("webhooks", mode="drop")
    checkout = await payments.points_checkout()
    await stripe.pay(checkout.url)
    options = {"RECONCILE_SECONDS": "2", "WEBHOOK_LISTEN": f"127.0.0.1:{free_port()}"}
    async with payments_running(process, stripe, **options):
        # A young event is on its way for a schedule; the open session is asked for.
        await payments.until_status(checkout.id, "paid")
        await payments.until(
            "SELECT 1 FROM reconciliations WHERE requested_by = 'schedule' AND status = 'done'"
            " AND started_at > now() - interval '1 minute' HAVING count(*) >= 2"
        )
    running = await payments.sql(
        "SELECT count(*) FROM reconciliations WHERE requested_by = 'schedule' AND status = 'running'"
    )
    assert running[0]["count"] <= 1


async def test_a_run_that_stops_midway_is_begun_again_and_forgets_nothing(
    payments: Payments, stripe: Sandbox
) -> None:
    await stripe.control("webhooks", mode="drop")
    checkout, _open = await payments.points_checkout(), await payments.points_checkout()
    await stripe.pay(checkout.url)
    # After the events, when the open sessions are listed.
    await stripe.fault("/v1/checkout/sessions", "status", method="GET", status=503)
    run = await reconcile(payments)
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_PAID
    [row] = await payments.sql("SELECT tries FROM reconciliations WHERE id = %s", run.id)
    assert row["tries"] == 2
    # Found by the first try: the second one saw nothing missing.
    assert run.events_missing >= 2
    assert drift(run)["event: checkout.session.completed"] == 1


async def test_what_stripe_does_not_know_does_not_stop_the_rest(payments: Payments, stripe: Sandbox) -> None:
    request = pb.CreateSubscriptionCheckoutRequest(
        user_id=str(payments.user_id), idempotency_key="k", plan_id="monthly"
    )
    checkout = (await payments.stub.CreateSubscriptionCheckout(request)).checkout
    await stripe.pay(checkout.url)
    await payments.until("SELECT 1 FROM invoices WHERE subscription_id = %s", checkout.id)
    # Whatever else Stripe tells of it must not mend what is broken below.
    [begun] = await payments.sql(
        "SELECT stripe_subscription_id FROM subscriptions WHERE id = %s", checkout.id
    )
    for about in (checkout.session_id, begun["stripe_subscription_id"]):
        for event in await stripe.events(about=about):
            await payments.settled(event["id"])
    change = "UPDATE subscriptions SET {} WHERE id = %s"
    overdue = "stripe_subscription_id = 'sub_gone', current_period_end = now() - interval '1 day'"
    await payments.sql(change.format(overdue), checkout.id)
    try:
        run = await reconcile(payments)
    finally:
        await payments.sql(change.format("status = 'canceled', ended_at = now()"), checkout.id)
    assert drift(run) == {"not compared": 1}
    [row] = await payments.sql("SELECT tries FROM reconciliations WHERE id = %s", run.id)
    assert row["tries"] == 1


async def test_a_debit_that_takes_days_does_not_make_every_session_since_be_listed(
    payments: Payments, stripe: Sandbox, database: Database
) -> None:
    young, slow = await payments.points_checkout(), await payments.points_checkout()
    await stripe.control(f"sessions/{slow.session_id}/pay_later")
    await payments.until_status(slow.id, "processing")
    past = ("created_at", "attempt_until", "expires_at")
    await payments.change(slow.id, ", ".join(f"{name} = now() - interval '5 days'" for name in past))
    async with database.worker() as connection:
        listed = await reconciliations.unfinished_sessions(connection)
    assert (young.session_id in listed, slow.session_id in listed) == (True, False)
    await stripe.control(f"sessions/{slow.session_id}/delayed_payment", outcome="succeeded")
    await payments.until_status(slow.id, "paid")


async def test_more_events_are_read_than_sessions_ever_would(
    payments: Payments, stripe: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month of them, at a hundred in a page."""
    monkeypatch.setattr(stripe_client, "_MAX_PAGES", 2)
    monkeypatch.setattr(stripe_client, "_PAGE", 1)
    for _ in range(3):
        await stripe.control("payments", amount=999)
    client = stripe_client.Stripe(
        secret_key=SecretStr(KEY), api_base=stripe.url, shop_url="https://shop.test", shop_id="shop.test"
    )
    since = datetime.now(UTC) - timedelta(hours=1)
    listed = client.list_events(["payment_intent.succeeded"], since=since, page_seconds=5)
    assert len([event async for event in listed]) >= 3
    await client.close()


async def test_twins_of_one_operator_are_one_run_and_one_audit_entry(payments: Payments) -> None:
    actor = f"operator-{uuid4()}"
    request = pb.StartReconciliationRequest(actor=actor)
    runs = await asyncio.gather(*(payments.operator.StartReconciliation(request) for _ in range(5)))
    [run_id] = {run.reconciliation.id for run in runs}
    entries = await payments.sql("SELECT action, subject FROM audit_log WHERE actor = %s", actor)
    assert entries == [{"action": "reconciliation.started", "subject": run_id}]
    with refused("RECONCILIATION_NOT_FOUND", NOT_FOUND):
        await payments.operator.GetReconciliation(pb.GetReconciliationRequest(id=str(uuid4())))


async def test_a_time_to_come_is_refused_rather_than_found_without_drift(payments: Payments) -> None:
    request = pb.StartReconciliationRequest(actor="operator-7")
    request.since.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    with refused("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT, field="since"):
        await payments.operator.StartReconciliation(request)


async def test_drift_is_a_metric(process: PaymentsProcess, payments: Payments, stripe: Sandbox) -> None:
    await stripe.control("webhooks", mode="drop")
    checkout = await payments.points_checkout()
    await stripe.pay(checkout.url)
    listen = f"127.0.0.1:{free_port()}"
    options = {"METRICS_LISTEN": listen, "WEBHOOK_LISTEN": f"127.0.0.1:{free_port()}"}
    with payments.paused():
        async with payments_running(process, stripe, **options) as other:
            await reconcile(other)
            async with httpx.AsyncClient() as http:
                scraped = (await http.get(f"http://{listen}/metrics")).text
    lines = [line for line in scraped.splitlines() if line.startswith("aishop_payments_drift_total")]
    assert any("checkout.session.completed" in line for line in lines)
    assert 'events_total{outcome="applied",type="checkout.session.completed"}' in scraped


def test_what_is_compared_is_what_is_handled() -> None:
    """Stripe takes twenty types in one listing."""
    from services.payments.events import READERS

    assert len(READERS) <= 20


async def test_what_stripe_has_no_event_of_any_more_is_found_by_its_objects(
    payments: Payments, stripe: Sandbox
) -> None:
    """30 days later, or after a database was restored: a sale, a renewal, a refund and a dispute."""
    refunded, disputed = await payments.points_checkout(), await payments.points_checkout()
    for checkout in (refunded, disputed):
        await stripe.pay(checkout.url)
        await payments.until_status(checkout.id, "paid")
    subscription, row = await subscribed(payments)
    await stripe.control("webhooks", mode="drop")
    sold = await payments.points_checkout()
    await stripe.pay(sold.url)
    # Its checkout is past its time: nobody asks for it among the open ones.
    past = ", ".join(f"{name} = {name} - interval '40 days'" for name in ("attempt_until", "expires_at"))
    await payments.change(sold.id, f"{past}, lease_until = now() + interval '1 day'")
    await stripe.control(f"subscriptions/{row['stripe_subscription_id']}/renew")
    await stripe.post("refunds", payment_intent=await stripe.intent_of(refunded.session_id), amount=1000)
    await stripe.control("disputes", payment_intent=await stripe.intent_of(disputed.session_id), amount=2000)
    await stripe.control("forget_events")
    run = await reconcile(payments)
    assert run.events_missing == 0
    await payments.until_status(sold.id, "paid")
    assert await net_of(payments, sold.id) == [550]
    assert await net_of(payments, refunded.id) == [550, 550 - 550 * 1000 // 3999]
    assert await net_of(payments, disputed.id) == [550, 550 - 550 * 2000 // 3999]
    given = await payments.sql("SELECT id FROM invoices WHERE subscription_id = %s", subscription.id)
    assert len(given) == 2
    assert (await reconcile(payments)).objects_changed == 0


async def test_what_was_final_is_looked_at_a_second_time(payments: Payments, stripe: Sandbox) -> None:
    """A refund that succeeded comes back, a lost dispute is won, an old invoice is paid; no event is left."""
    refunded, disputed = await payments.points_checkout(), await payments.points_checkout()
    for checkout in (refunded, disputed):
        await stripe.pay(checkout.url)
        await payments.until_status(checkout.id, "paid")
    refund = await stripe.post("refunds", payment_intent=await stripe.intent_of(refunded.session_id))
    dispute = await stripe.control("disputes", payment_intent=await stripe.intent_of(disputed.session_id))
    await stripe.control(f"disputes/{dispute['id']}", status="lost")
    subscription, row = await subscribed(payments)
    at_stripe = row["stripe_subscription_id"]
    await stripe.control(f"subscriptions/{at_stripe}/next_payment", outcome="fail")
    await stripe.control(f"subscriptions/{at_stripe}/renew")
    await payments.until("SELECT 1 FROM subscriptions WHERE id = %s AND status = 'past_due'", subscription.id)
    await payments.until(
        "SELECT 1 FROM refunds WHERE stripe_refund_id = %s AND status = 'succeeded'", refund["id"]
    )
    await payments.until("SELECT 1 FROM disputes WHERE id = %s AND status = 'lost'", dispute["id"])
    await stripe.control("webhooks", mode="drop")
    await stripe.control(f"refunds/{refund['id']}", status="failed")
    await stripe.control(f"disputes/{dispute['id']}", status="won")
    await stripe.control(f"subscriptions/{at_stripe}/next_payment", outcome="succeed")
    [late, _] = (await stripe.get("invoices", subscription=at_stripe))["data"]
    await stripe.post(f"invoices/{late['id']}/pay")
    await stripe.control("forget_events")
    await reconcile(payments)
    assert (await net_of(payments, refunded.id))[-1] == 550
    assert (await net_of(payments, disputed.id))[-1] == 550
    assert await net_of(payments, late["id"]) == [300]


async def test_a_dispute_that_the_release_before_wrote_gets_its_amounts(
    payments: Payments, stripe: Sandbox
) -> None:
    """Beside this one during a deploy, it tells of the status alone."""
    checkout = await payments.points_checkout()
    await stripe.pay(checkout.url)
    intent = await stripe.intent_of(checkout.session_id)
    dispute = await stripe.control("disputes", payment_intent=intent, amount=2000)
    await stripe.control(f"disputes/{dispute['id']}", status="lost")
    with_amounts = "SELECT 1 FROM disputes WHERE id = %s AND (share_cents, lost_cents) = (2000, 2000)"
    await payments.until(with_amounts, dispute["id"])
    for left in ("share_cents = NULL, lost_cents = NULL", "lost_cents = NULL"):
        await payments.sql(f"UPDATE disputes SET {left} WHERE id = %s", dispute["id"])
        await reconcile(payments)
        assert await payments.sql(with_amounts, dispute["id"])


async def test_a_sweep_that_stops_goes_on_where_it_stopped(payments: Payments, stripe: Sandbox) -> None:
    await stripe.fault("/v1/refunds", "status", status=503, method="GET", count=1000)
    request = pb.StartReconciliationRequest(actor=f"operator-{uuid4()}")
    run_id = (await payments.operator.StartReconciliation(request)).reconciliation.id
    [stopped] = await payments.until(
        "SELECT * FROM reconciliations WHERE id = %s AND error IS NOT NULL AND swept <> '{}'", run_id
    )
    assert stopped["swept"] == {"charges": 0, "invoices": 0}
    await stripe.http.delete("/_control/faults")
    [done] = await payments.until("SELECT * FROM reconciliations WHERE id = %s AND status = 'done'", run_id)
    assert done["swept"] == dict.fromkeys(("charges", "invoices", "refunds", "disputes"), 0)


class Undone(Exception):
    """The database stays as it was."""


async def test_a_scheduled_run_reaches_back_to_the_last_one_that_was_done(database: Database) -> None:
    """As after a restore: objects have no 30 days; once a day it also looks at what was final."""
    others = "UPDATE reconciliations SET requested_by = id::text WHERE requested_by = 'schedule'"
    last = """
        INSERT INTO reconciliations (since, until, requested_by, status, started_at, finished_at)
        SELECT at, at, 'schedule', 'done', at, at FROM (SELECT now() - interval '60 days') s (at)"""
    scheduled = """
        SELECT now() - since AS back, second_look FROM reconciliations
        WHERE status = 'running' AND requested_by = 'schedule'"""

    async def look() -> None:
        async with database.worker() as connection:
            for statement in (others, last):
                await connection.execute(text(statement))
            await reconciliations.schedule_run(connection, every_seconds=3600)
            row = (await connection.execute(text(scheduled))).one()
            assert timedelta(days=60) < row.back < timedelta(days=60, minutes=11)
            assert row.second_look
            raise Undone

    with pytest.raises(Undone):
        await look()
