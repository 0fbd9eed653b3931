"""payments against the sandbox that the shop ships with: a customer on the hosted page, signed webhooks,
faults on the wire."""

import pytest

from protos.events.v1 import events_pb2
from protos.payments.v1 import payments_pb2 as pb
from tests.integration.payments.conftest import Payments
from tests.integration.payments.sandbox import AUTH, SESSIONS, sandbox_of


@pytest.fixture
def payments(sandboxed: Payments) -> Payments:
    return sandboxed


async def test_paying_on_the_hosted_page_grants_the_points_once(payments: Payments) -> None:
    checkout = await payments.points_checkout()
    assert checkout.url.startswith(payments.stripe.url)
    await sandbox_of(payments).pay(checkout.url)
    await payments.until_status(checkout.id, "paid")
    events = (await sandbox_of(payments).http.get("/v1/events", headers=AUTH)).json()["data"]
    [completed] = [event for event in events if event["data"]["object"]["id"] == checkout.session_id]
    copies = await sandbox_of(payments).http.post(f"/_control/events/{completed['id']}/deliver?copies=50")
    assert copies.json()["statuses"] == [200] * 50
    subject = "payments.points.grant_changed"
    [grant] = await payments.facts(subject, events_pb2.PointsGrantChanged, checkout.id)
    assert grant.net_points == 550


async def test_a_declined_card_leaves_the_session_open(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    http = sandbox_of(payments).http
    assert (await http.post(checkout.url, data={"action": "decline"})).status_code == 402
    assert (await payments.get(checkout.id)).status == pb.CHECKOUT_STATUS_OPEN
    await sandbox_of(payments).pay(checkout.url)
    await payments.until_status(checkout.id, "paid")


async def test_an_expired_session_ends_the_order(payments: Payments) -> None:
    checkout = await payments.order_checkout()
    assert (await payments.expire(checkout.order_id)).status == pb.CHECKOUT_STATUS_EXPIRED
    with pytest.raises(AssertionError):
        await sandbox_of(payments).pay(checkout.url)


@pytest.mark.parametrize("kind", ["timeout_after_effect", "error_after_effect"])
async def test_an_effect_without_its_answer_is_one_session(payments: Payments, kind: str) -> None:
    before = await sandbox_of(payments).count()
    await sandbox_of(payments).fault(SESSIONS, kind)
    checkout = await payments.points_checkout()
    assert checkout.status == pb.CHECKOUT_STATUS_CREATING
    await payments.until_status(checkout.id, "open")
    assert await sandbox_of(payments).count() == before + 1


async def test_busy_answers_are_waited_out(payments: Payments) -> None:
    before = await sandbox_of(payments).count()
    for status in (409, 429):
        await sandbox_of(payments).fault(SESSIONS, "status", status=status)
    checkout = await payments.points_checkout()
    assert checkout.status == pb.CHECKOUT_STATUS_OPEN
    assert await sandbox_of(payments).count() == before + 1


async def test_an_event_that_waits_for_stripe_keeps_no_other_waiting(payments: Payments) -> None:
    slow, quick = await payments.points_checkout(), await payments.points_checkout()
    stripe = sandbox_of(payments)
    await stripe.pay(slow.url)
    await payments.until_status(slow.id, "paid")
    # Payments waits 4.5 s for an answer.
    await stripe.fault("/v1/refunds", "timeout_before_effect", method="GET", delay_ms=3000)
    intent = await stripe.intent_of(slow.session_id)
    await stripe.control("webhooks", mode="hold")
    await stripe.post("refunds", payment_intent=intent)
    [refunded] = await stripe.events("charge.refunded", about=intent)
    await stripe.deliver(refunded["id"])
    await payments.until("SELECT 1 FROM stripe_events WHERE id = %s AND attempts = 1", refunded["id"])
    await stripe.control("webhooks", mode="deliver")
    await stripe.pay(quick.url)
    # Its first look is still under way.
    await payments.until(
        "SELECT 1 FROM stripe_events paid, stripe_events waiting WHERE paid.object_id = %s"
        " AND paid.status = 'processed' AND waiting.id = %s AND waiting.attempts = 1"
        " AND waiting.status = 'received' AND waiting.error IS NULL",
        quick.session_id,
        refunded["id"],
    )
    await payments.settled(refunded["id"])
